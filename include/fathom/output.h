// output: attention result -> hidden states (undo RoPE, grouped low-rank projection).
#pragma once

#include "fathom/core/plan.h"

namespace fathom FATHOM_PUBLIC {

struct OutputProblem {
  std::int32_t num_tokens = 1;
  std::int32_t hidden_size = 0;
  std::int32_t num_heads = 0;
  std::int32_t head_dim = 512;
  std::int32_t rope_dim = 64;
  std::int32_t output_groups = 1;
  std::int32_t output_rank = 0;
  Numerics numerics = Numerics::served;
  DType wo_a_dtype = DType::bf16;  ///< never multiplied quantised
  DType wo_b_dtype = DType::bf16;  ///< e4m3 is, in `served`
  DType out_dtype = DType::bf16;  ///< f32 for partial sums that ranks add up
  OutForm attn_form = OutForm::plain;  ///< of attn_out: attend's out_form, plain or unrotated

  bool operator==(const OutputProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct OutputArgs {
  TensorView attn_out, rope_table, positions, wo_a, wo_a_scale, wo_b, wo_b_scale, out;
};

inline constexpr ArgSpec kOutputArgs[] = {
    {offsetof(OutputArgs, attn_out), Role::in, "attn_out", "num_tokens num_heads head_dim", "$numerics",
     "from attend, in attn_form"},
    {offsetof(OutputArgs, rope_table), Role::in, "rope_table", "num_positions rope_dim", "f32",
     "cos, then sin, by position"},
    {offsetof(OutputArgs, positions), Role::in, "positions", "num_tokens", "i32",
     "outside the table = padding: out row zero"},
    {offsetof(OutputArgs, wo_a), Role::in, "wo_a", "output_groups*output_rank group_dim", "$wo_a_dtype",
     "group_dim = num_heads / output_groups * head_dim; block diagonal"},
    {offsetof(OutputArgs, wo_a_scale), Role::optional_in, "wo_a_scale", "output_groups*output_rank/128 group_tiles",
     "ue8m0", "with e4m3 weights"},
    {offsetof(OutputArgs, wo_b), Role::in, "wo_b", "hidden_size output_groups*output_rank", "$wo_b_dtype",
     "up-projection"},
    {offsetof(OutputArgs, wo_b_scale), Role::optional_in, "wo_b_scale", "hidden_size/128 output_groups*output_rank/128",
     "ue8m0", "with e4m3 weights"},
    {offsetof(OutputArgs, out), Role::out, "out", "num_tokens hidden_size", "$out_dtype", "the layer's output"},
};
static_assert(lists_every_field<OutputArgs>(kOutputArgs));

using OutputPlan = Plan<OutputProblem>;

/// o = inverse rotation of attn_out's last rope_dim dims at the query's position, unless attend did that;
/// z_g = o_g * wo_a_g^T per group of num_heads / output_groups consecutive heads;  out = z * wo_b^T.
/// In served numerics an e4m3 wo_b quantises its input; wo_a is used dequantised, whatever its storage.
/// Errors  invalid_argument: shape, dtype or device differs from the table; a scale missing or superfluous.
/// Source  spec 6.3; definition in src/output/output_reference.cpp.
Result<OutputPlan> plan_output(const OutputProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status output(const OutputPlan& plan, const OutputArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

}  // namespace fathom
