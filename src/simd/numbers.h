// Rows between their stored types and f32, and the roundings that activations go through. Bit for bit what fathom/core/dtype.h
// and cache/number_codecs.h define, a vector at a time.
#pragma once

#include <cstdint>

#include "fathom/core/tensor.h"

namespace fathom::simd {

void widen_bf16(const bf16* from, std::int64_t count, float* out);
void narrow_bf16(const float* from, std::int64_t count, bf16* out);

/// What bf16 makes of the values, in place.
void round_bf16(float* values, std::int64_t count);
/// What Q8 makes of the values, in place: E4M3 codes, a power of two for each 128 elements, and back (spec 0.3).
void round_q8(float* values, std::int64_t count);

/// Elements [at, at + count) of an f32 or bf16 tensor.
inline void load_values(const TensorView& tensor, std::int64_t at, std::int64_t count, float* out) {
  if (tensor.dtype == DType::bf16) return widen_bf16(static_cast<const bf16*>(tensor.data) + at, count, out);
  const float* from = static_cast<const float*>(tensor.data) + at;
  for (std::int64_t i = 0; i < count; ++i) out[i] = from[i];
}
inline void store_values(const TensorView& tensor, std::int64_t at, std::int64_t count, const float* values) {
  if (tensor.dtype == DType::bf16) return narrow_bf16(values, count, static_cast<bf16*>(tensor.data) + at);
  float* to = static_cast<float*>(tensor.data) + at;
  for (std::int64_t i = 0; i < count; ++i) to[i] = values[i];
}

}  // namespace fathom::simd
