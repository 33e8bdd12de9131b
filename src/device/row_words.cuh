// What the CUDA stages do to a row between products: the words of src/simd/rows.h on the device. Roundings stand where
// the CPU's stand, and no multiplication is fused with an addition that the CPU rounds apart, so that equal inputs give
// equal codes; only sums of squares run in an order of their own (fixed, and closer to the exact sum than a chain).
#pragma once

#include <cuda_bf16.h>

#include "device/rows.cuh"

namespace fathom {

/// A position inside the rotary table; all others are padding.
__device__ inline bool is_token(const TensorView& rope_table, std::int64_t position) {
  return position >= 0 && position < rope_table.shape[0];
}
__device__ inline const float* rope_row(const TensorView& rope_table, std::int64_t position) {
  return rope_table.row<const float>(position);
}

/// round_bf16 in one instruction; what NaN it makes of a NaN is its own affair.
__device__ inline float rounded_bf16(float value) { return __bfloat162float(__float2bfloat16_rn(value)); }

/// 1 / sqrt(mean + eps), each step rounded.
__device__ inline float inverse_rms(float sum_of_squares, std::int64_t count, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum_of_squares, static_cast<float>(count)), eps)));
}

/// Factor of the weightless head norm. In bf16 mean, mean + eps and the inverse root round, as the squares behind `sum`
/// and the product with the factor do (head_norm in src/simd/rows.h says why).
__device__ inline float head_factor(float sum, std::int64_t count, float eps, DType activation) {
  if (activation == DType::f32) return inverse_rms(sum, count, eps);
  const float mean = rounded_bf16(__fadd_rn(rounded_bf16(__fdiv_rn(sum, static_cast<float>(count))), eps));
  return rounded_bf16(__fdiv_rn(1.0f, __fsqrt_rn(mean)));
}

__device__ inline float warp_max(float value) {
  for (int d = 16; d > 0; d /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, d));
  return value;
}

/// Rotates one pair; -s undoes it.
__device__ inline void rotate_pair(float& even, float& odd, float c, float s) {
  const float e = even, o = odd;
  even = __fsub_rn(__fmul_rn(e, c), __fmul_rn(o, s));
  odd = __fadd_rn(__fmul_rn(e, s), __fmul_rn(o, c));
}

/// Rotates the last `rope_dim` of `dim` elements in shared memory and rounds them; all threads of the block take part.
__device__ inline void rotate_by_block(float* row, int dim, int rope_dim, const float* rope, DType activation) {
  const int half = rope_dim / 2;
  float* last = row + dim - rope_dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    rotate_pair(last[2 * i], last[2 * i + 1], rope[i], rope[half + i]);
    last[2 * i] = rounded(last[2 * i], activation);
    last[2 * i + 1] = rounded(last[2 * i + 1], activation);
  }
  __syncthreads();
}

/// Pair number `pair` of the Walsh-Hadamard stage whose partners lie `span` apart.
__device__ inline void butterfly(float* row, int pair, int span) {
  const int i = pair / span * 2 * span + pair % span;
  const float a = row[i], b = row[i + span];
  row[i] = a + b;
  row[i + span] = a - b;
}

/// Walsh-Hadamard in natural order over a power-of-two count in shared memory, without its factor; all threads take
/// part.
__device__ inline void hadamard_by_block(float* row, int count) {
  for (int span = 1; span < count; span *= 2) {
    for (int pair = threadIdx.x; pair < count / 2; pair += blockDim.x) butterfly(row, pair, span);
    __syncthreads();
  }
}

/// count^-0.5, what a Hadamard transform ends with; computed on the host as the CPU computes it.
inline float hadamard_factor(int count) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(count))); }

/// Eight neighbouring elements of a row: 16 bytes of bf16.
struct Eight {
  float v[8];
};

/// Rotates four pairs by their cosines and sines.
__device__ inline void rotate_eight(Eight& eight, const float4& cosines, const float4& sines) {
  rotate_pair(eight.v[0], eight.v[1], cosines.x, sines.x);
  rotate_pair(eight.v[2], eight.v[3], cosines.y, sines.y);
  rotate_pair(eight.v[4], eight.v[5], cosines.z, sines.z);
  rotate_pair(eight.v[6], eight.v[7], cosines.w, sines.w);
}

/// True if every row starts a 16-byte word and is whole eights.
inline bool has_wide_rows(const TensorView& tensor) {
  bool wide = reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 && tensor.shape[tensor.rank - 1] % 8 == 0;
  for (int i = 0; i + 1 < tensor.rank; ++i) wide = wide && tensor.strides[i] * bits_of(tensor.dtype) % 128 == 0;
  return wide;
}

__device__ inline Eight load_eight(const bf16* from) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const std::uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
  Eight eight;
  for (int i = 0; i < 4; ++i) {
    eight.v[2 * i] = __uint_as_float(pairs[i] << 16);
    eight.v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
  return eight;
}
__device__ inline void store_eight(bf16* to, const Eight& eight) {
  uint4 words;
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(&words);
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(eight.v[2 * i], eight.v[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = words;
}

/// The same at element `at` of an f32 or bf16 view: `count` elements, whole words where the rows are `wide`.
__device__ inline Eight load_eight(const TensorView& tensor, std::int64_t at, int count, bool wide) {
  if (wide && tensor.dtype == DType::bf16) return load_eight(static_cast<const bf16*>(tensor.data) + at);
  Eight eight{};
  if (wide) {
    const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(tensor.data) + at);
    *reinterpret_cast<float4*>(eight.v) = from[0];
    *reinterpret_cast<float4*>(eight.v + 4) = from[1];
    return eight;
  }
  for (int i = 0; i < 8; ++i) {
    if (i < count) eight.v[i] = load_element(tensor, at + i);
  }
  return eight;
}
__device__ inline void store_eight(const TensorView& tensor, std::int64_t at, int count, bool wide,
                                   const Eight& eight) {
  if (wide && tensor.dtype == DType::bf16) return store_eight(static_cast<bf16*>(tensor.data) + at, eight);
  for (int i = 0; i < 8; ++i) {
    if (i < count) store_element(tensor, at + i, eight.v[i]);
  }
}

}  // namespace fathom
