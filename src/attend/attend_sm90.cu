// attend on Hopper: the kernel's frame, how results leave, and the launch. attend_sm90_shared.cuh begins the kernel's story.
#include "attend/attend_impl.h"
#include "attend/attend_policy.h"
#include "attend/attend_sm90_feed.cuh"
#include "attend/attend_sm90_math.cuh"
#include "attend/attend_sm90_merge.cuh"
#include "core/scratch.h"
#include "device/launch.h"

namespace fathom {
namespace attend_sm90_kernel {
namespace {

/// Normalised results of a thread's two heads. The four lanes of a quad trade columns, so that each stores eight neighbours.
__device__ __forceinline__ void store_results(const Launch& launch, std::int64_t t, int first_head, int group, const HeadPair& heads,
                                              const float (&out)[2][64]) {
  const int thread = threadIdx.x % kGroup, quad = thread % 4, head = first_head + thread / 32 * 16 + thread % 32 / 4;
  const TensorView& view = launch.args.out;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int h = head + 8 * r;
    Finish finish{0.f, true};
    if (h < launch.problem.num_heads) finish = finish_head(launch, h, heads.base[r], heads.total[r]);
    bf16* row = static_cast<bf16*>(view.data) + t * view.strides[0] + h * view.strides[1] + group * 256;
#pragma unroll
    for (int block = 0; block < 8; ++block) {  // 32 columns: four groups of eight, one for each lane of the quad
      std::uint32_t mine[4], theirs[4] = {};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* at = out[block / 4] + (block % 4 * 4 + j) * 4 + 2 * r;
        mine[j] = finish.is_empty ? 0u : mma::pack_bf16x2(at[0] * finish.inverse, at[1] * finish.inverse);
      }
      // Round d: lane quad sends what belongs to lane quad ^ d and gets its own from there.
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const int to = quad ^ d;
        const std::uint32_t sent = to == 0 ? mine[0] : to == 1 ? mine[1] : to == 2 ? mine[2] : mine[3];
        const std::uint32_t came = d == 0 ? sent : __shfl_xor_sync(kAllLanes, sent, d);
        if (to == 0) theirs[0] = came;
        if (to == 1) theirs[1] = came;
        if (to == 2) theirs[2] = came;
        if (to == 3) theirs[3] = came;
      }
      if (h < launch.problem.num_heads) {
        *reinterpret_cast<uint4*>(row + 32 * block + 8 * quad) = uint4{theirs[0], theirs[1], theirs[2], theirs[3]};
      }
    }
    if (group == 0 && quad == 0 && h < launch.problem.num_heads) store_head_state(launch, t, h, heads.base[r], heads.total[r], heads.most[r]);
  }
}

__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(1024) std::uint8_t shared_bytes[];
  Shared& shared = *reinterpret_cast<Shared*>(shared_bytes);
  const int head_blocks = (launch.problem.num_heads + kHeads - 1) / kHeads;
  const std::int64_t unit = blockIdx.x, t = unit / head_blocks;
  const int first_head = static_cast<int>(unit % head_blocks) * kHeads;
  // The same in all lanes, and the compiler is to know it: descriptors live in uniform registers.
  const int role = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kGroup, 0);  // 0, 1 math; 2, 3 feed
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTiles; ++i) {
      barrier::init(&shared.tile_full[i], kFeedWarps);
      barrier::init(&shared.tile_empty[i], 2 * kGroup / 32);
    }
    for (int i = 0; i < 2; ++i) {
      barrier::init(&shared.weights_full[i], kGroup / 32);
      barrier::init(&shared.weights_empty[i], 2 * kGroup / 32);
    }
    barrier::publish_to_tensor_cores();
  }
  const Rows rows(launch, t);
  const int tiles = (rows.count() + kTileRows - 1) / kTileRows;
  const int begin = static_cast<int>(std::int64_t{tiles} * blockIdx.y / launch.splits);
  const int end = static_cast<int>(std::int64_t{tiles} * (blockIdx.y + 1) / launch.splits);
  const Range range{begin * kTileRows, min(end * kTileRows, rows.count()), end - begin};
  __syncthreads();
  if (role >= 2) {
    barrier::give_registers<56>();
    feed(shared, rows, range, __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0) - 2 * kGroup / 32);
  } else {
    barrier::take_registers<200>();
    load_queries(launch, shared, t, first_head);
    barrier::sync<1, 2 * kGroup>();
    HeadPair heads;
    float out[2][64] = {};
    attend_tiles(launch, shared, range, role, heads, out);
    close_totals(shared, role, heads);
    if (launch.splits == 1) {
      store_results(launch, t, first_head, role, heads, out);
    } else {
      keep_part(shared, role, heads, out);
      merge_cluster(launch, shared, unit, t, first_head);
    }
  }
}

static_assert(sizeof(Shared) <= 227 * 1024);

struct Pieces {
  float *sums, *states;
};
Pieces lay_out(const AttendSm90Policy& policy, Scratch& scratch) {
  const std::int64_t heads = policy.most_parts() * kHeads;
  return {scratch.take<float>(heads * kDim), scratch.take<float>(heads * 3)};
}

}  // namespace
}  // namespace attend_sm90_kernel

using namespace attend_sm90_kernel;

Reason refuses_attend_sm90(const AttendProblem& problem, const Device& device) {
  if (device.limits().compute_capability != 90) return "it needs compute capability 9.0";
  if (device.limits().shared_bytes_per_block < static_cast<int>(sizeof(Shared))) return "a block needs 227 KB of shared memory";
  return refuses_attend_sm80(problem, device);
}

Result<Prepared> prepare_attend_sm90(const AttendProblem& problem, const Device& device, const PlanOptions& options) {
  FATHOM_TRY(allow_shared_bytes("attend", device, attend_kernel, sizeof(Shared)));
  // Views that this kernel cannot read go to the other.
  FATHOM_ASSIGN(Prepared prepared, prepare_attend_sm80(problem, device, options));
  const AttendSm90Policy policy = attend_sm90_policy(problem, device.limits());
  Scratch scratch;
  lay_out(policy, scratch);
  WorkspaceSize& size = prepared.workspace;
  size.scratch = std::max(size.scratch, scratch.used());
  size.counters = std::max(size.counters, policy.most_counters() * static_cast<std::int64_t>(sizeof(int)));
  return prepared;
}

Status attend_sm90(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Launch parameters{problem, args, {}, {}, 1, 1, nullptr, nullptr, nullptr};
  FATHOM_TRY(open_launch(parameters));
  const AttendSm90Policy policy = attend_sm90_policy(problem, context.device.limits());
  const std::int64_t num_tokens = args.q.shape[0];
  const bool aligned = is_addressable(parameters, 16) && has_short_pages(parameters) && has_aligned_rows(args.q) && has_aligned_rows(args.out);
  if (!aligned) return attend_sm80(problem, args, context);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(policy, scratch);
  parameters.splits = policy.splits(num_tokens, problem.num_heads);
  const int cluster = std::min(parameters.splits, AttendSm90Policy::kMostCluster);
  parameters.parts = parameters.splits / cluster;
  parameters.sums = pieces.sums;
  parameters.states = pieces.states;
  parameters.counters = static_cast<int*>(context.workspace.counters.data);
  const auto units = static_cast<unsigned>(num_tokens * policy.head_blocks(problem.num_heads));
  const dim3 grid(units, parameters.splits);
  if (cluster == 1) return launch("attend", context, attend_kernel, grid, dim3(kThreads), sizeof(Shared), parameters);
  return launch_clusters(dim3(1, cluster), "attend", context, attend_kernel, grid, dim3(kThreads), sizeof(Shared), parameters);
}

Status attend_hopper(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  const bool is_small = is_small_for_sm90(args.q.shape[0], problem.num_heads);
  return is_small ? attend_sm80(problem, args, context) : attend_sm90(problem, args, context);
}

}  // namespace fathom
