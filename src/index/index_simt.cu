// index in plain f32 on CUDA: a warp for a key, heads one after the other, keys and queries of any format and size. It is
// what `exact` runs and what the fast kernel is held against on the device; it has no speed goal.
#include "index/index_impl.h"
#include "index/index_kernel.cuh"

namespace fathom {
namespace {

constexpr int kWarps = 8, kKeysPerBlock = 64, kMostDim = 1024;

/// Element c of index query (t, h), dequantised.
__device__ float query_element(const IndexArgs& args, std::int64_t t, std::int64_t h, int c) {
  const std::int64_t at = t * args.q.strides[0] + h * args.q.strides[1] + c;
  if (args.q.dtype == DType::f32) return static_cast<const float*>(args.q.data)[at];
  const auto* bytes = static_cast<const std::uint8_t*>(args.q.data);
  if (args.q.dtype == DType::e4m3) return decode_e4m3(bytes[at]);
  return decode_e2m1_bits(bytes[at / 2] >> (at % 2 * 4)) * decode_ue8m0(args.q_scale.row<const std::uint8_t>(t, h)[c / 32]);
}

/// Grid: blocks of keys, tokens of the chunk.
__global__ void __launch_bounds__(32 * kWarps) score_kernel(const __grid_constant__ IndexRun run, const __grid_constant__ RankRows rows) {
  __shared__ float keys[kWarps][kMostDim];
  const std::int64_t t = rows.first + blockIdx.y, first = std::int64_t{blockIdx.x} * kKeysPerBlock;
  const IndexRun::Sight sight = run.sight(t);
  // The selection reads ranks eight at a time, so the row's last eight are filled up with absent ones.
  const std::int64_t scored = run.scored(sight.visible);
  const std::int64_t end =
      min(first + kKeysPerBlock, (scored + select::kPerThread - 1) / select::kPerThread * select::kPerThread);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = run.problem.index_dim;
  const float* weights = run.args.weights.row<const float>(t);
  for (std::int64_t entry = first + warp; entry < end; entry += kWarps) {
    const IndexRun::Place place =
        entry < scored ? run.place(sight.seq, static_cast<std::uint32_t>(entry)) : IndexRun::Place{-1, 0};
    const bool is_present = run.holds(place);
    float score = 0;
    if (is_present) {
      const std::int64_t slot = std::int64_t{place.page} * run.problem.page_size + place.row;
      const std::byte* row = run.cache.row(slot);
      const std::byte* footer = run.cache.footer(slot);
      __syncwarp();
      for (int c = lane; c < dim; c += 32) keys[warp][c] = decode_element(run.cache.layout, row, footer, c);
      __syncwarp();
      for (int h = 0; h < run.problem.index_heads; ++h) {
        float dot = 0;
        for (int c = lane; c < dim; c += 32) dot = fmaf(query_element(run.args, t, h, c), keys[warp][c], dot);
        dot = warp_sum(dot);
        score += (dot < 0 ? 0.0f : dot) * weights[h];  // a NaN dot stays NaN
      }
    }
    if (lane != 0) continue;
    rows.row(t - rows.first)[entry] = is_present ? rank_of(score) : 0;
    const TensorView& scores = run.args.scores;
    if (!scores.is_absent() && entry < min(scored, scores.shape[1]))
      scores.row<float>(t)[entry] = is_present ? score : -kInfinity;
  }
}

}  // namespace

Result<Prepared> prepare_index_simt(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  return index_workspace(problem, device);
}

Status index_simt(const IndexProblem& problem, const IndexArgs& args, const RunContext& context) {
  return run_index_chunks(problem, args, context, false,
                          [&](const IndexRun& run, const RankRows& rows, std::int64_t count, const IndexPolicy&, std::int32_t*) {
    const dim3 grid(blocks_for(problem.max_entries, kKeysPerBlock), static_cast<unsigned>(count));
    return launch("index", context, score_kernel, grid, dim3(32 * kWarps), 0, run, rows);
  });
}

}  // namespace fathom
