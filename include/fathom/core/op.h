// OpSpec: an op's contract, declared once. Argument checks, the program, the C ABI, Python and the docs read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/problem.h"
#include "fathom/core/tensor.h"

namespace fathom FATHOM_PUBLIC {

enum class Role : std::uint8_t { in, optional_in, out, optional_out, inout, optional_inout };
constexpr const char* name_of(Role role) noexcept {
  constexpr const char* kNames[] = {"in", "optional in", "out", "optional out", "inout", "optional inout"};
  const auto index = static_cast<std::size_t>(role);
  return index < std::size(kNames) ? kNames[index] : "?";
}
constexpr bool is_optional(Role role) noexcept {
  return role == Role::optional_in || role == Role::optional_out || role == Role::optional_inout;
}
constexpr bool is_written(Role role) noexcept { return role != Role::in && role != Role::optional_in; }

/// One argument of an op.
///   shape   extents separated by blanks. A word is a field of the problem, or, if the problem has no such field, a
///           free extent that must agree wherever it is used. `a*b` multiplies, `/n` divides rounding up.
///           An extent named by a capacity field may be smaller than the plan's, alike for all arguments.
///   dtypes  names separated by '|'; `$field` is the type that field of the problem holds ($numerics: f32 or bf16).
struct ArgSpec {
  std::uint16_t offset;
  Role role;
  const char* name;
  const char* shape;
  const char* dtypes;
  const char* doc;
};

/// An op's contract. `Args` structs hold TensorViews and nothing else, so an argument list is also an array of views.
struct OpSpec {
  const char* name;
  const char* stage;    ///< the folder it lives in
  const char* summary;  ///< one sentence
  const char* formula;  ///< what it computes, in the specification's symbols
  const char* source;   ///< where the definition stands
  std::span<const ArgSpec> args;
  const ProblemSpec* problem;
};

/// True if the table lists every view of `Args` exactly once and in order: a forgotten field fails to compile.
template <class Args, std::size_t N>
constexpr bool lists_every_field(const ArgSpec (&args)[N]) noexcept {
  if (sizeof(Args) != N * sizeof(TensorView)) return false;
  for (std::size_t i = 0; i < N; ++i) {
    if (args[i].offset != i * sizeof(TensorView)) return false;
  }
  return true;
}

/// Values for the words of shapes: free extents, and capacities of which a run brings fewer than the problem says.
using Extents = std::map<std::string, std::int64_t, std::less<>>;
/// The shape of an argument in numbers. A word that neither `extents` nor the problem knows is an error that names it.
Result<std::vector<std::int64_t>> arg_shape(const OpSpec& op, const void* problem, const ArgSpec& arg,
                                            const Extents& extents = {}) noexcept;
/// The element types that the argument may have, in the order of its spec.
Result<std::vector<DType>> arg_dtypes(const OpSpec& op, const void* problem, const ArgSpec& arg) noexcept;

/// All ops, in the order of the layer's story.
std::span<const OpSpec* const> op_table() noexcept;
/// The op called `name`, or null.
const OpSpec* find_op(std::string_view name) noexcept;

}  // namespace fathom
