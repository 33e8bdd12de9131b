// The row formats as code: an interpreter of RowLayout's segments, so that offsets and counts are stated once, there.
#include "cache/row_codec.h"

#include <cstring>

#include "cache/number_codecs.h"

namespace fathom {
namespace {

/// Writes a quantised segment and its scales, which row_layout.cpp puts right behind it in the table.
void encode_quantised(const RowSegment& codes, const RowSegment& scales, const float* values, std::byte* row,
                      std::byte* scale_bytes) noexcept {
  const int block = codes.scale_block;
  for (int g = 0; g < codes.count / block; ++g) {
    auto* out = reinterpret_cast<std::uint8_t*>(row + bytes_of(codes.dtype, std::int64_t{g} * block));
    const std::uint8_t scale = codes.dtype == DType::e4m3 ? quantise_q8(values + g * block, block, out)
                                                          : quantise_q4(values + g * block, block, out);
    if (scales.dtype == DType::ue8m0) {
      scale_bytes[g] = static_cast<std::byte>(scale);
    } else {
      const float power = decode_ue8m0(scale);
      std::memcpy(scale_bytes + g * sizeof(float), &power, sizeof(float));
    }
  }
}

void decode_quantised(const RowSegment& codes, const RowSegment& scales, const std::byte* row,
                      const std::byte* scale_bytes, float* values) noexcept {
  const int block = codes.scale_block;
  for (int g = 0; g < codes.count / block; ++g) {
    float scale;
    if (scales.dtype == DType::ue8m0) {
      scale = decode_ue8m0(static_cast<std::uint8_t>(scale_bytes[g]));
    } else {
      std::memcpy(&scale, scale_bytes + g * sizeof(float), sizeof(float));
    }
    const auto* in = reinterpret_cast<const std::uint8_t*>(row + bytes_of(codes.dtype, std::int64_t{g} * block));
    if (codes.dtype == DType::e4m3) {
      dequantise_e4m3(in, block, scale, values + g * block);
    } else {
      dequantise_e2m1(in, block, scale, values + g * block);
    }
  }
}

}  // namespace

void encode_row(const RowLayout& layout, const float* values, std::byte* row, std::byte* footer) noexcept {
  for (int i = 0; i < layout.num_segments; ++i) {
    const RowSegment& segment = layout.segments[i];
    std::byte* out = (segment.in_footer ? footer : row) + segment.offset;
    const float* in = values + segment.first;
    if (segment.scale_block > 0) {
      const RowSegment& scales = layout.segments[++i];
      encode_quantised(segment, scales, in, out, (scales.in_footer ? footer : row) + scales.offset);
    } else if (segment.dtype == DType::f32) {
      std::memcpy(out, in, segment.count * sizeof(float));
    } else if (segment.dtype == DType::bf16) {
      for (int c = 0; c < segment.count; ++c) {
        const bf16 rounded = to_bf16(in[c]);
        std::memcpy(out + c * sizeof(bf16), &rounded, sizeof(bf16));
      }
    } else {
      std::memset(out, 0, segment.count);  // padding
    }
  }
}

void decode_row(const RowLayout& layout, const std::byte* row, const std::byte* footer, float* values) noexcept {
  for (int i = 0; i < layout.num_segments; ++i) {
    const RowSegment& segment = layout.segments[i];
    const std::byte* in = (segment.in_footer ? footer : row) + segment.offset;
    float* out = values + segment.first;
    if (segment.scale_block > 0) {
      const RowSegment& scales = layout.segments[++i];
      decode_quantised(segment, scales, in, (scales.in_footer ? footer : row) + scales.offset, out);
    } else if (segment.dtype == DType::f32) {
      std::memcpy(out, in, segment.count * sizeof(float));
    } else if (segment.dtype == DType::bf16) {
      for (int c = 0; c < segment.count; ++c) {
        bf16 stored;
        std::memcpy(&stored, in + c * sizeof(bf16), sizeof(bf16));
        out[c] = to_f32(stored);
      }
    }
  }
}

}  // namespace fathom
