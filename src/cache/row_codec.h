// row_codec: one row of any cache format to and from f32. Every stage reads and writes cached rows through these two.
#pragma once

#include <cstddef>

#include "fathom/cache.h"

namespace fathom {

/// Writes `layout.dim` values as one row. Quantised segments round to bfloat16 first, then follow Q8 or Q4 (spec 0.3;
/// number_codecs.h says what becomes of NaN and infinity); bf16 segments round to nearest even; padding bytes become 0.
/// `footer` is the row's part of the page footer; formats without one ignore it.
void encode_row(const RowLayout& layout, const float* values, std::byte* row, std::byte* footer) noexcept;

/// Reads one row into `layout.dim` values, exactly; any scale is accepted, 0xFF (UE8M0) reads as NaN.
void decode_row(const RowLayout& layout, const std::byte* row, const std::byte* footer, float* values) noexcept;

}  // namespace fathom
