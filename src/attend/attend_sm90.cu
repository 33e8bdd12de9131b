// attend on Hopper: the kernel's frame, how results leave, and the launch. attend_sm90_shared.cuh begins the kernel's
// story.
#include <array>
#include <atomic>

#include "attend/attend_impl.h"
#include "attend/attend_policy.h"
#include "attend/attend_sm90_feed.cuh"
#include "attend/attend_sm90_forms.cuh"
#include "attend/attend_sm90_math.cuh"
#include "attend/attend_sm90_merge.cuh"
#include "core/scratch.h"
#include "device/early_launch.cuh"
#include "device/launch.h"

namespace fathom {
namespace attend_sm90_kernel {
namespace {

/// Byte of 16-byte chunk `chunk` of head h's result while it waits where the queries were.
__device__ __forceinline__ int result_at(int h, int chunk) { return h * kDim * 2 + ((chunk ^ (h & 7)) << 4); }

/// Normalised results of the block's heads, into shared memory, so that whole rows leave.
__device__ __forceinline__ void stage_results(const Launch& launch, Shared& shared, const Unit& unit, int group,
                                              const HeadPair& heads, const float (&out)[2][64]) {
  const int thread = threadIdx.x % kGroup, lane = thread % 32, head = thread / 32 * 16 + lane / 4;
  const bool is_zero = shared.is_zero, turns = launch.problem.out_form != OutForm::plain && !is_zero;
  float inverse[2];
  bool is_empty[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int h = head + 8 * r;
    const Finish finish = finish_head(shared.sinks[h], heads.base[r], heads.total[r]);
    inverse[r] = finish.inverse;
    is_empty[r] = finish.is_empty || is_zero;
    if (group == 0 && lane % 4 == 0 && h < unit.num_heads) {
      store_head_state(launch, unit.t, unit.first_head + h, heads.base[r], heads.total[r], heads.most[r]);
    }
  }
  const int at = result_at(thread / 32 * 16 + lane % 16, group * 32 + lane / 16);
#pragma unroll
  for (int j = 0; j < 32; j += 2) {
    std::uint32_t w[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* from = out[j / 16] + (j % 16 + i) * 4 + 2 * r;
        w[i][r] = is_empty[r] ? 0u : mma::pack_bf16x2(from[0] * inverse[r], from[1] * inverse[r]);
        if (turns && is_rotary(group, j)) w[i][r] = turned_back(shared, w[i][r], (j - 24 + i) * 4 + lane % 4);
      }
    }
    mma::store_matrix_x4(shared.q + (at ^ j << 4), w[0][0], w[0][1], w[1][0], w[1][1]);
  }
}
/// Sends them, back in the caller's order of elements.
__device__ __forceinline__ void send_results(const Launch& launch, const Shared& shared, const Unit& unit) {
  if (launch.problem.out_form == OutForm::e4m3) {
    return send_codes(launch, unit, [&](int h, int chunk) {
      return in_tile_order(*reinterpret_cast<const uint4*>(shared.q + result_at(h, chunk)), chunk);
    });
  }
  const int chunk = threadIdx.x % kQueryChunks, first = threadIdx.x / kQueryChunks;
  const TensorView& view = launch.args.out;
  bf16* const to = static_cast<bf16*>(view.data) + unit.t * view.strides[0] +
                   (unit.first_head + first) * view.strides[1] + chunk * 8;
#pragma unroll 4
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = first + i * kQueryStep;
    if (h >= unit.num_heads) break;
    *reinterpret_cast<uint4*>(to + i * kQueryStep * view.strides[1]) =
        in_tile_order(*reinterpret_cast<const uint4*>(shared.q + result_at(h, chunk)), chunk);
  }
}

/// The work of math group `group`. While results leave, the next unit's queries are already on their way.
__device__ __forceinline__ void calculate(const Launch& launch, Shared& shared, int group) {
  Unit unit(launch, blockIdx.x);
  Fetched fetched = fetch(launch, unit);
  int base = 0, tiles = Range(launch, Rows(launch, unit.t)).tiles;
#pragma unroll 1
  while (true) {
    keep(launch, shared, fetched);
    if (threadIdx.x < kHeads) {
      shared.sinks[threadIdx.x] =
          static_cast<int>(threadIdx.x) < unit.num_heads ? sink_of(launch, unit.first_head + threadIdx.x) : -kInfinity;
    }
    barrier::sync<1, 2 * kGroup>();
    HeadPair heads;
    float out[2][64];
    clear(out);
    attend_tiles(launch, shared, base, base + tiles, group, heads, out);
    close_totals(shared, group, heads);
    if (launch.splits > 1) {  // then a block has one unit
      keep_part(shared, unit.num_heads, group, heads, out);
      return merge_cluster(launch, shared, unit);
    }
    stage_results(launch, shared, unit, group, heads, out);
    const std::int64_t next = unit.number + gridDim.x;
    if (next >= launch.units) break;
    const Unit after(launch, next);
    fetched = fetch(launch, after);
    base += tiles;
    tiles = Range(launch, Rows(launch, after.t)).tiles;
    barrier::sync<1, 2 * kGroup>();
    send_results(launch, shared, unit);
    unit = after;
    barrier::sync<1, 2 * kGroup>();  // the results have left shared memory
  }
  barrier::sync<1, 2 * kGroup>();
  send_results(launch, shared, unit);
}

__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(1024) std::uint8_t shared_bytes[];
  Shared& shared = *reinterpret_cast<Shared*>(shared_bytes);
  // The same in all lanes, and the compiler is to know it: descriptors live in uniform registers.
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0),
            role = warp * 32 / kGroup;  // 0, 1 math; 2, 3 feed
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTiles; ++i) {
      barrier::init(&shared.tile_full[i], kFeedWarps);
      barrier::init(&shared.tile_empty[i], 2 * kGroup / 32 * barrier::kArrivalsOfWarp);
    }
    for (int i = 0; i < 2; ++i) {
      barrier::init(&shared.weights_full[i], kGroup / 4);
      barrier::init(&shared.weights_empty[i], kGroup / 32 * barrier::kArrivalsOfWarp);  // of the other group
    }
    barrier::publish_to_tensor_cores();
  }
  let_next_launch_begin();
  wait_for_launch_before();
  __syncthreads();
  if (role >= 2) {
    barrier::give_registers<64>();
    feed(launch, shared, role - 2, warp % (kGroup / 32));
  } else {
    barrier::take_registers<192>();
    calculate(launch, shared, role);
  }
}

static_assert(sizeof(Shared) <= 227 * 1024);

/// Clusters that a device holds at once. How its multiprocessors are grouped differs from one H100 to the next; it is
/// asked when planning, and remembered, because a run must know it too.
class KnownRooms {
 public:
  Status learn(const Device& device) noexcept {
    Room* room = room_of(device);
    if (room == nullptr || room->is_known.load(std::memory_order_acquire)) return {};
    const DeviceGuard guard(device.index());
    FATHOM_TRY(guard.status());
    for (int size = 1; size <= AttendSm90Policy::kMostCluster; ++size) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = 1;
      attribute.val.clusterDim.y = static_cast<unsigned>(size);
      attribute.val.clusterDim.z = 1;
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(1024, static_cast<unsigned>(size));
      config.blockDim = dim3(kThreads);
      config.dynamicSmemBytes = sizeof(Shared);
      config.attrs = &attribute;
      config.numAttrs = 1;
      int clusters = 0;
      FATHOM_CUDA_TRY("attend", cudaOccupancyMaxActiveClusters(&clusters, attend_kernel, &config));
      room->clusters[size].store(clusters, std::memory_order_relaxed);
    }
    room->is_known.store(true, std::memory_order_release);
    return {};
  }
  /// Of a device that nobody asked: single blocks only.
  ClusterRoom of(const Device& device) noexcept {
    ClusterRoom clusters{};
    clusters[1] = device.limits().num_multiprocessors;
    const Room* room = room_of(device);
    if (room == nullptr || !room->is_known.load(std::memory_order_acquire)) return clusters;
    for (int size = 2; size <= AttendSm90Policy::kMostCluster; ++size)
      clusters[size] = room->clusters[size].load(std::memory_order_relaxed);
    return clusters;
  }

 private:
  struct Room {
    std::atomic<bool> is_known{false};
    std::atomic<int> clusters[AttendSm90Policy::kMostCluster + 1]{};
  };
  Room* room_of(const Device& device) noexcept {
    return device.index() < static_cast<int>(rooms_.size()) ? &rooms_[device.index()] : nullptr;
  }
  std::array<Room, 64> rooms_;
};
KnownRooms known_rooms;

struct Pieces {
  float *sums, *states;
};
Pieces lay_out(std::int64_t parts, Scratch& scratch) {
  return {scratch.take<float>(parts * kHeads * kDim), scratch.take<float>(parts * kHeads * 3)};
}

}  // namespace
}  // namespace attend_sm90_kernel

using namespace attend_sm90_kernel;

Reason refuses_attend_sm90(const AttendProblem& problem, const Device& device) {
  if (device.limits().compute_capability != 90) return "it needs compute capability 9.0";
  if (device.limits().shared_bytes_per_block < static_cast<int>(sizeof(Shared)))
    return "a block needs 227 KB of shared memory";
  return refuses_attend_sm80(problem, device);
}

Result<Prepared> prepare_attend_sm90(const AttendProblem& problem, const Device& device, const PlanOptions& options) {
  FATHOM_TRY(allow_shared_bytes("attend", device, attend_kernel, sizeof(Shared)));
  FATHOM_TRY(known_rooms.learn(device));
  // Views that this kernel cannot read go to the other.
  FATHOM_ASSIGN(Prepared prepared, prepare_attend_sm80(problem, device, options));
  const AttendSm90Policy policy = attend_sm90_policy(problem, known_rooms.of(device));
  const int cluster = fixed_pieces(policy.tiles);
  if (problem.split == Split::fixed && policy.room[cluster] == 0)
    return Status::unsupported(
        "attend: cuda:sm90 needs clusters of %d blocks for split=fixed, and the device has no room for one", cluster);
  const AttendSm90Policy::Most most = policy.most(problem.num_tokens, problem.num_heads);
  Scratch scratch;
  lay_out(most.parts, scratch);
  WorkspaceSize& size = prepared.workspace;
  size.scratch = std::max(size.scratch, scratch.used());
  size.counters = std::max(size.counters, most.counters * static_cast<std::int64_t>(sizeof(int)));
  return prepared;
}

Status attend_sm90(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Launch parameters{problem, args, {}, {}, 0, 0, 0, 1, 1, nullptr, nullptr, nullptr};
  FATHOM_TRY(open_launch(parameters));
  const std::int64_t num_tokens = args.q.shape[0];
  const bool aligned = is_addressable(parameters, 16) && has_short_pages(parameters) && has_aligned_rows(args.q) &&
                       has_aligned_rows(args.out) && has_whole_queries(problem, args) &&
                       (args.rope_table.is_absent() || has_wide_rows(args.rope_table));
  if (!aligned) return attend_sm80(problem, args, context);
  const AttendSm90Policy policy = attend_sm90_policy(problem, known_rooms.of(context.device));
  const AttendSm90Policy::Cut cut = policy.cut(num_tokens, problem.num_heads);
  const std::int64_t units = num_tokens * cut.head_blocks(problem.num_heads);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(cut.parts > 1 ? units * cut.parts : 0, scratch);
  parameters.units = units;
  parameters.heads = cut.heads;
  parameters.splits = cut.cluster * cut.parts;
  parameters.parts = cut.parts;
  parameters.sums = pieces.sums;
  parameters.states = pieces.states;
  parameters.counters = static_cast<int*>(context.workspace.counters.data);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = 1;
  attributes[1].val.clusterDim.y = static_cast<unsigned>(cut.cluster);
  attributes[1].val.clusterDim.z = 1;
  const std::int64_t columns =
      parameters.splits > 1 ? units : std::min<std::int64_t>(units, context.device.limits().num_multiprocessors);
  return launch_with(attributes, 2, "attend", context, attend_kernel,
                     dim3(static_cast<unsigned>(columns), parameters.splits), dim3(kThreads), sizeof(Shared),
                     parameters);
}

}  // namespace fathom
