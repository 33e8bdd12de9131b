// compress on CUDA: both products into one scratch row per token (the layout of a state row, score without ape), a
// kernel that pools every closing group, and then one that stores the state rows: a ring of them may wrap within one
// call, so that every row has to be read before any is written. One implementation serves both numerics: the products
// are linear's.
#include "compress/compress_impl.h"
#include "compress/compress_policy.h"
#include "core/scratch.h"
#include "device/last_arriver.cuh"
#include "device/launch.h"
#include "device/warp_rows.cuh"
#include "linear/linear_problem.h"

namespace fathom {
namespace {

constexpr int kChunk = 128;       ///< pooled rows whose addresses are kept at a time
constexpr int kFastRopeDim = 64;  ///< most that the fast ends keep
constexpr int kStoreThreads = 256;

struct Pieces {
  float* rows;    ///< [num_tokens, 2 * width]: kv, then score without ape
  float* pooled;  ///< [num_tokens, dim]: entries whose slices meet; none where a block pools a whole entry
  Workspace linear;
};

Pieces lay_out(const CompressProblem& problem, const LinearPlan& product, Scratch& scratch, const Workspace& outer) {
  Pieces pieces;
  pieces.rows = scratch.take<float>(problem.num_tokens * 2 * problem.width());
  pieces.pooled =
      scratch.take<float>(pool_policy(problem).slices > 1 ? std::int64_t{problem.num_tokens} * problem.dim : 0);
  pieces.linear = scratch.take_workspace(largest({&product}), outer);
  return pieces;
}

/// Who norms and stores a pooled entry: one warp, if it is 512 bf16 values for kv_e4m3_ue8m0 or 128 for a quantised
/// index key; else the block.
enum class Finish : std::uint8_t { by_block, kv_row, index_key };

/// What both kernels read beside the arguments.
struct Step {
  PagedCacheView cache, state;
  float* rows;
  float* pooled;
  std::int32_t* arrived;  ///< [num_tokens]: slices of the token's entry that are pooled
  PoolPolicy policy;
  Finish finish;
  float hadamard_factor;
};

/// The half of a row that an entry pools: the group before gives its carry half, the closing group its own half. Null
/// where there is no row.
struct PooledRow {
  const float* kv;   ///< the score lies `width` behind
  std::int64_t ape;  ///< element of ape that its score lacks, as rows of this call do; -1: those of the state hold it
};

/// Row `i` of the entry that token t closes at `position`, from this call if the token before t stands there. The
/// state's page is asked for meanwhile.
__device__ PooledRow find_row(const CompressProblem& problem, const CompressArgs& args, const Step& step, int i,
                              std::int64_t t, int position, int seq) {
  const int back = static_cast<int>(problem.state_tokens()) - 1 - i, at = position - back;
  if (at < 0) return {};
  const std::int64_t token = t - back;
  const TensorView& table = args.state_block_table;
  const unsigned page = static_cast<unsigned>(at) / problem.state_page_size,
                 offset = at - page * problem.state_page_size;
  std::int64_t page_id = -1;
  if (seq >= 0 && seq < table.shape[0] && page < table.shape[1]) page_id = table.row<const std::int32_t>(seq)[page];
  const int first = problem.overlap != 0 && i >= problem.ratio ? problem.dim : 0;
  if (token >= 0 && args.seq_ids.at<std::int32_t>(token) == seq && args.positions.at<std::int32_t>(token) == at) {
    return {step.rows + token * 2 * problem.width() + first, i % problem.ratio * args.ape.strides[0] + first};
  }
  if (page_id < 0 || page_id >= step.state.num_pages) return {};
  const std::byte* row =
      step.state.pages + page_id * step.state.page_stride + std::int64_t{offset} * step.state.layout.row_bytes;
  return {reinterpret_cast<const float*>(row) + first, -1};
}

/// e^x with a relative error of about 2^-22 + |x| 2^-24: a weight's share of an entry is never more than that weight.
__device__ float weight_of(float x) { return __expf(x); }

/// A channel's softmax so far: weights are relative to `most`, which is left out while it is -inf.
struct Pool {
  float most = -kInfinity, sum = 0, entry = 0;

  /// Makes room for scores up to `score`.
  __device__ void raise(float score) {
    if (!(score > most)) return;
    const float factor = weight_of(most - score);  // 0 from -inf
    sum *= factor;
    entry *= factor;
    most = score;
  }
  __device__ float base() const { return most == -kInfinity ? 0.0f : most; }
  __device__ void add(float score, float kv) {
    const float weight = weight_of(score - base());
    sum += weight;
    entry = fmaf(weight, kv, entry);
  }
};

/// What a block of the pooling kernel shares.
struct Shared {
  PooledRow found[kChunk];
  Pool pools[kPoolThreads];
  float partials[32];
  alignas(16) float norm[kWarpRow], rope[kFastRopeDim];  ///< for the fast ends, which read four at once
  std::int64_t slots[kMostTokensOfABlock];
  std::int32_t positions[kMostTokensOfABlock], seqs[kMostTokensOfABlock];
  unsigned closing;  ///< a bit per token of the block
  bool is_last;
};

/// Everything behind the pooling, on one entry in shared memory: norm, rotation, Hadamard, quantisation.
__device__ void finish_by_block(const CompressProblem& problem, const CompressArgs& args, const Step& step,
                                std::int64_t position, std::int64_t slot, float* entry, float* partials) {
  const int dim = problem.dim;
  const DType activation = activation_dtype(problem.numerics);
  float sum = 0;
  for (int c = threadIdx.x; c < dim; c += blockDim.x) {
    entry[c] = rounded(entry[c], activation);
    sum = fmaf(entry[c], entry[c], sum);
  }
  const float s = inverse_rms(block_sum(sum, partials), dim, problem.norm_eps);
  for (int c = threadIdx.x; c < dim; c += blockDim.x)
    entry[c] = rounded(load_element(args.norm, c) * (entry[c] * s), activation);
  __syncthreads();
  rotate_by_block(entry, dim, problem.rope_dim, rope_row(args.rope_table, position + 1 - problem.ratio), activation);
  if (problem.hadamard != 0) {
    hadamard_by_block(entry, dim);
    for (int c = threadIdx.x; c < dim; c += blockDim.x) entry[c] = rounded(entry[c] * step.hadamard_factor, activation);
    __syncthreads();
  }
  encode_row_by_block(step.cache.layout, entry, step.cache.row(slot), step.cache.footer(slot));
}

/// The same in the first warp: an index key in eight lanes, which the others repeat without storing.
__device__ void finish_index_key(const CompressProblem& problem, const Step& step, std::int64_t slot,
                                 const float* entry, const Shared& shared) {
  const int lane = threadIdx.x % kIndexLanes;
  const bool stores = threadIdx.x < kIndexLanes;
  const RowPlace place = place_of(step.cache, slot);
  Eight parts[2], weights[2];
  float sum = 0;
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 8; ++i) {
      parts[j].v[i] = rounded_bf16(entry[index_column_of(j, lane) + i]);
      weights[j].v[i] = shared.norm[index_column_of(j, lane) + i];
    }
    sum = squares(parts[j], sum);
  }
  for (int d = 1; d < kIndexLanes; d *= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  const float s = inverse_rms(sum, kIndexRow, problem.norm_eps);
  for (int j = 0; j < 2; ++j) {
    const int rotary = index_column_of(j, lane) - (kIndexRow - problem.rope_dim);
    scale_eight(parts[j], weights[j], s);
    if (rotary >= 0) rotate_and_round(parts[j], shared.rope, problem.rope_dim, rotary);
  }
  if (problem.hadamard != 0) hadamard_in_lanes(parts, lane, step.hadamard_factor);
  auto* codes = reinterpret_cast<std::uint8_t*>(place.row);
  if (problem.format == CacheFormat::index_e4m3_f32) {
    const int exponent = store_index_e4m3(parts, lane, codes, stores);
    if (threadIdx.x == 0) *reinterpret_cast<float*>(place.footer) = exp2_of(exponent);
  } else {
    store_index_e2m1(parts, lane, codes, reinterpret_cast<std::uint8_t*>(place.footer), stores);
  }
}
__device__ void finish_kv(const CompressProblem& problem, const Step& step, std::int64_t slot, const float* entry,
                          const Shared& shared) {
  const int lane = threadIdx.x;
  Eight words[2], weights[2];
  for (int k = 0; k < 2; ++k) {
    for (int i = 0; i < 8; ++i) {
      words[k].v[i] = rounded_bf16(entry[column_of(k, lane) + i]);
      weights[k].v[i] = shared.norm[column_of(k, lane) + i];
    }
  }
  finish_kv_row(words, weights, problem.norm_eps, shared.rope, problem.rope_dim, lane, place_of(step.cache, slot));
}

/// What the fast ends read, asked for before the pooling and put into shared memory behind it.
struct Ahead {
  float norm = 0, rope = 0;

  __device__ Ahead(const CompressProblem& problem, const CompressArgs& args, int position) {
    if (threadIdx.x < problem.dim) norm = load_element(args.norm, threadIdx.x);
    if (threadIdx.x < problem.rope_dim) rope = rope_row(args.rope_table, position + 1 - problem.ratio)[threadIdx.x];
  }
  __device__ void put(const CompressProblem& problem, Shared& shared) const {
    if (threadIdx.x < problem.dim) shared.norm[threadIdx.x] = norm;
    if (threadIdx.x < problem.rope_dim) shared.rope[threadIdx.x] = rope;
  }
};

/// Pools this block's channels of the entry that token t closes into `entry` (shared memory).
__device__ void pool_slice(const CompressProblem& problem, const CompressArgs& args, const Step& step, std::int64_t t,
                           int position, int seq, float* entry, Shared& shared) {
  const int units = step.policy.units, groups = step.policy.groups, group = threadIdx.x / units;
  const int c = blockIdx.y * units + threadIdx.x % units;
  const int num_rows = static_cast<int>(problem.state_tokens()), width = static_cast<int>(problem.width());
  Pool pool;
  for (int first = 0; first < num_rows; first += kChunk) {
    const int count = min(kChunk, num_rows - first);
    if (first > 0) __syncthreads();  // the chunk before is used up
    for (int i = threadIdx.x; i < count; i += blockDim.x)
      shared.found[i] = find_row(problem, args, step, first + i, t, position, seq);
    __syncthreads();
    for (int i = group; c < problem.dim && i < count; i += kPoolBatch * groups) {
      float kv[kPoolBatch], score[kPoolBatch], most = -kInfinity;
      unsigned lacks_ape = 0;  // a bit per row
#pragma unroll
      for (int k = 0; k < kPoolBatch; ++k) {
        const int j = i + k * groups;
        const PooledRow row = j < count ? shared.found[j] : PooledRow{};
        const bool exists = row.kv != nullptr;
        kv[k] = exists ? row.kv[c] : 0.0f;
        score[k] = exists ? row.kv[width + c] : -kInfinity;  // weighs nothing
        lacks_ape |= unsigned{exists && row.ape >= 0} << k;
      }
#pragma unroll
      for (int k = 0; k < kPoolBatch; ++k) {
        if ((lacks_ape >> k & 1u) != 0) score[k] += load_element(args.ape, shared.found[i + k * groups].ape + c);
        most = fmaxf(most, score[k]);  // passes over NaN
      }
      pool.raise(most);
#pragma unroll
      for (int k = 0; k < kPoolBatch; ++k) pool.add(score[k], kv[k]);
    }
  }
  // The groups' pools meet in shared memory, in the groups' order.
  if (groups > 1) {
    shared.pools[threadIdx.x] = pool;
    __syncthreads();
    if (group == 0) {
      float most = -kInfinity;
#pragma unroll 4
      for (int g = 1; g < groups; ++g) most = fmaxf(most, shared.pools[g * units + threadIdx.x].most);
      pool.raise(most);
#pragma unroll 4
      for (int g = 1; g < groups; ++g) {
        const Pool other = shared.pools[g * units + threadIdx.x];
        const float factor = weight_of(other.most - pool.base());  // 0 where the group saw nothing
        pool.sum = fmaf(other.sum, factor, pool.sum);
        pool.entry = fmaf(other.entry, factor, pool.entry);
      }
    }
  }
  if (group == 0 && c < problem.dim) entry[c] = __fdiv_rn(pool.entry, pool.sum);
  __syncthreads();
}

/// True in the block that finishes the entry of token t: the last of its slices, with all of the others in `entry`.
__device__ bool gathers_entry(const CompressProblem& problem, const Step& step, std::int64_t t, float* entry,
                              Shared& shared) {
  if (step.policy.slices == 1) return true;
  float* pooled = step.pooled + t * problem.dim;
  const int mine = blockIdx.y * step.policy.units + threadIdx.x;
  if (threadIdx.x < step.policy.units && mine < problem.dim) pooled[mine] = entry[mine];
  if (!is_last_block(step.arrived + t, step.policy.slices, shared.is_last)) return false;
  for (int c = threadIdx.x; c < problem.dim; c += blockDim.x) entry[c] = __ldcg(pooled + c);
  __syncthreads();
  return true;
}

/// Block (x, y): slice y of what tokens [x * span, (x + 1) * span) close.
__global__ void __launch_bounds__(kPoolThreads, 2)
    pool_entries(const __grid_constant__ CompressProblem problem, const __grid_constant__ CompressArgs args,
                 const __grid_constant__ Step step, int span) {
  extern __shared__ float entry[];  // [dim]
  __shared__ Shared shared;
  const std::int64_t first = std::int64_t{blockIdx.x} * span;
  if (threadIdx.x < 32) {
    const int i = threadIdx.x;
    bool closes = false;
    if (i < span && first + i < args.x.shape[0]) {
      const std::int32_t position = args.positions.at<std::int32_t>(first + i);
      const std::int64_t slot = args.slot_mapping.at<std::int64_t>(first + i);
      shared.seqs[i] = args.seq_ids.at<std::int32_t>(first + i);
      shared.positions[i] = position;
      shared.slots[i] = slot;
      closes = is_token(args.rope_table, position) && (position + 1u) % problem.ratio == 0 && step.cache.holds(slot);
    }
    const unsigned closing = __ballot_sync(kAllLanes, closes);
    if (i == 0) shared.closing = closing;
  }
  __syncthreads();
  for (unsigned closing = shared.closing; closing != 0; closing &= closing - 1) {
    const int i = __ffs(static_cast<int>(closing)) - 1, position = shared.positions[i];
    const std::int64_t t = first + i, slot = shared.slots[i];
    if (step.finish == Finish::by_block) {
      pool_slice(problem, args, step, t, position, shared.seqs[i], entry, shared);
      if (gathers_entry(problem, step, t, entry, shared))
        finish_by_block(problem, args, step, position, slot, entry, shared.partials);
      continue;
    }
    const Ahead ahead(problem, args, position);
    pool_slice(problem, args, step, t, position, shared.seqs[i], entry, shared);
    if (!gathers_entry(problem, step, t, entry, shared)) continue;
    ahead.put(problem, shared);
    __syncthreads();
    if (threadIdx.x >= 32) continue;
    if (step.finish == Finish::kv_row) {
      finish_kv(problem, step, slot, entry, shared);
    } else {
      finish_index_key(problem, step, slot, entry, shared);
    }
  }
}

/// A block stores a token's state row.
__global__ void __launch_bounds__(kStoreThreads)
    store_state(const __grid_constant__ CompressProblem problem, const __grid_constant__ CompressArgs args,
                const __grid_constant__ Step step) {
  const std::int64_t t = blockIdx.x, slot = args.state_slot_mapping.at<std::int64_t>(t);
  const std::int32_t position = args.positions.at<std::int32_t>(t);
  if (!is_token(args.rope_table, position) || !step.state.holds(slot)) return;
  const int width = static_cast<int>(problem.width());
  const float* __restrict__ from = step.rows + t * 2 * width;
  auto* __restrict__ to = reinterpret_cast<float*>(place_of(step.state, slot).row);
  const std::int64_t ape = position % problem.ratio * args.ape.strides[0];
#pragma unroll 4
  for (int c = threadIdx.x; c < width; c += kStoreThreads) {
    to[c] = from[c];
    to[width + c] = from[width + c] + load_element(args.ape, ape + c);
  }
}

/// The fast ends take what the released models store.
Finish finish_of(const CompressProblem& problem, const PagedCacheView& cache, const PoolPolicy& policy) {
  const bool fast = activation_dtype(problem.numerics) == DType::bf16 && problem.rope_dim % 8 == 0 &&
                    problem.rope_dim <= kFastRopeDim && policy.threads() >= problem.dim && has_wide_pages(cache);
  if (!fast) return Finish::by_block;
  if (problem.format == CacheFormat::kv_e4m3_ue8m0 && problem.hadamard == 0) return Finish::kv_row;
  const bool is_key = problem.format == CacheFormat::index_e4m3_f32 || problem.format == CacheFormat::index_e2m1_ue8m0;
  return is_key && problem.dim == kIndexRow ? Finish::index_key : Finish::by_block;
}

}  // namespace

Result<Prepared> prepare_compress_simt(const CompressProblem& problem, const Device& device,
                                       const PlanOptions& options) {
  // The compressor's product is never quantised and never rounded: bf16 weights, widened activations, f32 out.
  LinearProblem product =
      projection(problem.numerics, problem.weight_dtype, problem.num_tokens, problem.hidden_size, problem.width());
  product.out_dtype = DType::f32;
  auto plan = std::make_shared<LinearPlan>();
  FATHOM_ASSIGN(*plan, plan_linear(product, device, nested(options)));
  Scratch scratch;
  lay_out(problem, *plan, scratch, {});
  const WorkspaceSize nested_size = largest({plan.get()});
  const std::int64_t counters =
      pool_policy(problem).slices > 1 ? problem.num_tokens * std::int64_t{sizeof(std::int32_t)} : 0;
  return Prepared{{scratch.used(), std::max(counters, nested_size.counters), nested_size.schedule}, plan, {*plan}};
}

Status compress_simt(const CompressProblem& problem, const CompressArgs& args, const RunContext& context) {
  const auto& product = *static_cast<const LinearPlan*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, product, scratch, context.workspace);
  const std::int64_t num_tokens = args.x.shape[0], width = problem.width();
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.format, problem.dim));
  FATHOM_ASSIGN(const RowLayout state_layout, row_layout(CacheFormat::state_f32, static_cast<int>(2 * width)));
  Step step{{},
            {},
            pieces.rows,
            pieces.pooled,
            static_cast<std::int32_t*>(context.workspace.counters.data),
            pool_policy(problem),
            {},
            hadamard_factor(problem.dim)};
  FATHOM_ASSIGN(step.cache, paged_cache("compress", "cache", args.cache, layout, problem.page_size));
  FATHOM_ASSIGN(step.state,
                paged_cache("compress", "state_cache", args.state_cache, state_layout, problem.state_page_size));
  step.finish = finish_of(problem, step.cache, step.policy);

  TensorView kv = view(pieces.rows, DType::f32, {num_tokens, width}, context.device.kind());
  kv.device_index = static_cast<std::int16_t>(context.device.index());
  kv.strides[0] = 2 * width;
  TensorView score = kv;
  score.data = pieces.rows + width;
  FATHOM_TRY(linear(product, {args.x, args.wkv, {}, kv}, pieces.linear, context.stream));
  FATHOM_TRY(linear(product, {args.x, args.wgate, {}, score}, pieces.linear, context.stream));

  const std::int64_t span =
      tokens_of_a_block(problem, context.device.limits(), num_tokens, args.state_block_table.shape[0]);
  const dim3 blocks(blocks_for(num_tokens, span), static_cast<unsigned>(step.policy.slices));
  FATHOM_TRY(launch("compress", context, pool_entries, blocks, dim3(step.policy.threads()), problem.dim * sizeof(float),
                    problem, args, step, static_cast<int>(span)));
  return launch("compress", context, store_state, dim3(static_cast<unsigned>(num_tokens)), dim3(kStoreThreads), 0,
                problem, args, step);
}

}  // namespace fathom
