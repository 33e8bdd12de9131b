// The shapes and dtypes of ArgSpec, read from the public table alone: the harness must not share the reader that the
// argument checks use, or a slip there would hide itself.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/op.h"

namespace fathom::harness {

/// Extents by name: values for words that are no problem field, and for capacity fields of which a run brings fewer.
using Extents = std::map<std::string, std::int64_t, std::less<>>;

/// `spec.shape` in numbers. A word that neither `extents` nor the problem knows is an error that names it.
Result<std::vector<std::int64_t>> resolve_shape(const OpSpec& op, const void* problem, const ArgSpec& spec,
                                                const Extents& extents);
/// Element types that the argument may have, in the table's order.
std::vector<DType> allowed_dtypes(const OpSpec& op, const void* problem, const ArgSpec& spec);
/// The field called `name`, or null.
const ProblemField* problem_field(const OpSpec& op, std::string_view name) noexcept;

}  // namespace fathom::harness
