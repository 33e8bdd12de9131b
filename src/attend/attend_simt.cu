// attend in plain f32 on CUDA: a block for one query and head, rows of any format, a chunk of rows at a time, all of
// them twice: the largest logit first, then the weights relative to it, rounded as the CPU rounds them. It is what
// `exact` runs and what the fast kernels are held against on the device; it has no speed goal.
#include "attend/attend_impl.h"
#include "attend/row_walk.h"
#include "device/head_rows.cuh"
#include "device/launch.h"

namespace fathom {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChunk = 128;       ///< rows whose logits are kept
constexpr int kMostPerLane = 16;  ///< value elements of a thread: 4096 / kThreads

struct Sets {
  PagedCacheView caches[2];
  bool wide_heads;  ///< how a head's squares are summed
};

/// The query into shared memory, head-normed and rotated. `factor` is shared.
__device__ void load_query(const AttendProblem& problem, const AttendArgs& args, bool wide, std::int64_t t, int h,
                           float* q, float& factor) {
  const std::int64_t from = t * args.q.strides[0] + h * args.q.strides[1];
  const int dim = problem.head_dim, half = problem.rope_dim / 2, plain = dim - problem.rope_dim;
  if (problem.q_form == QForm::final) {
    for (int c = threadIdx.x; c < dim; c += kThreads) q[c] = load_element(args.q, from + c);
    return;
  }
  const std::int64_t position = args.positions.at<std::int32_t>(t);
  if (!is_token(args.rope_table, position)) {
    for (int c = threadIdx.x; c < dim; c += kThreads) q[c] = 0;
    return;
  }
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    const float squares = wide ? head_squares(load_head(static_cast<const bf16*>(args.q.data) + from, dim, lane))
                               : head_squares(args.q, from, dim, lane);
    if (lane == 0) factor = head_factor(squares, dim, problem.norm_eps, problem.q_dtype);
  }
  __syncthreads();
  const auto normed = [&](int c) { return rounded(load_element(args.q, from + c) * factor, problem.q_dtype); };
  for (int c = threadIdx.x; c < plain; c += kThreads) q[c] = normed(c);
  const float* rope = rope_row(args.rope_table, position);
  for (int i = threadIdx.x; i < half; i += kThreads) {
    float even = normed(plain + 2 * i), odd = normed(plain + 2 * i + 1);
    rotate_pair(even, odd, rope[i], rope[half + i]);
    q[plain + 2 * i] = rounded(even, problem.q_dtype);
    q[plain + 2 * i + 1] = rounded(odd, problem.q_dtype);
  }
}

/// A result in shared memory leaves in a form that is not plain.
__device__ void store_formed(const AttendProblem& problem, const AttendArgs& args, std::int64_t t, int h, float* out) {
  const int dim = problem.value_dim, half = problem.rope_dim / 2, plain = dim - problem.rope_dim;
  const DType rounding = problem.out_form == OutForm::e4m3 ? DType::bf16 : problem.out_dtype;
  const std::int64_t position = args.positions.at<std::int32_t>(t),
                     at = t * args.out.strides[0] + h * args.out.strides[1];
  const bool is_real = is_token(args.rope_table, position);
  for (int c = threadIdx.x; c < dim; c += kThreads) out[c] = is_real ? rounded(out[c], rounding) : 0.0f;
  __syncthreads();
  for (int i = threadIdx.x; is_real && i < half; i += kThreads) {
    const float* rope = rope_row(args.rope_table, position);
    rotate_back(out[plain + 2 * i], out[plain + 2 * i + 1], rope[i], rope[half + i]);
  }
  __syncthreads();
  if (problem.out_form == OutForm::unrotated) {
    for (int c = threadIdx.x; c < dim; c += kThreads) store_element(args.out, at + c, out[c]);
    return;
  }
  for (int block = threadIdx.x; block * kOutScaleBlock < dim; block += kThreads) {
    const int first = block * kOutScaleBlock, count = min(kOutScaleBlock, dim - first);
    args.out_scale.row<std::uint8_t>(t, h)[block] =
        quantise_q8(out + first, count, static_cast<std::uint8_t*>(args.out.data) + at + first);
  }
}

__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ AttendProblem problem,
                                                          const __grid_constant__ AttendArgs args, const __grid_constant__ Sets sets) {
  extern __shared__ float q[];  // [head_dim], then the chunk's logits
  __shared__ std::int64_t slots[kChunk];
  __shared__ float factor;
  float* logits = q + problem.head_dim;
  const std::int64_t t = blockIdx.x;
  const int h = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  load_query(problem, args, sets.wide_heads, t, h, q, factor);
  // Calls work(cache, count) for each chunk of rows, with their slots and logits in shared memory.
  const auto for_each_chunk = [&](const auto& work) {
    for (int s = 0; s < 2; ++s) {
      const RowSet& set = s == 0 ? args.window : args.entries;
      const RowSetProblem set_problem = s == 0 ? window_set(problem) : entries_set(problem);
      if (set_problem.rows_by == RowsBy::none) continue;
      const PagedCacheView& cache = sets.caches[s];
      const RowWalk walk(set_problem, set, args.seq_ids, cache, t);
      for (std::int64_t first = 0; first < walk.count(); first += kChunk) {
        const int count = static_cast<int>(min(std::int64_t{kChunk}, walk.count() - first));
        __syncthreads();  // the chunk before is used up; q is there
        for (int i = threadIdx.x; i < count; i += kThreads) slots[i] = walk.slot(first + i);
        __syncthreads();
        for (int i = warp; i < count; i += kWarps) {
          float dot = 0;
          if (slots[i] >= 0) {
            const std::byte* row = cache.row(slots[i]);
            const std::byte* footer = cache.footer(slots[i]);
            for (int c = lane; c < problem.head_dim; c += 32)
              dot = fmaf(q[c], decode_element(cache.layout, row, footer, c), dot);
          }
          dot = warp_sum(dot);
          if (lane == 0) logits[i] = dot * problem.softmax_scale;
        }
        __syncthreads();
        work(cache, count);
      }
    }
  };

  float most = -kInfinity;
  bool seen = false;
  for_each_chunk([&](const PagedCacheView&, int count) {
    for (int i = 0; i < count; ++i) {
      if (slots[i] < 0) continue;
      seen = true;
      most = logits[i] > most ? logits[i] : most;
    }
  });
  const float base = most == -kInfinity ? 0.0f : most;  // a logit of -inf weighs nothing; a NaN stays a NaN
  float sums[kMostPerLane] = {};
  float total = 0;
  for_each_chunk([&](const PagedCacheView& cache, int count) {
    for (int i = 0; i < count; ++i) {
      if (slots[i] < 0) continue;
      const float weight = expf(logits[i] - base);
      total += weight;
      // The model multiplies rows by bf16 probabilities and sums them unrounded.
      const float probability = rounded(weight, problem.q_dtype);
      const std::byte* row = cache.row(slots[i]);
      const std::byte* footer = cache.footer(slots[i]);
      for (int k = 0; k < kMostPerLane; ++k) {
        const int c = threadIdx.x + k * kThreads;
        if (c < problem.value_dim) sums[k] = fmaf(probability, decode_element(cache.layout, row, footer, c), sums[k]);
      }
    }
  });
  const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
  const float denominator = total + expf(sink - most);
  const bool empty = total == 0 || denominator == kInfinity;
  const bool is_plain = problem.out_form == OutForm::plain;
  for (int k = 0; k < kMostPerLane; ++k) {
    const int c = threadIdx.x + k * kThreads;
    if (c >= problem.value_dim) break;
    const float value = empty ? 0.0f : sums[k] / denominator;
    if (is_plain) store_element(args.out, t * args.out.strides[0] + h * args.out.strides[1] + c, value);
    if (!is_plain) q[c] = value;  // nobody reads the query any more: the last chunk's logits were waited for
  }
  if (!is_plain) {
    __syncthreads();
    store_formed(problem, args, t, h, q);
  }
  if (threadIdx.x != 0) return;
  if (!args.lse.is_absent()) args.lse.row<float>(t)[h] = seen ? most + logf(total) : -kInfinity;
  if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[h] = most;
}

}  // namespace

Status attend_simt(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Sets sets{{}, problem.q_form == QForm::raw && has_wide_heads(args.q, args.rope_table)};
  FATHOM_TRY(open_caches(problem, args, sets.caches));
  const std::size_t shared_bytes = (problem.head_dim + kChunk) * sizeof(float);
  return launch("attend", context, attend_kernel, dim3(static_cast<unsigned>(args.q.shape[0]), problem.num_heads), dim3(kThreads), shared_bytes,
                problem, args, sets);
}

}  // namespace fathom
