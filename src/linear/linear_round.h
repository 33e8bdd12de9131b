// Rounding to E4M3 in floats, for GPUs without the conversion (sm_80, sm_86). Host and device; the test holds it against
// the codec on every code boundary.
#pragma once

#include <bit>
#include <cstdint>

#include "cache/number_codecs.h"

namespace fathom {

/// decode_e4m3(encode_e4m3(value)).
constexpr float round_to_e4m3(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return value;
  constexpr std::uint32_t kLargest = std::bit_cast<std::uint32_t>(kE4m3Largest);
  const std::uint32_t clamped = magnitude < kLargest ? magnitude : kLargest;
  const std::uint32_t normal = (clamped + 0x7ffffu + ((clamped >> 20) & 1u)) & 0xfff00000u;
  // Below 2^-6 codes step by 2^-9, the last place of an f32 near 2^14.
  const float subnormal = std::bit_cast<float>(clamped) + 0x1p14f - 0x1p14f;
  const std::uint32_t rounded = clamped < std::bit_cast<std::uint32_t>(0x1p-6f) ? std::bit_cast<std::uint32_t>(subnormal) : normal;
  return std::bit_cast<float>(rounded | (bits & 0x80000000u));
}

}  // namespace fathom
