// Error sentences, colours, tables and progress. The only place that looks at the environment (NO_COLOR).
#include "cli/terminal.h"

#include <unistd.h>

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>

#include "cli/commands.h"

namespace fathom::cli {
namespace {

using Clock = std::chrono::steady_clock;

bool is_terminal(std::FILE* stream) { return isatty(fileno(stream)) == 1; }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string seconds_text(double seconds) {
  const int whole = static_cast<int>(std::min(seconds + 0.5, 359999.0));
  return whole < 60 ? fmt::format("{}s", whole) : fmt::format("{}m{:02}s", whole / 60, whole % 60);
}

/// Characters a UTF-8 text takes on a terminal (all of ours are one column wide).
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

}  // namespace

void print_error(std::string_view sentence) {
  std::fflush(stdout);
  fmt::print(stderr, "fathom: {}\n", sentence);
}

int fail(const Status& status) {
  print_error(status.text());
  return kFailed;
}

bool wants_colour(std::FILE* stream) {
  const char* no_colour = std::getenv("NO_COLOR");
  return is_terminal(stream) && (no_colour == nullptr || *no_colour == '\0');
}

std::string coloured(std::string_view text, Colour colour, bool enabled) {
  constexpr const char* kCodes[] = {"32", "31", "2", "1"};
  if (!enabled) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<int>(colour)], text);
}

Table::Table(std::vector<std::string> titles) : titles_(std::move(titles)) {
  for (std::string& title : titles_) {
    const bool right = !title.empty() && title.front() == '>';
    right_.push_back(right);
    if (right) title.erase(0, 1);
  }
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(titles_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const std::string& title : titles_) widths.push_back(width_of(title));
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string result;
  const auto append = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string blanks(widths[i] - width_of(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (right_[i] ? blanks + row[i] : row[i] + blanks);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result += line + "\n";
  };
  append(titles_);
  for (const auto& row : rows_) append(row);
  return result;
}

Progress::Style Progress::style_for(std::FILE* stream, bool quiet) {
  return quiet ? Style::none : is_terminal(stream) ? Style::bar : Style::lines;
}

Progress::Progress(std::FILE* stream, Style style, std::string title, std::int64_t total)
    : stream_(stream), style_(style), title_(std::move(title)), total_(total), start_(Clock::now()) {}

Progress::~Progress() {
  if (!drawn_) return;
  // The bar leaves its place to the lines that follow.
  std::fputs("\r\x1b[K", stream_);
  std::fflush(stream_);
}

void Progress::update(std::int64_t done, std::string_view phase) {
  if (style_ == Style::none || total_ <= 0) return;
  const double seconds = seconds_since(start_);
  if (style_ == Style::lines) {
    const std::int64_t tenths = done * 10 / total_;
    if (tenths <= tenths_shown_) return;
    tenths_shown_ = tenths;
    fmt::print(stream_, "{}: {} {}/{} tokens, {}\n", title_, phase, done, total_, seconds_text(seconds));
    std::fflush(stream_);
    return;
  }
  constexpr double kSecondsBetweenDrawings = 0.05;
  if (drawn_ && done < total_ && seconds_since(last_drawn_) < kSecondsBetweenDrawings) return;
  drawn_ = true;
  last_drawn_ = Clock::now();
  fmt::print(stream_, "\r{}\x1b[K", bar_text(done, phase, seconds));
  std::fflush(stream_);
}

std::string Progress::bar_text(std::int64_t done, std::string_view phase, double seconds) const {
  constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  constexpr std::int64_t kCells = 24;
  const std::int64_t eighths = done * kCells * 8 / total_;
  std::string bar;
  for (std::int64_t i = 0; i < eighths / 8; ++i) bar += "█";
  bar += kEighths[eighths % 8];
  const std::int64_t filled = (eighths + 7) / 8;
  bar += std::string(static_cast<std::size_t>(kCells - filled), ' ');
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0.0;
  const std::string left =
      done > 0 && done < total_ ? ", " + seconds_text(static_cast<double>(total_ - done) / rate) + " left" : "";
  const std::string frame = wants_colour(stream_) ? coloured(bar, Colour::green, true) : bar;
  return fmt::format("{} |{}| {}/{} {} {:.0f} tokens/s{}", title_, frame, done, total_, phase, rate, left);
}

}  // namespace fathom::cli
