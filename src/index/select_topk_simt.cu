// select_topk on CUDA: the selection alone, over rows of f32 scores.
#include "index/select_kernel.cuh"
#include "index/select_topk_impl.h"

namespace fathom {
namespace {

struct ScoreRows {
  std::int64_t num_scores;
  SelectTopkArgs args;

  struct Row {
    std::int64_t count;
    const float* scores;
    std::int32_t* picks;

    __device__ void load(std::int64_t first, std::int64_t end, std::uint32_t (&out)[select::kPerThread]) const {
      static_assert(select::kPerThread == 8);
      const float* from = scores + first;
      if (first + 8 <= end && reinterpret_cast<std::uintptr_t>(from) % 16 == 0) {
        const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
        const float values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        for (int i = 0; i < 8; ++i) out[i] = rank_of(values[i]);
      } else {
        for (int i = 0; i < 8; ++i) {
          if (first + i < end) out[i] = rank_of(from[i]);
        }
      }
    }
    __device__ void store(std::int64_t place, std::int32_t entry) const { picks[place] = entry; }
  };
  __device__ Row open(std::int64_t row) const {
    std::int64_t count = num_scores;
    if (!args.lengths.is_absent()) count = max(std::int64_t{0}, min(std::int64_t{args.lengths.at<std::int32_t>(row)}, num_scores));
    return {count, args.scores.row<const float>(row), args.topk_entries.row<std::int32_t>(row)};
  }
};

/// Rows selected from at a time, so that scratch stays bounded.
std::int64_t rows_of_chunk(const SelectTopkProblem& problem, const SelectPolicy& policy) {
  if (policy.segments == 1) return std::max(problem.num_tokens, 1);
  const std::int64_t most = std::min<std::int64_t>(SelectPolicy::kMostRows, std::max(problem.num_tokens, 1));
  return std::clamp<std::int64_t>(IndexPolicy::kScratchBytes / policy.row_bytes(problem.topk), 1, most);
}

}  // namespace

Result<Prepared> prepare_select_topk_simt(const SelectTopkProblem& problem, const Device& device, const PlanOptions&) {
  const SelectPolicy policy = select_policy(problem.num_scores, problem.topk);
  Scratch scratch, counters;
  take_candidates(policy, rows_of_chunk(problem, policy), problem.topk, scratch, counters);
  FATHOM_ASSIGN(const bool early, can_begin_early("select_topk", device, select::count_kernel<ScoreRows>));
  return Prepared{{.scratch = scratch.used(), .counters = counters.used()}, std::make_shared<const bool>(early)};
}

Status select_topk_simt(const SelectTopkProblem& problem, const SelectTopkArgs& args, const RunContext& context) {
  const SelectPolicy policy = select_policy(problem.num_scores, problem.topk);
  const std::int64_t chunk = rows_of_chunk(problem, policy);
  const bool early = *static_cast<const bool*>(context.state);
  Scratch scratch(context.workspace.scratch), counters(context.workspace.counters);
  const Candidates candidates = take_candidates(policy, chunk, problem.topk, scratch, counters);
  for (std::int64_t first = 0; first < args.scores.shape[0]; first += chunk) {
    const std::int64_t rows = std::min(chunk, args.scores.shape[0] - first);
    const ScoreRows source{problem.num_scores, {rows_of(args.scores, first, rows), rows_of(args.lengths, first, rows),
                                                rows_of(args.topk_entries, first, rows)}};
    FATHOM_TRY(launch_select("select_topk", context, source, rows, policy, candidates, problem.topk, {.can_begin_early = early}));
  }
  return {};
}

}  // namespace fathom
