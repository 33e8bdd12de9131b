// The byte map of a cache page: where rows, footers and padding lie, as text and as a drawing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/cache.h"

namespace fathom::cli {

/// The row width the model uses with this format.
int model_dim(CacheFormat format) noexcept;

/// One run of bytes of a page.
struct ByteRange {
  std::int64_t first = 0;
  std::int64_t bytes = 0;
  std::int64_t row = -1;  ///< -1: padding of the page
  const char* name = "";  ///< the segment's, or "padding"
  DType dtype = DType::u8;
  int count = 0;  ///< elements
  bool in_footer = false;
};

/// All runs of a page, in order of their addresses; they cover it without gaps.
std::vector<ByteRange> page_map(const RowLayout& layout, std::int64_t page_size);

/// Long pages show their first and last rows.
std::string page_text(const RowLayout& layout, std::int64_t page_size);
std::string page_svg(const RowLayout& layout, std::int64_t page_size);

}  // namespace fathom::cli
