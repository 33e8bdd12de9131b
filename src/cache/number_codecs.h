// Exact conversions between f32 and the small number formats of caches and FP8 weights, and the two quantisers built on
// them (spec 0.2, 0.3). Everything is constexpr and free of containers, so that device code can include it; loops are
// written over integers and selects, so that compilers vectorise them.
//
// Values that no model produces, but a cache must survive:
//   NaN       E4M3 has a NaN: the element becomes it, and the block's scale ignores the element. E2M1 has none: the
//             block's scale byte becomes 0xFF, so that the block of 32 reads as NaN rather than as a made-up number.
//   infinity  takes the scale of the largest finite value and the largest code; it reads back as an infinity.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "fathom/core/dtype.h"

namespace fathom {

inline constexpr float kE4m3Largest = 448.0f;
inline constexpr float kE2m1Largest = 6.0f;
inline constexpr std::uint8_t kUe8m0Nan = 0xff;

/// E4M3 code of `value`: nearest, ties to even, saturating at 448; every NaN gives 0x7F.
constexpr std::uint8_t encode_e4m3(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  constexpr std::uint32_t kLargest = std::bit_cast<std::uint32_t>(kE4m3Largest);
  const std::uint32_t clamped = magnitude < kLargest ? magnitude : kLargest;
  // Normal results: round the 23-bit mantissa to 3 bits, then move the exponent from bias 127 to bias 7.
  const std::uint32_t normal = ((clamped + 0x7ffffu + ((clamped >> 20) & 1u)) >> 20) - (120u << 3);
  // Below 2^-6 codes step by 2^-9, the last place of an f32 near 2^14: the addition rounds.
  const float shifted = std::bit_cast<float>(clamped) + 0x1p14f;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p14f);
  const std::uint32_t code = clamped < std::bit_cast<std::uint32_t>(0x1p-6f) ? subnormal : normal;
  return static_cast<std::uint8_t>(magnitude > 0x7f800000u ? 0x7fu : code | (bits >> 24 & 0x80u));
}

/// Value of an E4M3 code; 0x7F and 0xFF are NaN.
constexpr float decode_e4m3(std::uint8_t code) noexcept {
  const std::uint32_t magnitude = code & 0x7fu;
  const float normal = std::bit_cast<float>((magnitude << 20) + (120u << 23));
  // Exponent field 0 read as a normal number is 2^-7 * (1 + m/8); wanted is 2^-6 * m/8.
  const float positive = magnitude < 8 ? normal + normal - 0x1p-6f : normal;
  const std::uint32_t bits = magnitude == 0x7fu ? 0x7fc00000u : std::bit_cast<std::uint32_t>(positive);
  return std::bit_cast<float>(bits | (code & 0x80u) << 24);
}

/// decode_e4m3 of every code: scalar loops are faster with the table.
inline constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) values[code] = decode_e4m3(static_cast<std::uint8_t>(code));
  return values;
}();

/// E2M1 code (0..15) of `value`: nearest, ties to even, saturating at 6. NaN, which the format lacks, gives a
/// zero of its sign.
constexpr std::uint8_t encode_e2m1(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const float a = std::bit_cast<float>(bits & 0x7fffffffu);
  const int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
  return static_cast<std::uint8_t>(static_cast<std::uint32_t>(code) | (bits >> 28 & 8u));
}

inline constexpr std::array<float, 16> kE2m1Values = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                                      -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/// Value of an E2M1 code; only the low four bits count.
constexpr float decode_e2m1(std::uint8_t code) noexcept { return kE2m1Values[code & 15u]; }

/// 2^(code - 127); 0xFF is NaN.
constexpr float decode_ue8m0(std::uint8_t code) noexcept {
  if (code == 0) return 0x1p-127f;
  if (code == kUe8m0Nan) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(std::uint32_t{code} << 23);
}

/// decode_ue8m0 of every code.
inline constexpr std::array<float, 256> kUe8m0Values = [] {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) values[code] = decode_ue8m0(static_cast<std::uint8_t>(code));
  return values;
}();

/// E(v) of the specification: ceil(log2 v) of a positive normal number, taken from its bits.
constexpr int ceil_log2(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<int>(bits >> 23) - 127 + ((bits & 0x7fffffu) != 0);
}

/// Scale exponent e of a Q8 block whose largest magnitude is `largest` (finite): s = 2^e, scale byte e + 127.
constexpr int q8_exponent(float largest) noexcept {
  const float floored = largest > 1e-4f ? largest : 1e-4f;
  return ceil_log2(floored * (1.0f / kE4m3Largest));
}

/// The same of a Q4 block.
constexpr int q4_exponent(float largest) noexcept {
  constexpr float kFloor = 6.0f * 0x1p-126f;
  const float floored = largest > kFloor ? largest : kFloor;
  return ceil_log2(floored * (1.0f / kE2m1Largest));
}

/// 2^e for -126 <= e <= 127.
constexpr float exp2_of(int exponent) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

/// Largest magnitude among `values` rounded to bfloat16. NaN counts as 0, infinity as the largest finite bfloat16.
constexpr float largest_magnitude(const float* values, int count) noexcept {
  constexpr std::int32_t kLargestFinite = 0x7f7f0000;
  std::int32_t largest = 0;
  for (int i = 0; i < count; ++i) {
    const auto bits = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(round_bf16(values[i])) & 0x7fffffffu);
    const std::int32_t number = bits > 0x7f800000 ? 0 : bits;
    largest = number > largest ? number : largest;
  }
  return std::bit_cast<float>(largest < kLargestFinite ? largest : kLargestFinite);
}

/// Q8 over one block: rounds `values` to bfloat16, writes `count` E4M3 codes, returns the scale byte (s =
/// 2^(byte-127)).
constexpr std::uint8_t quantise_q8(const float* values, int count, std::uint8_t* codes) noexcept {
  const int exponent = q8_exponent(largest_magnitude(values, count));
  const float inverse = exp2_of(-exponent);
  for (int i = 0; i < count; ++i) codes[i] = encode_e4m3(round_bf16(values[i]) * inverse);
  return static_cast<std::uint8_t>(exponent + 127);
}

/// Q4 over one block of an even number of values: rounds them to bfloat16, writes count / 2 bytes, even element in the
/// low nibble, returns the scale byte.
constexpr std::uint8_t quantise_q4(const float* values, int count, std::uint8_t* packed) noexcept {
  const int exponent = q4_exponent(largest_magnitude(values, count));
  const float inverse = exp2_of(-exponent);
  bool has_nan = false;
  for (int i = 0; i < count; i += 2) {
    const float low = round_bf16(values[i]), high = round_bf16(values[i + 1]);
    packed[i / 2] = static_cast<std::uint8_t>(encode_e2m1(low * inverse) | encode_e2m1(high * inverse) << 4);
    has_nan |= low != low || high != high;
  }
  return has_nan ? kUe8m0Nan : static_cast<std::uint8_t>(exponent + 127);
}

/// codes[i] * scale, exact: four significant bits times a power of two.
constexpr void dequantise_e4m3(const std::uint8_t* codes, int count, float scale, float* values) noexcept {
  for (int i = 0; i < count; ++i) values[i] = kE4m3Values[codes[i]] * scale;
}

/// Unpacks count / 2 bytes of E2M1 pairs and scales them.
constexpr void dequantise_e2m1(const std::uint8_t* packed, int count, float scale, float* values) noexcept {
  for (int i = 0; i < count; i += 2) {
    values[i] = kE2m1Values[packed[i / 2] & 15u] * scale;
    values[i + 1] = kE2m1Values[packed[i / 2] >> 4] * scale;
  }
}

}  // namespace fathom
