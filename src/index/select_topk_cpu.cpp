// select_topk on the CPU: one row at a time, scores turned into sortable integers.
#include "core/parallel.h"
#include "core/scratch.h"
#include "index/select_topk_impl.h"
#include "index/top_entries.h"

namespace fathom {
namespace {

struct Pieces {
  std::uint64_t* picks;  ///< [threads, num_scores]
  std::int32_t* best;    ///< [threads, topk]
};

Pieces lay_out(const SelectTopkProblem& problem, const Device& device, Scratch& scratch) {
  Pieces pieces;
  pieces.picks = scratch.take<std::uint64_t>(device.num_threads() * std::int64_t{problem.num_scores});
  pieces.best = scratch.take<std::int32_t>(device.num_threads() * std::int64_t{problem.topk});
  return pieces;
}

}  // namespace

Result<Prepared> prepare_select_topk_cpu(const SelectTopkProblem& problem, const Device& device, const PlanOptions&) {
  Scratch scratch;
  lay_out(problem, device, scratch);
  return Prepared{{.scratch = scratch.used()}};
}

Status select_topk_cpu(const SelectTopkProblem& problem, const SelectTopkArgs& args, const RunContext& context) {
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, scratch);
  parallel_for(context.device, args.scores.shape[0], 1, [&](std::int64_t begin, std::int64_t end, int part) {
    std::uint64_t* picks = pieces.picks + part * std::int64_t{problem.num_scores};
    std::int32_t* best = pieces.best + part * std::int64_t{problem.topk};
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t length =
          args.lengths.is_absent() ? problem.num_scores : std::clamp(args.lengths.at<std::int32_t>(t), 0, problem.num_scores);
      const float* scores = args.scores.row<float>(t);
      for (std::int64_t j = 0; j < length; ++j) picks[j] = pick_key(scores[j], static_cast<std::uint32_t>(j));
      const std::int64_t count = pick_best(picks, length, problem.topk, best);
      std::int32_t* out = args.topk_entries.row<std::int32_t>(t);
      for (std::int64_t k = 0; k < problem.topk; ++k) out[k] = k < count ? best[k] : -1;
    }
  });
  return {};
}

}  // namespace fathom
