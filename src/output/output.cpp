// output: check -> select -> plan -> run.
#include "fathom/output.h"

#include "core/arg_checks.h"
#include "output/output_impl.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(OutputProblem, num_tokens), FieldKind::capacity, "num_tokens", "tokens of a step, at most", 0,
     kMaxTokens},
    {offsetof(OutputProblem, hidden_size), FieldKind::integer, "hidden_size", "elements of a hidden state", 1, kMaxDim},
    {offsetof(OutputProblem, num_heads), FieldKind::integer, "num_heads", "query heads", 1, kMaxHeads},
    {offsetof(OutputProblem, head_dim), FieldKind::integer, "head_dim", "elements of a head", 2, 4096},
    {offsetof(OutputProblem, rope_dim), FieldKind::integer, "rope_dim", "rotated elements, the last of a head", 0,
     4096},
    {offsetof(OutputProblem, output_groups), FieldKind::integer, "output_groups", "groups of consecutive heads", 1,
     kMaxHeads},
    {offsetof(OutputProblem, output_rank), FieldKind::integer, "output_rank", "elements a group is projected to", 1,
     kMaxDim},
    {offsetof(OutputProblem, numerics), FieldKind::numerics, "numerics", "exact: f32 activations; served: bf16"},
    {offsetof(OutputProblem, wo_a_dtype),
     FieldKind::dtype,
     "wo_a_dtype",
     "f32, bf16 or e4m3",
     0,
     0,
     {},
     "weight_dtype"},
    {offsetof(OutputProblem, wo_b_dtype),
     FieldKind::dtype,
     "wo_b_dtype",
     "f32, bf16 or e4m3",
     0,
     0,
     {},
     "weight_dtype"},
    {offsetof(OutputProblem, out_dtype), FieldKind::dtype, "out_dtype", "f32 or bf16"},
    {offsetof(OutputProblem, attn_form), FieldKind::word, "attn_form", "unrotated: attend undid the rotation", 0, 0,
     std::span(kOutFormWords).first(2)},
};
constexpr OutputProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(OutputProblem), &kDefaults};

constexpr OpSpec kSpec{"output", "output", "Undo RoPE on the attention result and project it back: grouped down, then up.",
                       "z_g = inverse_rotate(attn_out)_g wo_a_g^T;  out = z wo_b^T", "spec 6.3", kOutputArgs, &kProblem};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const OutputProblem*>(opaque);
  FATHOM_TRY(check_weight_dtype("output", "wo_a_dtype", problem.wo_a_dtype));
  FATHOM_TRY(check_weight_dtype("output", "wo_b_dtype", problem.wo_b_dtype));
  FATHOM_TRY(check_float("output", "out_dtype", problem.out_dtype));
  FATHOM_TRY(check_rope_dim("output", problem.rope_dim, problem.head_dim));
  if (problem.num_heads % problem.output_groups != 0) {
    return Status::invalid("output: output_groups is %d, expected a divisor of num_heads=%d", problem.output_groups, problem.num_heads);
  }
  return {};
}

Status check(const void* opaque, const void* opaque_args) {
  const auto& problem = *static_cast<const OutputProblem*>(opaque);
  const auto& args = *static_cast<const OutputArgs*>(opaque_args);
  FATHOM_TRY(check_scale("output", "wo_a_scale", problem.wo_a_dtype, args.wo_a_scale));
  FATHOM_TRY(check_scale("output", "wo_b_scale", problem.wo_b_dtype, args.wo_b_scale));
  const std::int64_t group_dim = std::int64_t{problem.num_heads / problem.output_groups} * problem.head_dim;
  if (args.wo_a.shape[1] != group_dim) {
    return Status::invalid("output: wo_a has %lld columns, expected group_dim=%lld (num_heads / output_groups * head_dim)",
                           static_cast<long long>(args.wo_a.shape[1]), static_cast<long long>(group_dim));
  }
  if (!args.wo_a_scale.is_absent() && args.wo_a_scale.shape[1] != (group_dim + 127) / 128) {
    return Status::invalid("output: wo_a_scale has %lld columns, expected %lld (group_dim / 128)",
                           static_cast<long long>(args.wo_a_scale.shape[1]), static_cast<long long>((group_dim + 127) / 128));
  }
  return {};
}

}  // namespace

const ProblemSpec& OutputProblem::spec() noexcept { return kProblem; }

const Op& output_op() noexcept {
  static const Op op{&kSpec, output_implementations(), validate, check};
  return op;
}

Result<OutputPlan> plan_output(const OutputProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<OutputPlan>(output_op(), problem, device, options);
}
Status output(const OutputPlan& plan, const OutputArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(output_op(), plan, args, workspace, stream);
}

}  // namespace fathom
