// index_query: check -> select -> plan -> run.
#include "core/arg_checks.h"
#include "fathom/index.h"
#include "index/index_query_impl.h"
#include "index/key_formats.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(IndexQueryProblem, num_tokens), FieldKind::capacity, "num_tokens", "tokens of a step, at most", 0, kMaxTokens},
    {offsetof(IndexQueryProblem, hidden_size), FieldKind::integer, "hidden_size", "elements of a hidden state", 1, kMaxDim},
    {offsetof(IndexQueryProblem, q_rank), FieldKind::integer, "q_rank", "elements of the query latent", 1, kMaxDim},
    {offsetof(IndexQueryProblem, index_heads), FieldKind::integer, "index_heads", "heads of the indexer", 1, kMaxHeads},
    {offsetof(IndexQueryProblem, index_dim), FieldKind::integer, "index_dim", "elements of an index head, a power of two", 2, 1024},
    {offsetof(IndexQueryProblem, rope_dim), FieldKind::integer, "rope_dim", "rotated elements, the last of a head", 0, 1024},
    {offsetof(IndexQueryProblem, numerics), FieldKind::numerics, "numerics", "exact: f32 activations; served: bf16"},
    {offsetof(IndexQueryProblem, wq_b_dtype), FieldKind::dtype, "wq_b_dtype", "f32, bf16 or e4m3", 0, 0, {}, "weight_dtype"},
    {offsetof(IndexQueryProblem, weights_proj_dtype), FieldKind::dtype, "weights_proj_dtype", "f32 or bf16"},
    {offsetof(IndexQueryProblem, format), FieldKind::word, "format", "of the keys the queries will meet", 0, 0, kCacheFormatWords},
};
constexpr IndexQueryProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(IndexQueryProblem), &kDefaults};

constexpr OpSpec kSpec{"index_query", "index", "Turn the query latent and hidden states into index queries and head weights.",
                       "q = quantise(Hadamard(rotate(q_latent wq_b^T))) per head;  weights = x weights_proj^T (index_dim index_heads)^-0.5",
                       "spec 4.1, 4.3", kIndexQueryArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const IndexQueryProblem*>(opaque);
  FATHOM_TRY(check_weight_dtype("index_query", "wq_b_dtype", problem.wq_b_dtype));
  FATHOM_TRY(check_float("index_query", "weights_proj_dtype", problem.weights_proj_dtype));
  FATHOM_TRY(check_rope_dim("index_query", problem.rope_dim, problem.index_dim));
  if ((problem.index_dim & (problem.index_dim - 1)) != 0) {
    return Status::invalid("index_query: index_dim is %d, expected a power of two", problem.index_dim);
  }
  return check_key_format("index_query", problem.format, problem.index_dim);
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const IndexQueryProblem*>(opaque);
  const auto& args = *static_cast<const IndexQueryArgs*>(opaque_args);
  FATHOM_TRY(check_scale("index_query", "wq_b_scale", problem.wq_b_dtype, args.wq_b_scale));
  return check_query("index_query", problem.format, args.q, args.q_scale);
}

}  // namespace

const ProblemSpec& IndexQueryProblem::spec() noexcept { return kProblem; }

const Op& index_query_op() noexcept {
  static const Op op{&kSpec, index_query_implementations(), validate, check};
  return op;
}

Result<IndexQueryPlan> plan_index_query(const IndexQueryProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<IndexQueryPlan>(index_query_op(), problem, device, options);
}
Status index_query(const IndexQueryPlan& plan, const IndexQueryArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(index_query_op(), plan, args, workspace, stream);
}

}  // namespace fathom
