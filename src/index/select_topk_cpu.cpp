// select_topk on the CPU: one row at a time, block after block.
#include "core/parallel.h"
#include "core/scratch.h"
#include "index/running_picks_cpu.h"
#include "index/select_topk_impl.h"
#include "simd/loops.h"

namespace fathom {
namespace {

struct Pieces {
  std::uint64_t* keys;   ///< [threads, room]
  std::uint64_t* words;  ///< [threads, set_words(num_scores)]
};

/// No more keys are held than there are scores.
std::int64_t room(const SelectTopkProblem& problem) {
  return std::min(RunningPicks::room(problem.topk), std::int64_t{problem.num_scores});
}

Pieces lay_out(const SelectTopkProblem& problem, const Device& device, Scratch& scratch) {
  Pieces pieces;
  pieces.keys = scratch.take<std::uint64_t>(device.num_threads() * room(problem));
  pieces.words = scratch.take<std::uint64_t>(device.num_threads() * set_words(problem.num_scores));
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
  const simd::Loops& loops = simd::best_loops();
  parallel_for(context.device, args.scores.shape[0], 1, [&](std::int64_t begin, std::int64_t end, int part) {
    std::uint64_t* keys = pieces.keys + part * room(problem);
    std::uint64_t* words = pieces.words + part * set_words(problem.num_scores);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t length = args.lengths.is_absent()
                                      ? problem.num_scores
                                      : std::clamp(args.lengths.at<std::int32_t>(t), 0, problem.num_scores);
      const float* scores = args.scores.row<float>(t);
      RunningPicks picks(keys, problem.topk);
      for (std::int64_t j = 0; j < length; j += RunningPicks::kBlock) {
        picks.take(loops.above, scores + j, std::min(RunningPicks::kBlock, length - j), static_cast<std::int32_t>(j));
      }
      emit_ascending(keys, picks.finish(), problem.num_scores, words, problem.topk,
                     args.topk_entries.row<std::int32_t>(t));
    }
  });
  return {};
}

}  // namespace fathom
