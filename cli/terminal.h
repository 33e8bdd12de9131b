// How the program talks: error sentences, colours, aligned tables, and the progress of a long run.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/status.h"

namespace fathom::cli {

/// Prints "fathom: <sentence>" on stderr.
void print_error(std::string_view sentence);
/// Prints the status on stderr and returns kFailed.
int fail(const Status& status);

/// True if colours may be written to `stream`: it is a terminal, and NO_COLOR is unset or empty.
bool wants_colour(std::FILE* stream);
enum class Colour : std::uint8_t { green, red, dim, bold };
/// `text`, coloured if `enabled`.
std::string coloured(std::string_view text, Colour colour, bool enabled);

/// A text table with aligned columns. Numbers stand better on the right: a column whose title starts with '>' does.
class Table {
 public:
  explicit Table(std::vector<std::string> titles);
  void add(std::vector<std::string> cells);
  /// Title line, then one line for each row, two spaces between columns, no trailing blanks.
  std::string text() const;

 private:
  std::vector<std::string> titles_;
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

/// Progress of a run on stderr: a bar where stderr is a terminal, otherwise a plain line at each tenth.
class Progress {
 public:
  enum class Style : std::uint8_t { none, lines, bar };
  /// The style for `stream`: none if quiet.
  static Style style_for(std::FILE* stream, bool quiet);

  Progress(std::FILE* stream, Style style, std::string title, std::int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of the total are finished; `phase` is a word such as "prefill".
  void update(std::int64_t done, std::string_view phase);

 private:
  std::string bar_text(std::int64_t done, std::string_view phase, double seconds) const;

  std::FILE* stream_;
  Style style_;
  std::string title_;
  std::int64_t total_;
  std::int64_t tenths_shown_ = 0;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_drawn_;
};

}  // namespace fathom::cli
