// merge_partials: check -> select -> plan -> run.
#include "attend/merge_partials_impl.h"
#include "core/arg_checks.h"
#include "fathom/attend.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(MergePartialsProblem, num_partials), FieldKind::integer, "num_partials", "parts", 1, 4096},
    {offsetof(MergePartialsProblem, num_tokens), FieldKind::capacity, "num_tokens", "query tokens, at most", 0, kMaxTokens},
    {offsetof(MergePartialsProblem, num_heads), FieldKind::integer, "num_heads", "query heads", 1, kMaxHeads},
    {offsetof(MergePartialsProblem, value_dim), FieldKind::integer, "value_dim", "elements of a head's result", 1, 4096},
    {offsetof(MergePartialsProblem, partial_dtype), FieldKind::dtype, "partial_dtype", "f32 or bf16"},
    {offsetof(MergePartialsProblem, out_dtype), FieldKind::dtype, "out_dtype", "f32 or bf16"},
};
constexpr MergePartialsProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(MergePartialsProblem), &kDefaults};

constexpr OpSpec kSpec{"merge_partials", "attend", "Merge attention over disjoint row sets by their lse; the sink joins once.",
                       "out = sum_p exp(lse_p) out_p / (sum_p exp(lse_p) + exp(sink))", "spec 6.2, 13.2", kMergePartialsArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const MergePartialsProblem*>(opaque);
  FATHOM_TRY(check_float("merge_partials", "partial_dtype", problem.partial_dtype));
  return check_float("merge_partials", "out_dtype", problem.out_dtype);
}

}  // namespace

const ProblemSpec& MergePartialsProblem::spec() noexcept { return kProblem; }

const Op& merge_partials_op() noexcept {
  static const Op op{&kSpec, merge_partials_implementations(), validate, nullptr};
  return op;
}

Result<MergePartialsPlan> plan_merge_partials(const MergePartialsProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<MergePartialsPlan>(merge_partials_op(), problem, device, options);
}
Status merge_partials(const MergePartialsPlan& plan, const MergePartialsArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(merge_partials_op(), plan, args, workspace, stream);
}

}  // namespace fathom
