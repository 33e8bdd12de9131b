// What the stages ask of `linear`: the products of the model, planned together with the stage that runs them.
#pragma once

#include "fathom/linear.h"

namespace fathom {

/// A projection under `numerics`: Linear8 of the specification with E4M3 weights in `served`, a plain product otherwise.
inline LinearProblem projection(Numerics numerics, DType weight_dtype, std::int32_t num_tokens, std::int64_t in_dim,
                                std::int64_t out_dim) noexcept {
  const DType activation = activation_dtype(numerics);
  const bool quantised = weight_dtype == DType::e4m3 && numerics == Numerics::served;
  LinearProblem problem;
  problem.num_tokens = num_tokens;
  problem.in_dim = static_cast<std::int32_t>(in_dim);
  problem.out_dim = static_cast<std::int32_t>(out_dim);
  problem.x_dtype = activation;
  problem.weight_dtype = weight_dtype;
  problem.out_dtype = activation;
  problem.activation_quant = quantised ? ActivationQuant::e4m3_128 : ActivationQuant::none;
  return problem;
}

/// Tokens whose wide intermediate rows (queries, attention results) a cpu stage keeps at once.
inline constexpr std::int32_t kWideTokenTile = 256;

}  // namespace fathom
