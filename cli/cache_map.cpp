// Byte maps of cache pages, made from a RowLayout and nothing else.
#include "cli/cache_map.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <span>

#include "cli/svg.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

const char* colour_of(const ByteRange& range) noexcept {
  const std::string_view name = range.name;
  if (name == "padding" || name == "pad") return "#dddddd";
  if (name == "scales") return "#d9822b";
  return name == "rope" ? "#4f9d69" : "#3b6fb6";
}

std::string what(const ByteRange& range) {
  return range.row < 0 ? std::string(range.name)
                       : fmt::format("{} {} x {}", range.name, range.count, name_of(range.dtype));
}

std::string title_of(const RowLayout& layout, std::int64_t page_size) {
  return fmt::format("{}: page of {} rows, {} bytes, stride {}", name_of(layout.format), page_size,
                     layout.page_bytes(page_size), layout.page_stride(page_size));
}

/// Rows that a picture of a long page leaves out.
bool is_shown(const ByteRange& range, std::int64_t page_size) noexcept {
  constexpr std::int64_t kFirstRows = 3;
  return range.row < kFirstRows || range.row == page_size - 1;
}

}  // namespace

int model_dim(CacheFormat format) noexcept {
  switch (format) {
    case CacheFormat::kv_f32:
    case CacheFormat::kv_bf16:
    case CacheFormat::kv_e4m3_ue8m0:
      return 512;
    case CacheFormat::kv_e4m3_f32:
      return 576;
    case CacheFormat::index_f32:
    case CacheFormat::index_e4m3_f32:
    case CacheFormat::index_e2m1_ue8m0:
      return 128;
    case CacheFormat::state_f32:
      return 2048;
  }
  return 0;
}

std::vector<ByteRange> page_map(const RowLayout& layout, std::int64_t page_size) {
  std::vector<ByteRange> map;
  for (std::int64_t row = 0; row < page_size; ++row) {
    for (const RowSegment& segment : std::span(layout.segments, static_cast<std::size_t>(layout.num_segments))) {
      const std::int64_t base =
          segment.in_footer ? page_size * layout.row_bytes + row * layout.footer_bytes : row * layout.row_bytes;
      map.push_back({base + segment.offset, bytes_of(segment.dtype, segment.count), row, segment.name, segment.dtype,
                     segment.count, segment.in_footer});
    }
  }
  std::sort(map.begin(), map.end(), [](const ByteRange& a, const ByteRange& b) { return a.first < b.first; });
  const std::int64_t end = layout.page_bytes(page_size), padding = layout.page_stride(page_size) - end;
  if (padding > 0) map.push_back({end, padding, -1, "padding", DType::u8, static_cast<int>(padding), false});
  return map;
}

std::string page_text(const RowLayout& layout, std::int64_t page_size) {
  Table table({">byte", ">bytes", "place", "what"});
  bool elided = false;
  for (const ByteRange& range : page_map(layout, page_size)) {
    if (!is_shown(range, page_size)) {
      if (!elided) table.add({"...", "", "", ""});
      elided = true;
      continue;
    }
    elided = false;
    const std::string place =
        range.row < 0 ? "page" : fmt::format("{} {}", range.in_footer ? "footer" : "row", range.row);
    table.add({std::to_string(range.first), std::to_string(range.bytes), place, what(range)});
  }
  return title_of(layout, page_size) + "\n\n" + table.text();
}

std::string page_svg(const RowLayout& layout, std::int64_t page_size) {
  constexpr double kLeft = 90, kTop = 40, kWidest = 720, kLine = 26, kBar = 20;
  // Rows are drawn to scale; footers too, but never thinner than can be read.
  const double per_byte = kWidest / layout.row_bytes;
  const double per_footer_byte = layout.footer_bytes > 0 ? std::min(24.0, kWidest / layout.footer_bytes) : 0.0;
  Svg svg;
  svg.text(kLeft, 22, title_of(layout, page_size), "start", 14);
  double y = kTop - kLine;
  const ByteRange* previous = nullptr;
  const std::vector<ByteRange> map = page_map(layout, page_size);
  bool elided = false;
  double line_start = 0;
  for (const ByteRange& range : map) {
    if (!is_shown(range, page_size)) {
      if (!elided) svg.text(kLeft, (y += kLine) + 14, "...");
      elided = true;
      continue;
    }
    elided = false;
    if (previous == nullptr || previous->row != range.row || previous->in_footer != range.in_footer) {
      y += kLine;
      line_start = static_cast<double>(range.first);
      svg.text(kLeft - 8, y + 14, std::to_string(range.first), "end", 11);
    }
    previous = &range;
    const double scale = range.in_footer ? per_footer_byte : per_byte;
    const double x = kLeft + (static_cast<double>(range.first) - line_start) * scale;
    const double width = std::clamp(static_cast<double>(range.bytes) * scale, 2.0, kWidest);
    svg.rect(x, y, width - 1, kBar, colour_of(range),
             fmt::format("bytes {} to {}", range.first, range.first + range.bytes - 1));
    // A narrow piece is named by its tooltip alone.
    const std::string label = what(range);
    if (width > 7.0 * static_cast<double>(label.size())) svg.text(x + 4, y + 14, label, "start", 11);
  }
  return svg.finish(kLeft + kWidest + 20, y + kLine + 20);
}

}  // namespace fathom::cli
