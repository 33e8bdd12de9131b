// Columns of cached rows to f32 by vectors: row_codec's decode_row for a stripe of many rows. Included once for each
// target.
#if defined(FATHOM_SIMD_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_SIMD_DECODE_INL_H_
#undef FATHOM_SIMD_DECODE_INL_H_
#else
#define FATHOM_SIMD_DECODE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cache/number_codecs.h"
#include "simd/e4m3-inl.h"
#include "simd/loops.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd {
namespace HWY_NAMESPACE {

/// codes[i] * scale. Where one is NaN, or the scale times 256 infinite, or they do not fill pairs of vectors, by the
/// table.
HWY_INLINE void decode_e4m3(const std::uint8_t* HWY_RESTRICT codes, int count, float scale, float* HWY_RESTRICT out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const float factor = scale * 256;
  const bool plain = count % (2 * lanes) == 0 && std::abs(factor) < std::numeric_limits<float>::infinity();
  if (HWY_UNLIKELY(!plain || any_nan_e4m3(codes, count))) return dequantise_e4m3(codes, count, scale, out);
  const auto factors = hn::Set(d, factor);
  for (int i = 0; i < count; i += 2 * lanes) {
    hn::Vec<decltype(d)> low, high;
    widen_finite_e4m3(d, codes + i, low, high);
    hn::StoreU(hn::Mul(low, factors), d, out + i);
    hn::StoreU(hn::Mul(high, factors), d, out + i + lanes);
  }
}

/// 32 packed codes times a scale, by way of bytes that hold twice the values.
HWY_INLINE void decode_e2m1(const std::uint8_t* HWY_RESTRICT packed, float scale, float* HWY_RESTRICT out) {
#if HWY_TARGET == HWY_SCALAR
  dequantise_e2m1(packed, 32, scale, out);
#else
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::FixedTag<std::uint8_t, 16> d8;
  const hn::FixedTag<std::int8_t, 16> i8;
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> d32;
  const hn::Rebind<std::int8_t, decltype(d)> quarter;
  alignas(16) static constexpr std::int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const auto table = hn::Load(i8, kTwice);
  const auto codes = hn::LoadU(d8, packed);
  const auto even = hn::TableLookupBytes(table, hn::BitCast(i8, hn::And(codes, hn::Set(d8, 15))));
  const auto moved = hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(hn::FixedTag<std::uint16_t, 8>(), codes)));
  const auto odd = hn::TableLookupBytes(table, hn::BitCast(i8, hn::And(moved, hn::Set(d8, 15))));
  alignas(16) std::int8_t values[32];
  hn::Store(hn::InterleaveLower(i8, even, odd), i8, values);
  hn::Store(hn::InterleaveUpper(i8, even, odd), i8, values + 16);
  const auto factors = hn::Set(d, scale * 0.5f);
  for (std::size_t i = 0; i < 32; i += hn::Lanes(d)) {
    hn::StoreU(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(quarter, values + i))), factors), d, out + i);
  }
#endif
}

HWY_INLINE void decode_bf16(const std::byte* HWY_RESTRICT in, int count, float* HWY_RESTRICT out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> d32;
  const hn::Rebind<std::uint16_t, decltype(d)> half;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto* words = reinterpret_cast<const std::uint16_t*>(in);
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(half, words + i)))), d, out + i);
  }
  for (; i < count; ++i) out[i] = to_f32(bf16{words[i]});
}

HWY_INLINE float scale_at(const RowSegment& scales, const RowBytes& bytes, int block) {
  const std::byte* at = (scales.in_footer ? bytes.footer : bytes.row) + scales.offset;
  if (scales.dtype == DType::ue8m0) return kUe8m0Values[static_cast<std::uint8_t>(at[block])];
  float scale;
  std::memcpy(&scale, at + block * sizeof(float), sizeof(float));
  return scale;
}

/// Columns [at, end) of a quantised segment, all under scale number `block`. Where scales are bytes in the footer, as
/// in the caches that models fill, nothing is asked again for each row.
HWY_INLINE void decode_block(const RowSegment& codes, const RowSegment& scales, const RowBytes* rows,
                             std::int64_t num_rows, int block, int at, int end, float* out, std::int64_t stride) {
  if (codes.dtype == DType::e4m3 && scales.dtype == DType::ue8m0 && scales.in_footer && !codes.in_footer) {
    constexpr std::int64_t kAhead = 8;
    for (std::int64_t j = 0; j < num_rows; ++j) {
      if (j + kAhead < num_rows) __builtin_prefetch(rows[j + kAhead].row + codes.offset + at);
      const float scale = kUe8m0Values[static_cast<std::uint8_t>(rows[j].footer[scales.offset + block])];
      decode_e4m3(reinterpret_cast<const std::uint8_t*>(rows[j].row) + codes.offset + at, end - at, scale,
                  out + j * stride);
    }
    return;
  }
  for (std::int64_t j = 0; j < num_rows; ++j) {
    const float scale = scale_at(scales, rows[j], block);
    const auto* in =
        reinterpret_cast<const std::uint8_t*>((codes.in_footer ? rows[j].footer : rows[j].row) + codes.offset);
    if (codes.dtype == DType::e4m3) {
      decode_e4m3(in + at, end - at, scale, out + j * stride);
    } else {
      decode_e2m1(in + at / 2, scale, out + j * stride);
    }
  }
}

void decode(const RowLayout& layout, const RowBytes* rows, std::int64_t num_rows, int first, int count, float* out,
            std::int64_t stride) {
  for (int i = 0; i < layout.num_segments; ++i) {
    const RowSegment& segment = layout.segments[i];
    const bool quantised = segment.scale_block > 0;
    if (quantised) ++i;  // its scales stand behind it
    if (!quantised && segment.dtype != DType::f32 && segment.dtype != DType::bf16) continue;
    const int from = std::max(first, segment.first), to = std::min(first + count, segment.first + segment.count);
    if (from >= to) continue;
    float* columns = out + (from - first);
    if (quantised) {
      for (int at = from - segment.first; at < to - segment.first;) {
        const int block = at / segment.scale_block,
                  end = std::min(to - segment.first, (block + 1) * segment.scale_block);
        decode_block(segment, layout.segments[i], rows, num_rows, block, at, end, columns + (at + segment.first - from),
                     stride);
        at = end;
      }
      continue;
    }
    const std::int64_t offset = segment.offset + bytes_of(segment.dtype, from - segment.first);
    for (std::int64_t j = 0; j < num_rows; ++j) {
      const std::byte* in = (segment.in_footer ? rows[j].footer : rows[j].row) + offset;
      if (segment.dtype == DType::f32) {
        std::memcpy(columns + j * stride, in, (to - from) * sizeof(float));
      } else {
        decode_bf16(in, to - from, columns + j * stride);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fathom::simd
HWY_AFTER_NAMESPACE();

#endif
