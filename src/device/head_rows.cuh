// The two ends of attention: a query's head norm and rotation, and the turning back of a result. `project` and `output`
// do them in passes of their own, or `attend` where it loads queries and stores results: same order of sums, same
// roundings, same bits.
#pragma once

#include "device/mma.cuh"
#include "device/warp_rows.cuh"

namespace fathom {

/// True if heads are summed by words (head_squares): bf16, up to kWarpRow elements, all in whole 16-byte words.
inline bool has_wide_heads(const TensorView& heads, const TensorView& rope_table) {
  return heads.dtype == DType::bf16 && heads.shape[heads.rank - 1] <= kWarpRow && rope_table.shape[1] % 8 == 0 &&
         has_wide_rows(heads) && has_wide_rows(rope_table);
}

/// A lane's words of a head in a warp: word k holds elements [c, c + 8), c = column_of(k, lane); zeros past the end.
struct HeadWords {
  Eight words[2];
};
/// The sum of a head's squares, each rounded: of words.
__device__ inline float head_squares(const HeadWords& head) {
  float sum = 0;
  for (const Eight& word : head.words) {
    for (const float value : word.v) sum = __fadd_rn(sum, rounded_bf16(__fmul_rn(value, value)));
  }
  return warp_sum(sum);
}
__device__ inline HeadWords load_head(const bf16* from, int head_dim, int lane) {
  HeadWords head;
  for (int k = 0; k < 2; ++k) {
    const int c = column_of(k, lane);
    head.words[k] = c < head_dim ? load_eight(from + c) : Eight{};
  }
  return head;
}
/// The same of single elements from element `from` of a view on.
__device__ inline float head_squares(const TensorView& heads, std::int64_t from, int head_dim, int lane) {
  float sum = 0;
  for (int c = lane; c < head_dim; c += 32) {
    const float value = load_element(heads, from + c);
    sum = __fadd_rn(sum, rounded(__fmul_rn(value, value), heads.dtype));
  }
  return warp_sum(sum);
}

/// Eight elements of a query from column c on: times the head's factor, and rotated from column `plain` on; the
/// caller's store rounds.
__device__ inline void finish_query(Eight& word, int c, float factor, const float* rope, int rope_dim, int plain) {
  for (float& value : word.v) value *= factor;
  if (c < plain) return;
  for (float& value : word.v) value = rounded_bf16(value);
  rotate_and_round(word, rope, rope_dim, c - plain);
}

/// Cosines and sines of four neighbouring pairs; `at` is the first pair's place in the rotary part.
struct Rotation {
  float4 cosines, sines;
};
__device__ inline Rotation rotation_at(const float* rope, int rope_dim, int at) {
  return {*reinterpret_cast<const float4*>(rope + at / 2),
          *reinterpret_cast<const float4*>(rope + rope_dim / 2 + at / 2)};
}
__device__ inline Rotation reversed(const Rotation& rotation) {
  const float4& s = rotation.sines;
  return {rotation.cosines, float4{-s.x, -s.y, -s.z, -s.w}};
}

// bf16 pairs as they lie in memory. A product of two bf16 values is exact before it is rounded, so the packed
// instruction rounds as f32 arithmetic does.

/// Squares of a pair, added to a head's sum in order.
__device__ inline void add_squares(std::uint32_t pair, float& sum) {
  const std::uint32_t squares = mma::multiply_bf16x2(pair, pair);
  sum = __fadd_rn(__fadd_rn(sum, __uint_as_float(squares << 16)), __uint_as_float(squares & 0xffff0000u));
}
/// head_squares of a head whose words are packed.
__device__ inline float head_squares(const uint4 (&words)[2]) {
  float sum = 0;
  for (const uint4& word : words) {
    add_squares(word.x, sum);
    add_squares(word.y, sum);
    add_squares(word.z, sum);
    add_squares(word.w, sum);
  }
  return warp_sum(sum);
}
/// A head's factor, which is a bf16, twice.
__device__ inline std::uint32_t factor_pair(float factor) {
  return __float_as_uint(factor) >> 16 | __float_as_uint(factor);
}
/// One pair rotated by its cosine and sine; -sine turns it back. Each product and sum is rounded by itself, as on the
/// CPU.
__device__ inline std::uint32_t rotated_pair(std::uint32_t pair, float cosine, float sine) {
  float even = __uint_as_float(pair << 16), odd = __uint_as_float(pair & 0xffff0000u);
  rotate_pair(even, odd, cosine, sine);
  return mma::pack_bf16x2(even, odd);
}
__device__ inline void rotate_pairs(std::uint32_t (&pairs)[4], const Rotation& by) {
  pairs[0] = rotated_pair(pairs[0], by.cosines.x, by.sines.x);
  pairs[1] = rotated_pair(pairs[1], by.cosines.y, by.sines.y);
  pairs[2] = rotated_pair(pairs[2], by.cosines.z, by.sines.z);
  pairs[3] = rotated_pair(pairs[3], by.cosines.w, by.sines.w);
}
/// The same of any number; `rope` has the first pair's cosine, and its sine at `half`. A direction of -1 turns back.
template <int kPairs>
__device__ inline void rotate_pairs(std::uint32_t (&pairs)[kPairs], const float* rope, int half, float direction) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i)
    pairs[i] = rotated_pair(pairs[i], __ldg(rope + i), direction * __ldg(rope + half + i));
}
/// One element pair of any type, turned back.
__device__ inline void rotate_back(float& even, float& odd, float cosine, float sine) {
  rotate_pair(even, odd, cosine, -sine);
}

/// Codes of bf16 pairs with a scale's exponent, four to a word.
template <int kPairs>
__device__ inline void encode_pairs(const std::uint32_t (&pairs)[kPairs], int exponent,
                                    std::uint32_t (&codes)[kPairs / 2]) {
  const float inverse = exp2_of(-exponent);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const std::uint32_t two =
        encode_e4m3_pair(__uint_as_float(pairs[i] << 16) * inverse, __uint_as_float(pairs[i] & 0xffff0000u) * inverse);
    codes[i / 2] = i % 2 == 0 ? two : codes[i / 2] | two << 16;
  }
}
/// largest_magnitude of bf16 pairs.
template <int kPairs>
__device__ inline float largest_of_pairs(const std::uint32_t (&pairs)[kPairs]) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    largest = fmaxf(largest, fmaxf(fabsf(__uint_as_float(pairs[i] << 16)),
                                   fabsf(__uint_as_float(pairs[i] & 0xffff0000u))));  // fmaxf passes over NaN
  }
  return fminf(largest, __uint_as_float(0x7f7f0000u));
}

}  // namespace fathom
