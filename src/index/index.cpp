// index: check -> select -> plan -> run.
#include "fathom/index.h"

#include "index/index_impl.h"
#include "index/key_formats.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(IndexProblem, num_tokens), FieldKind::capacity, "num_tokens", "query tokens of a step, at most", 0, kMaxTokens},
    {offsetof(IndexProblem, num_seqs), FieldKind::capacity, "num_seqs", "rows of the block tables, at most", 0, kMaxSeqs},
    {offsetof(IndexProblem, index_heads), FieldKind::integer, "index_heads", "heads of the indexer", 1, kMaxHeads},
    {offsetof(IndexProblem, index_dim), FieldKind::integer, "index_dim", "elements of an index head", 1, 1024},
    {offsetof(IndexProblem, topk), FieldKind::integer, "topk", "entries kept per query", 1, 1 << 20},
    {offsetof(IndexProblem, compress_ratio), FieldKind::integer, "compress_ratio", "tokens per entry", 1, 4096},
    {offsetof(IndexProblem, format), FieldKind::word, "format", "rows of the index cache", 0, 0, kCacheFormatWords},
    {offsetof(IndexProblem, page_size), FieldKind::integer, "page_size", "index keys of a page", 1, kMaxPageSize},
    {offsetof(IndexProblem, entries_page_size), FieldKind::integer, "entries_page_size", "entries of a page", 1, kMaxPageSize},
    {offsetof(IndexProblem, max_entries), FieldKind::integer, "max_entries", "most entries of a sequence; later ones are not seen", 0, kMaxEntries},
};
constexpr IndexProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(IndexProblem), &kDefaults};

constexpr OpSpec kSpec{"index", "index", "Keep the best topk visible entries of every query token.",
                       "score[t, j] = sum over h of weights[t, h] * max(q[t, h] . key[j], 0),  j < floor((position[t] + 1) / compress_ratio)",
                       "spec 4.2", kIndexArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const IndexProblem*>(opaque);
  return check_key_format("index", problem.format, problem.index_dim);
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const IndexProblem*>(opaque);
  const auto& args = *static_cast<const IndexArgs*>(opaque_args);
  FATHOM_TRY(check_query("index", problem.format, args.q, args.q_scale));
  if (args.topk_entries.is_absent() && args.topk_indices.is_absent() && args.scores.is_absent()) {
    return Status::invalid("index: topk_entries, topk_indices and scores are all missing, expected at least one");
  }
  if (!args.topk_indices.is_absent() && args.entries_block_table.is_absent()) {
    return Status::invalid("index: entries_block_table is missing, topk_indices need it");
  }
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.format, problem.index_dim));
  return paged_cache("index", "index_cache", args.index_cache, layout, problem.page_size).status();
}

}  // namespace

const ProblemSpec& IndexProblem::spec() noexcept { return kProblem; }

const Op& index_op() noexcept {
  static const Op op{&kSpec, index_implementations(), validate, check};
  return op;
}

Result<IndexPlan> plan_index(const IndexProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<IndexPlan>(index_op(), problem, device, options);
}
Status index(const IndexPlan& plan, const IndexArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(index_op(), plan, args, workspace, stream);
}

}  // namespace fathom
