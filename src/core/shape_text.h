// The little language of ArgSpec::shape and ArgSpec::dtypes: read once per plan, printed when an argument is wrong.
#pragma once

#include <span>
#include <string>

#include "core/implementation.h"

namespace fathom {

/// Fills plan.args from the op's ArgSpecs and the plan's problem.
Status resolve_args(detail::PlanData& plan);
/// "[8, 512]".
std::string shape_text(const TensorView& view);
/// "f32 or bf16".
std::string dtype_names(std::uint32_t dtypes);
/// "[num_tokens=7, topk=512]", with the extents that earlier arguments have bound.
std::string expected_shape(const ArgSpec& spec, const detail::ResolvedArg& resolved,
                           std::span<const std::int64_t> bound);

}  // namespace fathom
