// Caches: how rows lie in pages, and the pool that hands pages out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string_view>

#include "fathom/core/dtype.h"
#include "fathom/core/status.h"
#include "fathom/core/tensor.h"

namespace fathom FATHOM_PUBLIC {

/// Row formats, named by content. kv_*: window rows and compressed entries; index_*: index keys; state_f32: rows of an
/// open compression group.
enum class CacheFormat : std::uint8_t {
  kv_f32,            ///< dim f32
  kv_bf16,           ///< dim bf16
  kv_e4m3_ue8m0,     ///< 448 E4M3 + 64 bf16 inline, 7 UE8M0 scales + 1 pad at the page's end: 584 bytes
  kv_e4m3_f32,       ///< DeepSeek-V3.2: 512 E4M3, 4 f32 scales, 64 bf16, all inline: 656 bytes
  index_f32,         ///< dim f32
  index_e4m3_f32,    ///< dim E4M3 inline, one f32 scale (a power of two) at the page's end: 132 bytes
  index_e2m1_ue8m0,  ///< dim E2M1 packed inline, one UE8M0 scale per 32 at the page's end: 68 bytes
  state_f32,         ///< dim f32
};
inline constexpr const char* kCacheFormatWords[] = {"kv_f32",    "kv_bf16",        "kv_e4m3_ue8m0",    "kv_e4m3_f32",
                                                    "index_f32", "index_e4m3_f32", "index_e2m1_ue8m0", "state_f32"};
constexpr const char* name_of(CacheFormat format) noexcept {
  const auto index = static_cast<std::size_t>(format);
  return index < std::size(kCacheFormatWords) ? kCacheFormatWords[index] : "?";
}

constexpr std::optional<CacheFormat> cache_format_from(std::string_view name) noexcept {
  for (std::size_t i = 0; i < std::size(kCacheFormatWords); ++i) {
    if (name == kCacheFormatWords[i]) return static_cast<CacheFormat>(i);
  }
  return std::nullopt;
}

/// A run of equal elements within a row, or within its part of the page footer. A quantised segment is followed in the
/// layout by the segment of its scales.
struct RowSegment {
  const char* name = nullptr;  ///< "nope", "rope", "scales", "row", "pad"
  DType dtype = DType::u8;
  int first = 0;       ///< first element of the decoded row it holds (scales: 0)
  int count = 0;       ///< elements
  int offset = 0;      ///< bytes from the row's start, or from its part of the footer
  bool in_footer = false;
  int scale_block = 0;  ///< elements that share one scale; 0 = not quantised
};

/// A row format with its sizes filled in: pure data. A page of B rows is B * row_bytes, then B * footer_bytes.
struct RowLayout {
  CacheFormat format = CacheFormat::kv_f32;
  int dim = 0;
  int row_bytes = 0;
  int footer_bytes = 0;
  int num_segments = 0;
  RowSegment segments[4];
  int page_alignment = 1;  ///< what engines round page strides up to (576 for kv_e4m3_ue8m0); readers need 16 or less

  constexpr std::int64_t page_bytes(std::int64_t page_size) const noexcept {
    return page_size * (row_bytes + footer_bytes);
  }
  /// page_bytes rounded up to page_alignment.
  constexpr std::int64_t page_stride(std::int64_t page_size) const noexcept {
    return (page_bytes(page_size) + page_alignment - 1) / page_alignment * page_alignment;
  }
};

/// The layout of rows of `dim` elements in `format`; `dim` must be one the format can hold.
Result<RowLayout> row_layout(CacheFormat format, int dim) noexcept;

/// Rows in pages. A slot is page * page_size + offset; slots outside [0, num_slots()) are absent and never touched.
struct PagedCacheView {
  std::byte* pages = nullptr;
  RowLayout layout;
  std::int64_t page_size = 0;
  std::int64_t num_pages = 0;
  std::int64_t page_stride = 0;  ///< bytes
  DeviceKind device = DeviceKind::cpu;  ///< where `pages` lies

  constexpr std::int64_t num_slots() const noexcept { return num_pages * page_size; }
  constexpr bool holds(std::int64_t slot) const noexcept { return slot >= 0 && slot < num_slots(); }
  constexpr std::byte* row(std::int64_t slot) const noexcept {
    return pages + slot / page_size * page_stride + slot % page_size * layout.row_bytes;
  }
  constexpr std::byte* footer(std::int64_t slot) const noexcept {
    return pages + slot / page_size * page_stride + page_size * layout.row_bytes + slot % page_size * layout.footer_bytes;
  }
};

/// Reads u8 [num_pages, page_bytes] as pages of `page_size` rows; the first stride is the page stride. Base and stride
/// must keep the format's elements aligned. The status starts with "`op`: `argument`", without quotes.
Result<PagedCacheView> paged_cache(const char* op, const char* argument, const TensorView& pages, const RowLayout& layout,
                                   std::int64_t page_size) noexcept;

/// Slot of row `row` of a sequence through its block-table row, or -1 where it has no page.
constexpr std::int64_t slot_through(const std::int32_t* block_table, std::int64_t max_pages, std::int64_t page_size,
                                 std::int64_t row) noexcept {
  if (row < 0 || row / page_size >= max_pages) return -1;
  const std::int64_t page = block_table[row / page_size];
  return page < 0 ? -1 : page * page_size + row % page_size;
}

/// The three calls below run on the host: they refuse caches and views that lie on another device.
///
/// Writes `values` f32 or bf16 [n, dim] to slots i64 [n], quantising as the format says (spec 0.3, on the values rounded
/// to bf16). Slots outside the cache are skipped.
Status write_rows(const PagedCacheView& cache, const TensorView& slots, const TensorView& values) noexcept;
/// Reads slots i64 [n] into `values` f32 or bf16 [n, dim]; absent slots give zeros.
Status read_rows(const PagedCacheView& cache, const TensorView& slots, const TensorView& values) noexcept;
/// Copies rows from one cache to another, slot by slot: bytes within a format, else dequantise and quantise. A pair with
/// an absent slot is skipped.
Status convert_rows(const PagedCacheView& from, const TensorView& from_slots, const PagedCacheView& to,
                    const TensorView& to_slots) noexcept;

}  // namespace fathom
