// What happens to one f32 row between products, a vector at a time: norms, rotation, Hadamard, pooling (spec 0.4 to 0.7, 3).
// Each element goes through the roundings that the plain loops of rows.h once had; sums are taken in lanes.
#pragma once

#include <cstdint>

#include "fathom/core/dtype.h"

namespace fathom::simd {

/// The sum of values[i]^2, each square rounded to bf16 first.
float sum_of_rounded_squares(const float* values, std::int64_t count);

/// values[i] = weight[i] * (values[i] * factor).
void weigh_row(float* values, const float* weight, std::int64_t count, float factor);
void weigh_row(float* values, const bf16* weight, std::int64_t count, float factor);

/// Rotates adjacent pairs: pair i by the angle whose cosine is rope[i] and whose sine is direction * rope[dim / 2 + i].
void rotate(float* values, int dim, const float* rope, float direction);

/// Walsh-Hadamard in natural order over a power of two of values, not scaled.
void hadamard(float* values, std::int64_t count);

/// most[c] = score[c] where it is larger.
void keep_largest(const float* score, std::int64_t count, float* most);
/// weight = exp(score[c] - most[c]); sum[c] += weight; pooled[c] += weight * values[c].
void add_weighted(const float* score, const float* most, const float* values, std::int64_t count, float* sum, float* pooled);
/// values[c] /= divisor[c].
void divide_row(float* values, const float* divisor, std::int64_t count);

}  // namespace fathom::simd
