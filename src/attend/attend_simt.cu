// attend in plain f32 on CUDA: a block for one query and head, rows of any format, a chunk of rows at a time, all of
// them twice: the largest logit first, then the weights relative to it, rounded as the CPU rounds them. It is what
// `exact` runs and what the fast kernels are held against on the device; it has no speed goal.
#include "attend/attend_impl.h"
#include "attend/row_walk.h"
#include "device/launch.h"
#include "device/rows.cuh"

namespace fathom {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChunk = 128;       ///< rows whose logits are kept
constexpr int kMostPerLane = 16;  ///< value elements of a thread: 4096 / kThreads

struct Sets {
  PagedCacheView caches[2];
};

__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ AttendProblem problem,
                                                          const __grid_constant__ AttendArgs args, const __grid_constant__ Sets sets) {
  extern __shared__ float q[];  // [head_dim], then the chunk's logits
  __shared__ std::int64_t slots[kChunk];
  float* logits = q + problem.head_dim;
  const std::int64_t t = blockIdx.x;
  const int h = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int c = threadIdx.x; c < problem.head_dim; c += kThreads) {
    q[c] = load_element(args.q, t * args.q.strides[0] + h * args.q.strides[1] + c);
  }
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
      const float factor = rounded(weight, problem.q_dtype);
      const std::byte* row = cache.row(slots[i]);
      const std::byte* footer = cache.footer(slots[i]);
      for (int k = 0; k < kMostPerLane; ++k) {
        const int c = threadIdx.x + k * kThreads;
        if (c < problem.value_dim) sums[k] = fmaf(factor, decode_element(cache.layout, row, footer, c), sums[k]);
      }
    }
  });
  const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
  const float denominator = total + expf(sink - most);
  const bool empty = total == 0 || denominator == kInfinity;
  for (int k = 0; k < kMostPerLane; ++k) {
    const int c = threadIdx.x + k * kThreads;
    if (c < problem.value_dim) {
      store_element(args.out, t * args.out.strides[0] + h * args.out.strides[1] + c, empty ? 0.0f : sums[k] / denominator);
    }
  }
  if (threadIdx.x != 0) return;
  if (!args.lse.is_absent()) args.lse.row<float>(t)[h] = seen ? most + logf(total) : -kInfinity;
  if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[h] = most;
}

}  // namespace

Status attend_simt(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Sets sets;
  FATHOM_TRY(open_caches(problem, args, sets.caches));
  const std::size_t shared_bytes = (problem.head_dim + kChunk) * sizeof(float);
  return launch("attend", context, attend_kernel, dim3(static_cast<unsigned>(args.q.shape[0]), problem.num_heads), dim3(kThreads), shared_bytes,
                problem, args, sets);
}

}  // namespace fathom
