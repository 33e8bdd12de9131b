// Number formats as the harness reads them: its own few lines, not the library's, so that a slip there cannot hide.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "fathom/core/tensor.h"

namespace fathom::harness {

inline double e4m3_value(std::uint8_t code) noexcept {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double magnitude = exponent == 0 ? mantissa * 0x1p-9 : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}
inline double e2m1_value(int code) noexcept {
  constexpr double kValues[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -kValues[code & 7] : kValues[code & 7];
}
inline double ue8m0_value(std::uint8_t byte) noexcept {
  return byte == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, byte - 127);
}

/// Distance to the next code above |value|, in units of the block's scale.
inline double e4m3_step(double value) noexcept {
  const double magnitude = std::fabs(value) < 448 ? std::fabs(value) : 448;  // NaN and infinity step like the largest code
  return magnitude < 0x1p-6 ? 0x1p-9 : std::ldexp(1.0, std::ilogb(magnitude) - 3);
}
inline double e2m1_step(double value) noexcept {
  const double magnitude = std::fabs(value);
  return magnitude < 2 ? 0.5 : magnitude < 4 ? 1 : 2;
}

/// Element `i` of a row, as a number.
inline double element_of(const std::byte* row, DType dtype, std::int64_t i) noexcept {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row);
  switch (dtype) {
    case DType::f32:
      return reinterpret_cast<const float*>(row)[i];
    case DType::bf16:
      return to_f32(reinterpret_cast<const bf16*>(row)[i]);
    case DType::e4m3:
      return e4m3_value(bytes[i]);
    case DType::e2m1x2:
      return e2m1_value(bytes[i / 2] >> (i % 2 * 4) & 15);
    case DType::ue8m0:
      return ue8m0_value(bytes[i]);
    case DType::i32:
      return reinterpret_cast<const std::int32_t*>(row)[i];
    case DType::i64:
      return static_cast<double>(reinterpret_cast<const std::int64_t*>(row)[i]);
    case DType::u8:
      return bytes[i];
  }
  return 0;
}

/// 4096 E4M3 codes of normal values with deviation 64.
const std::vector<std::uint8_t>& normal_e4m3_codes();

}  // namespace fathom::harness
