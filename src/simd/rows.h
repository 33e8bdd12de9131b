// What the cpu implementations do to one f32 row between products: norms, rotation, Hadamard, rounding (spec 0.4 to 0.7).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/scratch.h"
#include "fathom/core/tensor.h"
#include "simd/numbers.h"
#include "simd/row_math.h"
#include "simd/words.h"

namespace fathom {

/// A position inside the rotary table; all others are padding.
inline bool is_token(const TensorView& rope_table, std::int64_t position) noexcept {
  return position >= 0 && position < rope_table.shape[0];
}
inline const float* rope_row(const TensorView& rope_table, std::int64_t position) noexcept {
  return rope_table.row<const float>(position);
}

/// Rounds a row to what its element type can hold, in place.
inline void round_row(float* row, std::int64_t count, DType dtype) noexcept {
  if (dtype == DType::bf16) simd::round_bf16(row, count);
}

inline float inverse_rms(const float* row, std::int64_t count, float eps) noexcept {
  return 1.0f / std::sqrt(simd::sum_of_squares(row, count) / static_cast<float>(count) + eps);
}

/// RMSNorm with weights f32 or bf16; the caller rounds.
inline void rms_norm(float* row, const TensorView& weight, std::int64_t count, float eps) noexcept {
  const float s = inverse_rms(row, count, eps);
  if (weight.dtype == DType::f32) {
    simd::weigh_row(row, static_cast<const float*>(weight.data), count, s);
  } else {
    simd::weigh_row(row, static_cast<const bf16*>(weight.data), count, s);
  }
}

/// Weightless RMS over a head. In bf16 the model runs it as tensor arithmetic: squares, mean, mean + eps, the inverse
/// root and the product each round. Keeping these roundings matters: FP8 products further on turn a last-place
/// difference of q into one of a whole code step (docs/design/0007-served-numerics.md).
inline void head_norm(float* row, std::int64_t count, float eps, DType activation) noexcept {
  if (activation == DType::f32) return simd::scale_row(row, count, inverse_rms(row, count, eps));
  const float sum = simd::sum_of_rounded_squares(row, count);
  const float mean = round_bf16(round_bf16(sum / static_cast<float>(count)) + eps);
  simd::scale_row(row, count, round_bf16(1.0f / std::sqrt(mean)));
  round_row(row, count, activation);
}

/// Rotates `rope_dim` elements, adjacent pairs, by cos and sin of one table row; `direction` -1 undoes it.
inline void rotate(float* last, int rope_dim, const float* rope, float direction = 1.0f) noexcept {
  simd::rotate(last, rope_dim, rope, direction);
}

/// Walsh-Hadamard in natural order over a power-of-two count, scaled by count^-0.5.
inline void hadamard(float* row, std::int64_t count) noexcept {
  simd::hadamard(row, count);
  simd::scale_row(row, count, static_cast<float>(1.0 / std::sqrt(static_cast<double>(count))));
}

}  // namespace fathom
