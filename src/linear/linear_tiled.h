// linear for many tokens: a tiled product on tensor cores (linear_tiled_sm80.cu), chosen by linear_sm80.cu.
#pragma once

#include "core/implementation.h"
#include "fathom/linear.h"

namespace fathom {

inline bool quantises(const LinearProblem& problem) noexcept { return problem.activation_quant == ActivationQuant::e4m3_128; }

/// x quantised and back, bf16 [tokens, groups * in_dim], row by row. x lies on 16-byte boundaries. `early`: the launch may begin before
/// the one in front of it has ended, where the device can do that. `is_paired`: of each 16 elements the pairs 0, 2, 4, 6 come first, then the
/// others; in_dim is a multiple of 16 then.
Status launch_quantise(const LinearProblem& problem, const TensorView& x, const RunContext& context, std::byte* out, bool early, bool is_paired);
Result<bool> can_quantise_early(const Device& device);

/// Scratch for x as the product sees it, where it is quantised.
std::int64_t tiled_scratch_bytes(const LinearProblem& problem);
Status prepare_tiled(const LinearProblem& problem, const Device& device);
/// `scratch` has tiled_scratch_bytes; x and the weight lie on 16-byte boundaries, row by row.
Status launch_tiled(const LinearProblem& problem, const LinearArgs& args, const RunContext& context, std::byte* scratch);

}  // namespace fathom
