// attend on mma.sync: the kernel's frame, the merge of split queries, and the launch. attend_sm80_kernel.cuh has the steps.
#include "attend/attend_impl.h"
#include "attend/attend_sm80_kernel.cuh"
#include "core/scratch.h"
#include "device/launch.h"

namespace fathom {
namespace attend_sm80_kernel {
namespace {

/// The last words on one head: 1 / denominator, or 0 where nothing is left of the values, whatever they are.
struct Finish {
  float inverse;
  bool is_empty;
};
__device__ Finish finish_head(const Launch& launch, std::int64_t t, int h, float most, float total) {
  const AttendArgs& args = launch.args;
  const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
  const float denominator = total + exp2f(sink * kLog2e - most);
  return {kUp / denominator, total == 0.f || denominator == kInfinity};
}
__device__ void store_head_state(const Launch& launch, std::int64_t t, int h, float most, float total) {
  const AttendArgs& args = launch.args;
  if (!args.lse.is_absent()) args.lse.row<float>(t)[h] = most * kLn2 + logf(total);
  if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[h] = most * kLn2;
}

/// Stores kCount neighbouring elements of one head's result.
template <int kCount>
__device__ void store_result(const Launch& launch, std::int64_t t, int h, int first, const float (&values)[kCount], const Finish& finish) {
  const TensorView& out = launch.args.out;
  bf16* to = static_cast<bf16*>(out.data) + t * out.strides[0] + h * out.strides[1] + first;
  std::uint32_t packed[kCount / 2];
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    packed[i] = finish.is_empty ? 0u : mma::pack_bf16x2(values[2 * i] * finish.inverse, values[2 * i + 1] * finish.inverse);
  }
  if (launch.out_is_aligned) {
    if constexpr (kCount % 8 == 0) {
#pragma unroll
      for (int i = 0; i < kCount / 8; ++i) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(packed)[i];
    } else {
      *reinterpret_cast<uint2*>(to) = uint2{packed[0], packed[1]};
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i].bits = static_cast<std::uint16_t>(packed[i / 2] >> (i % 2 * 16));
  }
}

/// A lane's 16 neighbouring elements of head m * 16 + g + 8 * half, unnormalised.
template <int kHeads>
__device__ __forceinline__ void lane_elements(const float (&out)[kHeads / 16][8][4], int m, int half, float (&values)[16]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    values[i] = out[m][i][2 * half];
    values[8 + i] = out[m][i][2 * half + 1];
  }
}

/// Leaves this split's sums and states; the block that comes last merges all of the query's, in the order of the splits.
template <int kHeads>
__device__ void merge_splits(const Launch& launch, Shared<kHeads>& shared, std::int64_t unit, std::int64_t t, int first_head,
                             const float (&out)[kHeads / 16][8][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, quad = lane % 4;
  const int splits = launch.splits;
  const std::int64_t part = unit * splits + blockIdx.y;
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
  float* states = launch.states + part * 2 * kHeads;
  if (threadIdx.x < kHeads) {
    states[threadIdx.x] = shared.most[threadIdx.x];
    states[kHeads + threadIdx.x] = shared.total[threadIdx.x];
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.is_last = atomicAdd(launch.counters + unit, 1) == splits - 1;
    if (shared.is_last) launch.counters[unit] = 0;
  }
  __syncthreads();
  if (!shared.is_last) return;
  __threadfence();
  const float* all = launch.states + unit * splits * 2 * kHeads;
  for (int h = warp; h < kHeads && first_head + h < launch.problem.num_heads; h += kWarps) {
    float most = -kInfinity;
    for (int s = 0; s < splits; ++s) most = fmaxf(most, __ldcg(all + s * 2 * kHeads + h));
    const float base = most == -kInfinity ? 0.f : most;
    float total = 0.f;
    float sums[4][4] = {};
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float weight = __ldcg(all + s * 2 * kHeads + kHeads + h);
      if (weight == 0.f) continue;  // a part that saw nothing may have left nothing
      const float factor = exp2f(__ldcg(all + s * 2 * kHeads + h) - base);
      total = fmaf(factor, weight, total);
      const auto* from = reinterpret_cast<const float4*>(launch.sums + ((unit * splits + s) * kHeads + h) * kDim) + lane;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 v = __ldcg(from + 32 * i);
        sums[i][0] = fmaf(factor, v.x, sums[i][0]);
        sums[i][1] = fmaf(factor, v.y, sums[i][1]);
        sums[i][2] = fmaf(factor, v.z, sums[i][2]);
        sums[i][3] = fmaf(factor, v.w, sums[i][3]);
      }
    }
    const Finish finish = finish_head(launch, t, first_head + h, most, total);
#pragma unroll
    for (int i = 0; i < 4; ++i) store_result<4>(launch, t, first_head + h, (lane + 32 * i) * 4, sums[i], finish);
    if (lane == 0) store_head_state(launch, t, first_head + h, most, total);
  }
}

template <int kHeads, int kChunk>
__global__ void __launch_bounds__(kThreads, 2) attend_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(128) std::uint8_t shared_bytes[];
  Shared<kHeads>& shared = *reinterpret_cast<Shared<kHeads>*>(shared_bytes);
  const int head_blocks = (launch.problem.num_heads + kHeads - 1) / kHeads;
  const std::int64_t unit = blockIdx.x, t = unit / head_blocks;
  const int first_head = static_cast<int>(unit % head_blocks) * kHeads;
  const Rows rows(launch, t);
  const int tiles = (rows.all() + kRows - 1) / kRows;
  const int begin = static_cast<int>(std::int64_t{tiles} * blockIdx.y / launch.splits);
  const int end = static_cast<int>(std::int64_t{tiles} * (blockIdx.y + 1) / launch.splits);
  const auto row_of = [&](int tile) { return tile < end ? tile * kRows + static_cast<int>(threadIdx.x) / kLoaders : rows.all(); };

  Location next = look_up(launch, rows, row_of(begin));
  const Location second = look_up(launch, rows, row_of(begin + 1));
  copy_row<kChunk>(launch, shared, 0, next);
  copy::commit();
  copy_row<kChunk>(launch, shared, 1, second);
  copy::commit();
  next = look_up(launch, rows, row_of(begin + 2));
  std::uint32_t q[kHeads / 16][4][4];
  load_queries<kHeads>(launch, t, first_head, q);
  float out[kHeads / 16][8][4] = {};
  Softmax state;
  if (threadIdx.x == 0) shared.rescale[0] = shared.rescale[1] = 0;
  copy::wait<1>();
  __syncthreads();
  if (begin < end) partial_logits<kHeads>(shared, 0, q);
  const float scale_log2 = launch.problem.softmax_scale * kLog2e * kUp;

  int stage = 0;
  for (int tile = begin; tile < end; ++tile) {
    const int after = stage == kStages - 1 ? 0 : stage + 1, free = after == kStages - 1 ? 0 : after + 1;
    const int parity = (tile - begin) & 1;
    __syncthreads();  // the tile's logits are whole; the stage of the tile before, its weights and its flag are free
    copy_row<kChunk>(launch, shared, free, next);
    copy::commit();
    next = look_up(launch, rows, row_of(tile + 3));
    soften<kHeads>(shared, stage, scale_log2, state, shared.rescale[parity]);
    copy::wait<1>();
    __syncthreads();  // the weights are there, the logits used up; the next tile's rows have come
    const bool rescale = shared.rescale[parity] != 0;
    if (threadIdx.x == 0) shared.rescale[parity ^ 1] = 0;
    if (tile + 1 < end) partial_logits<kHeads>(shared, after, q);
    add_values<kHeads>(shared, stage, rescale, out);
    stage = after;
  }
  copy::wait<0>();
#pragma unroll
  for (int d = 1; d < 8; d *= 2) state.total += __shfl_xor_sync(kAllLanes, state.total, d);
  if (threadIdx.x / 8 < kHeads && threadIdx.x % 8 == 0) {
    shared.most[threadIdx.x / 8] = state.most;
    shared.total[threadIdx.x / 8] = state.total;
  }
  __syncthreads();
  if (launch.splits > 1) return merge_splits<kHeads>(launch, shared, unit, t, first_head, out);

  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < kHeads / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = m * 16 + g + 8 * half;
      if (first_head + h >= launch.problem.num_heads) continue;
      const Finish finish = finish_head(launch, t, first_head + h, shared.most[h], shared.total[h]);
      float values[16];
      lane_elements<kHeads>(out, m, half, values);
      store_result<16>(launch, t, first_head + h, warp * kBlockDim + quad * 16, values, finish);
      if (warp == 0 && quad == 0) store_head_state(launch, t, first_head + h, shared.most[h], shared.total[h]);
    }
  }
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
  return {scratch.take<float>(parts * kDim), scratch.take<float>(parts * 2)};
}

bool is_aligned(const TensorView& view, std::int64_t elements) {
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.strides[0] % elements == 0 && view.strides[1] % elements == 0;
}
/// Bytes that every row and page of both caches is aligned to, at most 16.
int alignment_of(const PagedCacheView (&caches)[2]) {
  std::uintptr_t bits = 16;
  for (const PagedCacheView& cache : caches) bits |= reinterpret_cast<std::uintptr_t>(cache.pages) | static_cast<std::uintptr_t>(cache.page_stride);
  return static_cast<int>(bits & (~bits + 1));
}

}  // namespace
}  // namespace attend_sm80_kernel

using namespace attend_sm80_kernel;

Reason refuses_attend_sm80(const AttendProblem& problem, const Device& device) {
  if (problem.q_dtype != DType::bf16 || problem.out_dtype != DType::bf16) return "q and out must be bf16";
  if (problem.head_dim != kDim || problem.value_dim != kDim) return "head_dim and value_dim must be 512";
  for (const RowSetProblem& set : {window_set(problem), entries_set(problem)}) {
    if (set.rows_by != RowsBy::none && set.format != CacheFormat::kv_e4m3_ue8m0) return std::string("it reads no ") + name_of(set.format);
  }
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
  Launch parameters{problem, args, {}, 1, false, false, nullptr, nullptr, nullptr};
  FATHOM_TRY(open_caches(problem, args, parameters.caches));
  const int alignment = alignment_of(parameters.caches);
  if (alignment < 8) return attend_simt(problem, args, context);
  const AttendSm80Policy policy = attend_sm80_policy(problem, context.device.limits());
  const std::int64_t num_tokens = args.q.shape[0], units = num_tokens * policy.head_blocks(problem.num_heads);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, policy, scratch);
  parameters.splits = policy.splits(num_tokens, problem.num_heads);
  parameters.q_is_aligned = is_aligned(args.q, 8);
  parameters.out_is_aligned = is_aligned(args.out, 8);
  parameters.sums = pieces.sums;
  parameters.states = pieces.states;
  parameters.counters = static_cast<int*>(context.workspace.counters.data);
  const auto start = [&](auto* kernel, std::size_t shared_bytes) {
    return launch("attend", context, kernel, dim3(static_cast<unsigned>(units), parameters.splits), dim3(kThreads), shared_bytes, parameters);
  };
  if (policy.heads_per_block == 16) {
    return alignment == 16 ? start(attend_kernel<16, 16>, shared_bytes_of<16>()) : start(attend_kernel<16, 8>, shared_bytes_of<16>());
  }
  return alignment == 16 ? start(attend_kernel<32, 16>, shared_bytes_of<32>()) : start(attend_kernel<32, 8>, shared_bytes_of<32>());
}

}  // namespace fathom
