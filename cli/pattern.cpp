// Attention patterns: the visibility rules of spec 3.4 and 6.1, drawn as blocks of text and as SVG.
#include "cli/pattern.h"

#include <fmt/core.h>

#include <algorithm>

#include "cli/svg.h"

namespace fathom::cli {
namespace {

constexpr const char* kWindowColour = "#3b6fb6";
constexpr const char* kEntryColour = "#d9822b";
constexpr const char* kVisibleColour = "#f5e0c8";

/// A number that decides between visible entries in the example; it drifts slowly, as real scores do.
std::uint64_t example_score(int position, int entry) noexcept {
  std::uint64_t x = static_cast<std::uint64_t>(entry) * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(position / 8);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

std::string title_of(const Pattern& pattern) {
  if (pattern.ratio == 0) return fmt::format("window of {} tokens", pattern.window);
  const bool picks = pattern.topk > 0 && pattern.topk < pattern.num_entries();
  return fmt::format("window of {} tokens, an entry for each {} tokens, {}", pattern.window, pattern.ratio,
                     picks ? fmt::format("{} picked (an example: picks depend on scores)", pattern.topk)
                           : std::string("all visible ones taken"));
}

/// The sign of a block of cells [first, last): the same for all, or partly seen.
template <class CellAt>
const char* sign_of(int first, int last, CellAt&& cell_at) {
  int seen = 0, visible = 0;
  for (int i = first; i < last; ++i) {
    const Cell cell = cell_at(i);
    seen += cell == Cell::seen;
    visible += cell == Cell::visible;
  }
  if (seen == last - first) return "█";
  return seen > 0 ? "▓" : visible > 0 ? "░" : "·";
}

template <class CellAt>
std::string line_of(int count, int step, CellAt&& cell_at) {
  std::string line;
  for (int first = 0; first < count; first += step) line += sign_of(first, std::min(first + step, count), cell_at);
  return line;
}

/// Draws runs of equal cells as one rectangle each.
template <class CellAt>
void draw_row(Svg& svg, double x, double y, double cell, int count, std::string_view seen_colour, CellAt&& cell_at) {
  for (int first = 0; first < count;) {
    const Cell kind = cell_at(first);
    int last = first + 1;
    while (last < count && cell_at(last) == kind) ++last;
    if (kind != Cell::hidden) {
      svg.rect(x + first * cell, y, (last - first) * cell, cell, kind == Cell::seen ? seen_colour : kVisibleColour);
    }
    first = last;
  }
}

}  // namespace

Cell window_cell(const Pattern& pattern, int position, int token) noexcept {
  return token <= position && token > position - pattern.window ? Cell::seen : Cell::hidden;
}

int visible_entries(const Pattern& pattern, int position) noexcept {
  return pattern.ratio == 0 ? 0 : (position + 1) / pattern.ratio;
}

Cell entry_cell(const Pattern& pattern, int position, int entry) noexcept {
  const int visible = visible_entries(pattern, position);
  if (entry >= visible) return Cell::hidden;
  if (pattern.topk == 0 || visible <= pattern.topk) return Cell::seen;
  const std::uint64_t own = example_score(position, entry);
  int better = 0;
  for (int other = 0; other < visible; ++other) better += example_score(position, other) > own;
  return better < pattern.topk ? Cell::seen : Cell::visible;
}

std::string pattern_text(const Pattern& pattern) {
  constexpr int kMostLines = 64;
  const int step = (pattern.tokens + kMostLines - 1) / kMostLines;
  const int entries = pattern.num_entries();
  const int columns = (pattern.tokens + step - 1) / step;
  std::string text = title_of(pattern) + "\n\n";
  text += fmt::format("{:>6}  {:<{}}  {}\n", "query", "tokens", std::max(columns, 6), entries > 0 ? "entries" : "");
  for (int first = 0; first < pattern.tokens; first += step) {
    const int position = std::min(first + step, pattern.tokens) - 1;
    const std::string tokens =
        line_of(pattern.tokens, step, [&](int token) { return window_cell(pattern, position, token); });
    const std::string compressed =
        line_of(entries, step, [&](int entry) { return entry_cell(pattern, position, entry); });
    const std::string blanks(static_cast<std::size_t>(std::max(0, 6 - columns)), ' ');
    text += fmt::format("{:>6}  {}{}{}{}\n", position, tokens, blanks, entries > 0 ? "  " : "", compressed);
  }
  text += "\n█ seen";
  if (step > 1) text += fmt::format("   ▓ partly seen (a column stands for {})", step);
  if (entries > 0 && pattern.topk > 0) text += "   ░ visible, not picked";
  return text + "   · not visible\n";
}

std::string pattern_svg(const Pattern& pattern) {
  constexpr double kMargin = 48, kWidest = 960, kGap = 24;
  const int entries = pattern.num_entries();
  const double cell = std::clamp(kWidest / (pattern.tokens + entries), 1.0, 14.0);
  const double tokens_width = pattern.tokens * cell;
  const double entries_x = kMargin + tokens_width + kGap;
  const double width = (entries > 0 ? entries_x + std::max(entries * cell, 80.0) : kMargin + tokens_width) + kMargin;
  const double height = kMargin + pattern.tokens * cell + kMargin;
  Svg svg;
  svg.text(kMargin, 20, title_of(pattern), "start", 14);
  svg.text(kMargin, kMargin - 8, fmt::format("tokens 0 .. {}", pattern.tokens - 1));
  svg.rect(kMargin, kMargin, tokens_width, pattern.tokens * cell, "#f4f6f9");
  if (entries > 0) {
    svg.text(entries_x, kMargin - 8, fmt::format("entries 0 .. {}", entries - 1));
    svg.rect(entries_x, kMargin, entries * cell, pattern.tokens * cell, "#faf7f3");
  }
  for (int position = 0; position < pattern.tokens; ++position) {
    const double y = kMargin + position * cell;
    draw_row(svg, kMargin, y, cell, pattern.tokens, kWindowColour,
             [&](int token) { return window_cell(pattern, position, token); });
    draw_row(svg, entries_x, y, cell, entries, kEntryColour,
             [&](int entry) { return entry_cell(pattern, position, entry); });
  }
  svg.text(kMargin - 6, kMargin + 10, "query 0", "end", 10);
  svg.text(kMargin - 6, kMargin + pattern.tokens * cell, std::to_string(pattern.tokens - 1), "end", 10);
  svg.text(kMargin, height - 18, "blue: window   orange: entries seen   pale: visible, not picked");
  return svg.finish(std::max(width, 480.0), height);
}

}  // namespace fathom::cli
