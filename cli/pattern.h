// Which rows each query sees: tokens of its window and compressed entries, as text and as a drawing.
#pragma once

#include <cstdint>
#include <string>

namespace fathom::cli {

/// Queries 0 .. tokens-1 of one sequence.
struct Pattern {
  int ratio = 4;   ///< tokens per entry; 0: no entries
  int window = 8;  ///< tokens
  int tokens = 32;
  int topk = 4;  ///< entries picked; 0: every visible one

  int num_entries() const noexcept { return ratio == 0 ? 0 : tokens / ratio; }
};

enum class Cell : std::uint8_t { hidden, visible, seen };

/// A query sees tokens position - window + 1 .. position.
Cell window_cell(const Pattern& pattern, int position, int token) noexcept;
/// Entries visible to a query: those whose last token is not after it (spec 0.1).
int visible_entries(const Pattern& pattern, int position) noexcept;
/// With fewer visible entries than topk all are seen; otherwise a fixed example of topk of them, since picks depend on
/// scores. `visible` marks those not picked.
Cell entry_cell(const Pattern& pattern, int position, int entry) noexcept;

/// One line for each query; past 64 queries a line and a column stand for several.
std::string pattern_text(const Pattern& pattern);
std::string pattern_svg(const Pattern& pattern);

}  // namespace fathom::cli
