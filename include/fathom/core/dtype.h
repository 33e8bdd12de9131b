// Element types and the host's exact conversions to and from them.
#pragma once

#include "fathom/core/export.h"

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace fathom FATHOM_PUBLIC {

/// Element types of tensors. Sub-byte types count elements, not bytes: a row of 128 e2m1x2 elements takes 64 bytes.
enum class DType : std::uint8_t {
  f32,
  bf16,
  e4m3,    ///< FP8 E4M3 "fn": bias 7, largest 448, no infinities, NaN 0x7F and 0xFF
  e2m1x2,  ///< FP4 E2M1, two a byte, even element in the low nibble
  ue8m0,   ///< a power of two: byte b is 2^(b-127), 0xFF is NaN
  i32,
  i64,
  u8,
};
inline constexpr int kDTypeCount = 8;

struct DTypeInfo {
  const char* name;
  int bits;
};
inline constexpr DTypeInfo kDTypes[kDTypeCount] = {
    {"f32", 32}, {"bf16", 16}, {"e4m3", 8}, {"e2m1x2", 4}, {"ue8m0", 8}, {"i32", 32}, {"i64", 64}, {"u8", 8},
};

/// "?" and no bits for a byte that is no element type.
constexpr DTypeInfo info_of(DType dtype) noexcept {
  const int index = static_cast<int>(dtype);
  return index < kDTypeCount ? kDTypes[index] : DTypeInfo{"?", 0};
}
constexpr const char* name_of(DType dtype) noexcept { return info_of(dtype).name; }
constexpr int bits_of(DType dtype) noexcept { return info_of(dtype).bits; }
/// Bytes that `count` elements of a row take; a half-filled last byte counts whole.
constexpr std::int64_t bytes_of(DType dtype, std::int64_t count) noexcept {
  return (count * bits_of(dtype) + 7) / 8;
}
constexpr std::optional<DType> dtype_from(std::string_view name) noexcept {
  for (int i = 0; i < kDTypeCount; ++i) {
    if (name == kDTypes[i].name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

/// Brain float as stored. Arithmetic happens in f32; `to_bf16` rounds to nearest even and keeps NaN a NaN.
struct bf16 {
  std::uint16_t bits = 0;
};
constexpr float to_f32(bf16 value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
constexpr bf16 to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
/// `value` rounded to bfloat16 and widened again: bf(.) of the specification.
constexpr float round_bf16(float value) noexcept { return to_f32(to_bf16(value)); }

}  // namespace fathom
