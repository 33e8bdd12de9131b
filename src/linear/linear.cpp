// linear: check -> select -> plan -> run.
#include "fathom/linear.h"

#include "core/arg_checks.h"
#include "linear/linear_impl.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(LinearProblem, num_tokens), FieldKind::capacity, "num_tokens", "rows of x, at most", 0, kMaxTokens},
    {offsetof(LinearProblem, in_dim), FieldKind::integer, "in_dim", "elements summed over, per group", 1, kMaxDim},
    {offsetof(LinearProblem, out_dim), FieldKind::integer, "out_dim", "outputs, per group", 1, kMaxDim},
    {offsetof(LinearProblem, groups), FieldKind::integer, "groups", "block-diagonal groups", 1, kMaxHeads},
    {offsetof(LinearProblem, x_dtype), FieldKind::dtype, "x_dtype", "f32 or bf16"},
    {offsetof(LinearProblem, weight_dtype), FieldKind::dtype, "weight_dtype", "f32, bf16 or e4m3"},
    {offsetof(LinearProblem, out_dtype), FieldKind::dtype, "out_dtype", "f32 or bf16"},
    {offsetof(LinearProblem, activation_quant), FieldKind::word, "activation_quant", "how x is quantised first", 0, 0, kActivationQuantWords},
};
constexpr LinearProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(LinearProblem), &kDefaults};

constexpr OpSpec kSpec{"linear", "linear", "Multiply activations by a weight matrix, stored as f32, bf16 or E4M3 with tile scales.",
                       "out[t, n] = sum over k of x[t, k] * weight[n, k] * weight_scale[n / 128, k / 128]", "spec 0.5",
                       kLinearArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const LinearProblem*>(opaque);
  FATHOM_TRY(check_float("linear", "x_dtype", problem.x_dtype));
  FATHOM_TRY(check_float("linear", "out_dtype", problem.out_dtype));
  return check_weight_dtype("linear", "weight_dtype", problem.weight_dtype);
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const LinearProblem*>(opaque);
  const auto& args = *static_cast<const LinearArgs*>(opaque_args);
  return check_scale("linear", "weight_scale", problem.weight_dtype, args.weight_scale);
}

}  // namespace

const ProblemSpec& LinearProblem::spec() noexcept { return kProblem; }

const Op& linear_op() noexcept {
  static const Op op{&kSpec, linear_implementations(), validate, check};
  return op;
}

Result<LinearPlan> plan_linear(const LinearProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<LinearPlan>(linear_op(), problem, device, options);
}
Status linear(const LinearPlan& plan, const LinearArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(linear_op(), plan, args, workspace, stream);
}

}  // namespace fathom
