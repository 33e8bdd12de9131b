// attend on mma.sync: the kernel's frame, the merge of split queries, and the launch. attend_sm80_kernel.cuh has the steps.
#include "attend/attend_impl.h"
#include "attend/attend_sm80_kernel.cuh"
#include "core/scratch.h"
#include "device/launch.h"

namespace fathom {
namespace attend_sm80_kernel {
namespace {

/// A lane's 16 neighbouring elements of head m * 16 + g + 8 * half, unnormalised.
template <int kHeads>
__device__ __forceinline__ void lane_elements(const float (&out)[kHeads / 16][8][4], int m, int half, float (&values)[16]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    values[i] = out[m][i][2 * half];
    values[8 + i] = out[m][i][2 * half + 1];
  }
}

/// Leaves this split's sums and states (`unit` is the launch's own number); the block that comes last merges all of the
/// query's, in the order of the splits.
template <int kHeads>
__device__ void merge_splits(const Launch& launch, Shared<kHeads>& shared, std::int64_t unit, std::int64_t t, int first_head,
                             const float (&out)[kHeads / 16][8][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, quad = lane % 4;
  const std::int64_t part = unit * launch.splits + blockIdx.y;
#pragma unroll
  for (int m = 0; m < kHeads / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = m * 16 + g + 8 * half;
      if (first_head + h >= launch.problem.num_heads) continue;
      float values[16];
      lane_elements<kHeads>(out, m, half, values);
      auto* to = reinterpret_cast<float4*>(launch.sums + (part * kHeads + h) * kDim + warp * kBlockDim + quad * 16);
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = float4{values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]};
    }
  }
  float* states = launch.states + part * 3 * kHeads;
  if (threadIdx.x < kHeads) {
    states[threadIdx.x] = shared.base[threadIdx.x];
    states[kHeads + threadIdx.x] = shared.total[threadIdx.x];
    states[2 * kHeads + threadIdx.x] = shared.most[threadIdx.x];
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // the block's stores, ordered before it by the barrier, are seen by whoever sees the count
    shared.is_last = atomicAdd(launch.counters + unit, 1) == launch.splits - 1;
    if (shared.is_last) launch.counters[unit] = 0;
    __threadfence();
  }
  __syncthreads();
  if (!shared.is_last) return;
  merge_parts<kHeads>(launch, unit, t, first_head, warp, kWarps, kUp);
}

/// The results of a query that was not split.
template <int kHeads>
__device__ __forceinline__ void store_heads(const Launch& launch, Shared<kHeads>& shared, std::int64_t t,
                                            int first_head, const float (&out)[kHeads / 16][8][4]) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const int first = warp * kBlockDim + quad * 16;
  const Turn turn = turn_of_result(launch, t);
  const auto is_there = [&](int h) { return first_head + h < launch.problem.num_heads; };
  // Calls work(h, pairs) for each of the thread's heads, with its 16 elements from `first` on.
  const auto for_each_head = [&](const auto& work) {
#pragma unroll
    for (int m = 0; m < kHeads / 16; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int h = m * 16 + g + 8 * half;
        const float sink = is_there(h) ? sink_of(launch, first_head + h) : -kInfinity;
        Finish finish = finish_head(sink, shared.base[h], shared.total[h]);
        finish.inverse *= kUp;
        float values[16];
        lane_elements<kHeads>(out, m, half, values);
        std::uint32_t pairs[8];
        finish_result(turn, first, values, finish, pairs);
        work(h, pairs);
      }
    }
  };
  if (warp == 0 && quad == 0) {
    for (int h = g; h < kHeads; h += 8) {
      if (is_there(h)) store_head_state(launch, t, first_head + h, shared.base[h], shared.total[h], shared.most[h]);
    }
  }
  if (launch.problem.out_form != OutForm::e4m3) {
    return for_each_head([&](int h, const auto& pairs) {
      if (is_there(h)) store_pairs(launch, t, first_head + h, first, pairs);
    });
  }
  // Two warps share a block of codes: each says what the largest of its half is.
  static_assert(kOutScaleBlock == 2 * kBlockDim);
  float* const largest = shared.logits[0];  // [kWarps][kHeads]; the logits are used up
  for_each_head([&](int h, const auto& pairs) {
    float mine = largest_of_pairs(pairs);
    mine = fmaxf(mine, __shfl_xor_sync(kAllLanes, mine, 1));
    mine = fmaxf(mine, __shfl_xor_sync(kAllLanes, mine, 2));
    if (quad == 0) largest[warp * kHeads + h] = mine;
  });
  __syncthreads();
  for_each_head([&](int h, const auto& pairs) {
    if (!is_there(h)) return;
    store_codes(launch, t, first_head + h, first, pairs,
                fmaxf(largest[warp * kHeads + h], largest[(warp ^ 1) * kHeads + h]));
  });
}

/// Keeps the address of the lane's row of a tile.
template <int kHeads>
__device__ __forceinline__ void keep(Shared<kHeads>& shared, int slot, const RowAddress& address) {
  const std::uint32_t present = __ballot_sync(kAllLanes, address.row != nullptr);
  shared.rows[slot][threadIdx.x % 32] = address;
  if (threadIdx.x % 32 == 0) shared.present[slot] = present;
}

template <int kHeads, int kChunk>
__global__ void __launch_bounds__(kThreads, 2) attend_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(128) std::uint8_t shared_bytes[];
  Shared<kHeads>& shared = *reinterpret_cast<Shared<kHeads>*>(shared_bytes);
  const int head_blocks = (launch.problem.num_heads + kHeads - 1) / kHeads;
  const std::int64_t unit = launch.first_unit + blockIdx.x, t = unit / head_blocks;
  const int first_head = static_cast<int>(unit % head_blocks) * kHeads;
  const Rows rows(launch, t);
  const TileShare share = share_of((rows.count() + kRows - 1) / kRows, blockIdx.y, launch.splits, launch.problem.split);
  const int begin = share.begin, end = share.end;
  // The rotary block's warp has the least to decode: it looks up the rows, its lane's row of every tile.
  const bool is_rotary = threadIdx.x / 32 == kWarps - 1;
  const int lane = threadIdx.x % 32;
  const auto row_of = [&](int tile) { return tile < end ? tile * kRows + lane : rows.count(); };
  std::int32_t number = -1;  // of the tile whose address comes next
  if (is_rotary) {
    const std::int32_t first = rows.number(row_of(begin)), second = rows.number(row_of(begin + 1)), third = rows.number(row_of(begin + 2));
    number = rows.number(row_of(begin + 3));
    keep(shared, 0, rows.address(row_of(begin), first));
    keep(shared, 1, rows.address(row_of(begin + 1), second));
    keep(shared, 2, rows.address(row_of(begin + 2), third));
  }
  if (threadIdx.x == 0) shared.rescale[0] = shared.rescale[1] = 0;
  __syncthreads();
  copy_tile<kChunk>(shared, 0, 0);
  copy::commit();
  copy_tile<kChunk>(shared, 1, 1);
  copy::commit();
  std::uint32_t q[kHeads / 16][4][4];
  if (launch.problem.q_form == QForm::raw) {
    load_raw_queries<kHeads>(launch, shared, t, first_head, q);
  } else {
    load_queries<kHeads>(launch, t, first_head, q);
  }
  float out[kHeads / 16][8][4] = {};
  Softmax state;
  copy::wait<1>();
  __syncthreads();
  if (begin < end) {
    if (is_rotary) {
      partial_logits<kHeads, true>(shared, 0, q);
    } else {
      partial_logits<kHeads, false>(shared, 0, q);
    }
  }
  const float scale_log2 = launch.problem.softmax_scale * kLog2e * kUp;

  int stage = 0;
  for (int tile = begin; tile < end; ++tile) {
    const int after = stage == kStages - 1 ? 0 : stage + 1, free = after == kStages - 1 ? 0 : after + 1;
    const int step = tile - begin, parity = step & 1;
    __syncthreads();  // the tile's logits are whole; the stage of the tile before, its weights and its flag are free
    copy_tile<kChunk>(shared, free, (step + 2) % kAddresses);
    copy::commit();
    soften<kHeads>(shared, step % kAddresses, scale_log2, state, shared.rescale[parity]);
    copy::wait<1>();
    __syncthreads();  // the weights are there, the logits used up; the next tile's rows have come
    const bool rescale = shared.rescale[parity] != 0;
    if (threadIdx.x == 0) shared.rescale[parity ^ 1] = 0;
    if (is_rotary) {
      keep(shared, (step + 3) % kAddresses, rows.address(row_of(tile + 3), number));
      number = rows.number(row_of(tile + 4));
      if (tile + 1 < end) partial_logits<kHeads, true>(shared, after, q);
      add_values<kHeads, true>(shared, stage, rescale, out);
    } else {
      if (tile + 1 < end) partial_logits<kHeads, false>(shared, after, q);
      add_values<kHeads, false>(shared, stage, rescale, out);
    }
    stage = after;
  }
  copy::wait<0>();
#pragma unroll
  for (int d = 1; d < 8; d *= 2) state.total += __shfl_xor_sync(kAllLanes, state.total, d);
  if (threadIdx.x / 8 < kHeads && threadIdx.x % 8 == 0) {
    shared.base[threadIdx.x / 8] = state.base;
    shared.most[threadIdx.x / 8] = state.most;
    shared.total[threadIdx.x / 8] = state.total;
  }
  __syncthreads();
  if (launch.splits > 1) return merge_splits<kHeads>(launch, shared, blockIdx.x, t, first_head, out);

  store_heads<kHeads>(launch, shared, t, first_head, out);
}

template <int kHeads>
constexpr std::size_t shared_bytes_of() {
  return sizeof(Shared<kHeads>);
}
static_assert(shared_bytes_of<32>() <= 99 * 1024, "sm_86, sm_89 and sm_120 give a block 99 KB");

struct Pieces {
  float *sums, *states;
};
Pieces lay_out(const AttendProblem& problem, const AttendSm80Policy& policy, Scratch& scratch) {
  const std::int64_t parts = policy.most_parts(problem.num_tokens, problem.num_heads) * policy.heads_per_block;
  return {scratch.take<float>(parts * kDim), scratch.take<float>(parts * 3)};
}

}  // namespace
}  // namespace attend_sm80_kernel

using namespace attend_sm80_kernel;

Reason refuses_attend_sm80(const AttendProblem& problem, const Device& device) {
  const bool is_e4m3 = problem.out_form == OutForm::e4m3;  // as out_dtype then is
  if (problem.q_dtype != DType::bf16 || (problem.out_dtype != DType::bf16 && !is_e4m3)) return "q and out must be bf16";
  if (problem.head_dim != kDim || problem.value_dim != kDim) return "head_dim and value_dim must be 512";
  for (const RowSetProblem& set : {window_set(problem), entries_set(problem)}) {
    if (set.rows_by != RowsBy::none && set.format != CacheFormat::kv_e4m3_ue8m0) return std::string("it reads no ") + name_of(set.format);
  }
  if ((problem.q_form == QForm::raw || problem.out_form != OutForm::plain) && problem.rope_dim != kRotary)
    return "rope_dim must be 64";
  if (device.limits().shared_bytes_per_block < static_cast<int>(shared_bytes_of<32>())) return "a block needs 99 KB of shared memory";
  return {};
}

Result<Prepared> prepare_attend_sm80(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  FATHOM_TRY(allow_shared_bytes("attend", device, attend_kernel<16, 16>, shared_bytes_of<16>()));
  FATHOM_TRY(allow_shared_bytes("attend", device, attend_kernel<32, 16>, shared_bytes_of<32>()));
  FATHOM_TRY(allow_shared_bytes("attend", device, attend_kernel<16, 8>, shared_bytes_of<16>()));
  FATHOM_TRY(allow_shared_bytes("attend", device, attend_kernel<32, 8>, shared_bytes_of<32>()));
  const AttendSm80Policy policy = attend_sm80_policy(problem, device.limits());
  Scratch scratch;
  lay_out(problem, policy, scratch);
  const std::int64_t units = policy.most_split_units(problem.num_tokens, problem.num_heads);
  return Prepared{{.scratch = scratch.used(), .counters = units * static_cast<std::int64_t>(sizeof(int))}};
}

Status attend_sm80(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Launch parameters{problem, args, {}, {}, 0, 0, 0, 1, 1, nullptr, nullptr, nullptr};
  FATHOM_TRY(open_launch(parameters));
  if (!is_addressable(parameters, 8) || !has_aligned_rows(args.q) || !has_aligned_rows(args.out) ||
      !has_whole_queries(problem, args))
    return attend_simt(problem, args, context);
  const bool in_sixteens = is_addressable(parameters, 16);
  const AttendSm80Policy policy = attend_sm80_policy(problem, context.device.limits());
  const std::int64_t num_tokens = args.q.shape[0], units = num_tokens * policy.head_blocks(problem.num_heads);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, policy, scratch);
  parameters.units = units;
  parameters.heads = policy.heads_per_block;
  parameters.splits = parameters.parts = policy.splits(num_tokens, problem.num_heads);
  parameters.sums = pieces.sums;
  parameters.states = pieces.states;
  parameters.counters = static_cast<int*>(context.workspace.counters.data);
  const auto start = [&](auto* kernel, std::size_t shared_bytes) -> Status {
    const std::int64_t at_a_time = policy.units_of_launch(units);
    for (std::int64_t& first = parameters.first_unit; first < units; first += at_a_time) {
      const auto count = static_cast<unsigned>(std::min(at_a_time, units - first));
      FATHOM_TRY(
          launch("attend", context, kernel, dim3(count, parameters.splits), dim3(kThreads), shared_bytes, parameters));
    }
    return {};
  };
  if (policy.heads_per_block == 16) {
    return in_sixteens ? start(attend_kernel<16, 16>, shared_bytes_of<16>()) : start(attend_kernel<16, 8>, shared_bytes_of<16>());
  }
  return in_sixteens ? start(attend_kernel<32, 16>, shared_bytes_of<32>()) : start(attend_kernel<32, 8>, shared_bytes_of<32>());
}

}  // namespace fathom
