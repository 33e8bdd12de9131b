// Problems: what is computed, as sizes and words that print and parse as one line ("num_tokens=3 num_heads=64").
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/dtype.h"
#include "fathom/core/status.h"

namespace fathom FATHOM_PUBLIC {

/// How numbers are carried between the stages.
///   exact   f32 throughout, nothing quantised: what the mathematics says
///   served  bf16 activations, FP8 rows, Hadamard + FP4 index keys: what the model was trained to see
enum class Numerics : std::uint8_t { exact, served };
inline constexpr const char* kNumericsWords[] = {"exact", "served"};
constexpr const char* name_of(Numerics numerics) noexcept {
  const auto index = static_cast<std::size_t>(numerics);
  return index < std::size(kNumericsWords) ? kNumericsWords[index] : "?";
}
/// Element type of activations under these numerics.
constexpr DType activation_dtype(Numerics numerics) noexcept {
  return numerics == Numerics::exact ? DType::f32 : DType::bf16;
}

/// What queries are when `project` hands them to `attend`.
///   final  head-normed and rotated
///   raw    as the product left them: attend norms and rotates each head where it loads it, to the same bits
enum class QForm : std::uint8_t { final, raw };
inline constexpr const char* kQFormWords[] = {"final", "raw"};
/// What attention results are when `attend` hands them to `output`.
///   plain      as values came: they carry the rotation of their rows' positions
///   unrotated  turned back by the query's position, to the bits that `output` gives a plain result
///   e4m3       unrotated, then E4M3 codes with a power-of-two scale for each 128 elements (spec 0.3, Q8)
enum class OutForm : std::uint8_t { plain, unrotated, e4m3 };
inline constexpr const char* kOutFormWords[] = {"plain", "unrotated", "e4m3"};

enum class FieldKind : std::uint8_t {
  integer,   ///< std::int32_t
  capacity,  ///< std::int32_t, an upper bound: a run may bring fewer
  real,      ///< float
  word,      ///< an enum over std::uint8_t, printed by name
  dtype,     ///< DType
  numerics,  ///< Numerics
};

/// One field of a problem struct. `least` and `most` bound integers, and reals where they differ; `words` names the
/// values of an enum. Fields of one `group` are dtypes with one default; in texts the group's name sets all of them that
/// the text does not set by their own.
struct ProblemField {
  std::uint16_t offset;
  FieldKind kind;
  const char* name;
  const char* doc;
  std::int64_t least = 0;
  std::int64_t most = 0;
  std::span<const char* const> words = {};
  const char* group = nullptr;
};

/// A problem struct's fields, size and default values. Every problem type has `static const ProblemSpec& spec()`.
struct ProblemSpec {
  std::span<const ProblemField> fields;
  std::size_t size;
  const void* defaults;
};

/// Largest values that sizes may take; they keep every byte count inside 63 bits.
inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 24;
inline constexpr std::int64_t kMaxSeqs = std::int64_t{1} << 20;
inline constexpr std::int64_t kMaxHeads = 128;
inline constexpr std::int64_t kMaxDim = std::int64_t{1} << 20;
inline constexpr std::int64_t kMaxPageSize = std::int64_t{1} << 16;
inline constexpr std::int64_t kMaxEntries = std::int64_t{1} << 24;

/// A name that sets several fields at once.
struct FieldGroup {
  const char* name;
  std::string fields;  ///< "wq_a_dtype, wq_b_dtype"
};
/// The groups of the problem's fields, in order.
std::vector<FieldGroup> field_groups(const ProblemSpec& spec);

/// The names an enum-like field may take; empty for numbers.
std::span<const char* const> field_words(const ProblemField& field) noexcept;
/// One field's value as problem_text prints it.
std::string field_text(const ProblemField& field, const void* problem);
/// One line, fields in declaration order, those at their default value left out; a group whose fields mostly hold another
/// value is named with that value first, then the fields that differ from it. Never fails but for memory.
std::string problem_text(const ProblemSpec& spec, const void* problem);
/// Reads "name=value ..." over the defaults, in any order. Unknown, repeated or malformed fields are named in the status.
Status parse_problem(const ProblemSpec& spec, std::string_view text, void* problem) noexcept;
/// Every field inside its bounds.
Status check_problem(const ProblemSpec& spec, const char* op, const void* problem) noexcept;
/// The field called `name`, or null.
const ProblemField* find_field(const ProblemSpec& spec, std::string_view name) noexcept;
/// The integer behind field `name`, or -1 where the problem has no such field.
std::int64_t problem_integer(const ProblemSpec& spec, const void* problem, std::string_view name) noexcept;

template <class Problem>
std::string to_text(const Problem& problem) {
  return problem_text(Problem::spec(), &problem);
}
template <class Problem>
Result<Problem> problem_from(std::string_view text) noexcept {
  Problem problem;
  FATHOM_TRY(parse_problem(Problem::spec(), text, &problem));
  return problem;
}

}  // namespace fathom
