// OpCase: one line of text ("num_tokens=3 num_heads=64 seed=7") turned into an op's problem and filled arguments.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/op.h"
#include "harness/guarded_block.h"

namespace fathom::harness {

/// Whether a run sees an argument. Optional outputs that a case leaves out are still computed by the reference, so that
/// a comparison can look at them (index picks are judged by the reference's scores).
enum class Presence : std::uint8_t { absent, reference_only, given };

struct Argument {
  TensorView view;     ///< into `block`; of an output: its shape and strides
  GuardedBlock block;  ///< empty for pure outputs, which every run allocates afresh
  Presence presence = Presence::absent;
  std::uint64_t checksum = 0;  ///< of the filled block
};

/// A word of a case text that is no problem field.
struct CaseWord {
  const char* name;
  const char* doc;
};
/// Words every op's cases may use, with what they ask for.
std::vector<CaseWord> case_words();

struct OpCase {
  const OpSpec* op = nullptr;
  std::string text;                ///< what make_case was given
  std::vector<std::byte> problem;  ///< op->problem->size bytes
  std::map<std::string, std::int64_t, std::less<>> words;
  std::vector<Argument> args;  ///< one for each ArgSpec, in order

  /// Index of the argument called `name`; the name must exist.
  std::size_t index_of(std::string_view name) const noexcept;
  const Argument& arg(std::string_view name) const noexcept { return args[index_of(name)]; }
  template <class Problem>
  const Problem& problem_as() const noexcept {
    return *reinterpret_cast<const Problem*>(problem.data());
  }
  /// Bytes of all filled arguments.
  std::int64_t input_bytes() const noexcept;
};

/// The case's problem and words, without arguments: enough to plan it.
Result<OpCase> read_case(std::string_view op, std::string_view text);
/// Builds the case: parses the problem and the words, allocates and fills every argument. Equal texts give equal bytes.
Result<OpCase> make_case(std::string_view op, std::string_view text);

inline bool is_inout(Role role) noexcept { return role == Role::inout || role == Role::optional_inout; }

/// Bytes between the first and the last element of a view, both included.
std::int64_t span_bytes(const TensorView& view) noexcept;

/// Calls visit(pointer to the row's first byte, elements) for each row (run of the last dimension), in order.
template <class Visit>
void for_each_row(const TensorView& view, Visit&& visit) {
  if (view.numel() == 0) return;
  const int outer = view.rank - 1;
  std::int64_t rows = 1;
  for (int i = 0; i < outer; ++i) rows *= view.shape[i];
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t rest = row, offset = 0;
    for (int i = outer - 1; i >= 0; --i) {
      offset += rest % view.shape[i] * view.strides[i];
      rest /= view.shape[i];
    }
    visit(static_cast<std::byte*>(view.data) + offset * bits_of(view.dtype) / 8, view.shape[outer]);
  }
}

}  // namespace fathom::harness
