// The end of index on CUDA, whatever wrote the ranks: the best entries of every token, and the columns of the score output
// that no key fills.
#include "index/index_impl.h"
#include "index/index_kernel.cuh"

namespace fathom {
namespace {

constexpr int kFillThreads = 256;
constexpr std::int64_t kFillColumns = 4096;

/// Grid: tokens, blocks of columns; a block takes every gridDim.y-th.
__global__ void __launch_bounds__(kFillThreads) fill_kernel(const __grid_constant__ IndexRun run) {
  const std::int64_t t = blockIdx.x, width = run.args.scores.shape[1], visible = run.visible(t);
  float* scores = run.args.scores.row<float>(t);
  for (std::int64_t first = blockIdx.y * kFillColumns; first < width; first += gridDim.y * kFillColumns) {
    const std::int64_t end = min(first + kFillColumns, width);
    for (std::int64_t j = max(first, visible) + threadIdx.x; j < end; j += kFillThreads) scores[j] = -kInfinity;
  }
}

}  // namespace

Result<bool> index_begins_early(const Device& device) noexcept {
  return can_begin_early("index", device, select::count_kernel<IndexRows>);
}

Status fill_unseen_scores(const IndexRun& run, const RunContext& context) {
  const TensorView& scores = run.args.scores;
  if (scores.is_absent()) return {};
  const dim3 grid(static_cast<unsigned>(scores.shape[0]), std::min(blocks_for(scores.shape[1], kFillColumns), 65535u));
  return launch("index", context, fill_kernel, grid, dim3(kFillThreads), 0, run);
}

Status select_entries(const IndexRun& run, const RankRows& rows, std::int64_t count, const IndexPolicy& policy, const Candidates& candidates,
                      bool is_counted, const RunContext& context) {
  if (run.args.topk_entries.is_absent() && run.args.topk_indices.is_absent()) return {};
  return launch_select("index", context, IndexRows{run, rows}, count, policy.select, candidates, run.problem.topk,
                       {.can_begin_early = *static_cast<const bool*>(context.state), .follows = true, .is_counted = is_counted});
}

}  // namespace fathom
