// project: check -> select -> plan -> run.
#include "fathom/project.h"

#include "core/arg_checks.h"
#include "project/project_impl.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(ProjectProblem, num_tokens), FieldKind::capacity, "num_tokens", "tokens of a step, at most", 0,
     kMaxTokens},
    {offsetof(ProjectProblem, hidden_size), FieldKind::integer, "hidden_size", "elements of a hidden state", 1,
     kMaxDim},
    {offsetof(ProjectProblem, num_heads), FieldKind::integer, "num_heads", "query heads", 1, kMaxHeads},
    {offsetof(ProjectProblem, head_dim), FieldKind::integer, "head_dim", "elements of a head and of a KV row", 2, 4096},
    {offsetof(ProjectProblem, rope_dim), FieldKind::integer, "rope_dim", "rotated elements, the last of a head", 0,
     4096},
    {offsetof(ProjectProblem, q_rank), FieldKind::integer, "q_rank", "elements of the query latent", 1, kMaxDim},
    {offsetof(ProjectProblem, numerics), FieldKind::numerics, "numerics", "exact: f32 activations; served: bf16"},
    {offsetof(ProjectProblem, wq_a_dtype),
     FieldKind::dtype,
     "wq_a_dtype",
     "f32, bf16 or e4m3",
     0,
     0,
     {},
     "weight_dtype"},
    {offsetof(ProjectProblem, wq_b_dtype),
     FieldKind::dtype,
     "wq_b_dtype",
     "f32, bf16 or e4m3",
     0,
     0,
     {},
     "weight_dtype"},
    {offsetof(ProjectProblem, wkv_dtype), FieldKind::dtype, "wkv_dtype", "f32, bf16 or e4m3", 0, 0, {}, "weight_dtype"},
    {offsetof(ProjectProblem, window_format), FieldKind::word, "window_format", "rows of the window cache", 0, 0,
     kCacheFormatWords},
    {offsetof(ProjectProblem, window_page_size), FieldKind::integer, "window_page_size", "rows of a window page", 1,
     kMaxPageSize},
    {offsetof(ProjectProblem, norm_eps), FieldKind::real, "norm_eps", "added to every mean square", 0, 1},
    {offsetof(ProjectProblem, q_form), FieldKind::word, "q_form", "raw: q is the product, attend norms and rotates it",
     0, 0, kQFormWords},
};
constexpr ProjectProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(ProjectProblem), &kDefaults};

constexpr OpSpec kSpec{"project", "project",
                       "Turn hidden states into queries and the window's KV rows: norm, RoPE, quantise, write the window cache.",
                       "q_latent = RMSNorm(x wq_a^T);  q = rotate(head_norm(q_latent wq_b^T));  row = rotate(RMSNorm(x wkv^T))",
                       "spec 2", kProjectArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const ProjectProblem*>(opaque);
  FATHOM_TRY(check_weight_dtype("project", "wq_a_dtype", problem.wq_a_dtype));
  FATHOM_TRY(check_weight_dtype("project", "wq_b_dtype", problem.wq_b_dtype));
  FATHOM_TRY(check_weight_dtype("project", "wkv_dtype", problem.wkv_dtype));
  FATHOM_TRY(check_rope_dim("project", problem.rope_dim, problem.head_dim));
  return row_layout(problem.window_format, problem.head_dim).status();
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const ProjectProblem*>(opaque);
  const auto& args = *static_cast<const ProjectArgs*>(opaque_args);
  FATHOM_TRY(check_scale("project", "wq_a_scale", problem.wq_a_dtype, args.wq_a_scale));
  FATHOM_TRY(check_scale("project", "wq_b_scale", problem.wq_b_dtype, args.wq_b_scale));
  FATHOM_TRY(check_scale("project", "wkv_scale", problem.wkv_dtype, args.wkv_scale));
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.window_format, problem.head_dim));
  return paged_cache("project", "window_cache", args.window_cache, layout, problem.window_page_size).status();
}

}  // namespace

const ProblemSpec& ProjectProblem::spec() noexcept { return kProblem; }

const Op& project_op() noexcept {
  static const Op op{&kSpec, project_implementations(), validate, check};
  return op;
}

Result<ProjectPlan> plan_project(const ProjectProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<ProjectPlan>(project_op(), problem, device, options);
}
Status project(const ProjectPlan& plan, const ProjectArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(project_op(), plan, args, workspace, stream);
}

}  // namespace fathom
