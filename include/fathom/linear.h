// linear: y = x * W^T, the one matrix product behind every projection of the layer.
#pragma once

#include "fathom/core/plan.h"

namespace fathom FATHOM_PUBLIC {

/// How activations are quantised before the product.
enum class ActivationQuant : std::uint8_t { none, e4m3_128 };
inline constexpr const char* kActivationQuantWords[] = {"none", "e4m3_128"};

struct LinearProblem {
  std::int32_t num_tokens = 1;
  std::int32_t in_dim = 0;   ///< K, of one group
  std::int32_t out_dim = 0;  ///< N, of one group
  std::int32_t groups = 1;   ///< block-diagonal groups: group g maps x[:, g] to out[:, g]
  DType x_dtype = DType::bf16;
  DType weight_dtype = DType::bf16;
  DType out_dtype = DType::bf16;
  ActivationQuant activation_quant = ActivationQuant::none;

  bool operator==(const LinearProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct LinearArgs {
  TensorView x, weight, weight_scale, out;
};

inline constexpr ArgSpec kLinearArgs[] = {
    {offsetof(LinearArgs, x), Role::in, "x", "num_tokens groups*in_dim", "$x_dtype", "activations"},
    {offsetof(LinearArgs, weight), Role::in, "weight", "groups*out_dim in_dim", "$weight_dtype", "one row per output"},
    {offsetof(LinearArgs, weight_scale), Role::optional_in, "weight_scale", "groups*out_dim/128 in_dim/128", "ue8m0",
     "one scale per 128x128 tile; required with e4m3 weights, absent otherwise"},
    {offsetof(LinearArgs, out), Role::out, "out", "num_tokens groups*out_dim", "$out_dtype", "rounded once"},
};
static_assert(lists_every_field<LinearArgs>(kLinearArgs));

using LinearPlan = Plan<LinearProblem>;

/// out[t, n] = sum over k of x[t, k] * weight[n, k] * weight_scale[n / 128, k / 128]
///   e4m3_128: x is quantised first, per token and 128 elements of K, to E4M3 with a power-of-two scale (spec 0.3, Q8).
/// Sums are f32. An infinity in x that is quantised, like a NaN, makes its row of out NaN or infinite. Results of one row do not depend on num_tokens or on the other rows (on CPUs).
/// Errors  invalid_argument: shape, dtype or device differs from the table; weight_scale missing or superfluous.
/// Source  spec 0.5; definition in src/linear/linear_reference.cpp.
Result<LinearPlan> plan_linear(const LinearProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status linear(const LinearPlan& plan, const LinearArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

}  // namespace fathom
