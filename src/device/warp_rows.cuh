// Rows of the released formats in registers: 512 elements in a warp (KV rows and entries), 128 in eight lanes (index
// keys and queries). No barrier and no shared memory stands between the product and the stored codes. Byte for byte
// what the host's codecs write for rows that are bf16 already.
#pragma once

#include <cuda_fp8.h>

#include "device/row_words.cuh"

namespace fathom {

/// Eight bf16 values, packed as they are stored.
struct PackedEight {
  __nv_bfloat162 pairs[4];
};
/// Rounds.
__device__ inline PackedEight pack(const Eight& eight) {
  PackedEight packed;
  for (int i = 0; i < 4; ++i) packed.pairs[i] = __floats2bfloat162_rn(eight.v[2 * i], eight.v[2 * i + 1]);
  return packed;
}
__device__ inline std::uint32_t bits_of_pair(__nv_bfloat162 pair) {
  return reinterpret_cast<const std::uint32_t&>(pair);
}
__device__ inline Eight unpack(const PackedEight& packed) {
  Eight eight;
  for (int i = 0; i < 4; ++i) {
    eight.v[2 * i] = __uint_as_float(bits_of_pair(packed.pairs[i]) << 16);
    eight.v[2 * i + 1] = __uint_as_float(bits_of_pair(packed.pairs[i]) & 0xffff0000u);
  }
  return eight;
}

/// Two E4M3 codes, the first in the low byte: one instruction from sm_89 on, the host's rule before.
__device__ inline std::uint32_t encode_e4m3_pair(float first, float second) {
#if __CUDA_ARCH__ >= 890
  return __nv_cvt_float2_to_fp8x2(make_float2(first, second), __NV_SATFINITE, __NV_E4M3);
#else
  return encode_e4m3(first) | std::uint32_t{encode_e4m3(second)} << 8;
#endif
}
__device__ inline uint2 encode_e4m3_eight(const Eight& eight, float inverse) {
  std::uint32_t pairs[4];
  for (int i = 0; i < 4; ++i) pairs[i] = encode_e4m3_pair(eight.v[2 * i] * inverse, eight.v[2 * i + 1] * inverse);
  return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

/// encode_e2m1 of two bf16 numbers times a power of two: codes in bits 0 and 16. Half the instructions of f32.
__device__ inline std::uint32_t encode_e2m1_pair(__nv_bfloat162 pair, __nv_bfloat162 inverse) {
  const auto both = [](float value) { return __float2bfloat162_rn(value); };
  const __nv_bfloat162 scaled = __hmul2(pair, inverse), clamped = __hmin2(__habs2(scaled), both(kE2m1Largest));
  const std::uint32_t magnitude = bits_of_pair(clamped);
  // From 1 on: round the mantissa to one bit, then move the exponent from bias 127 to bias 1: 2 * 126 less, which is 4
  // more in the three bits of a code.
  const std::uint32_t rounded = magnitude + 0x001f001fu + (magnitude >> 6 & 0x00010001u);
  const std::uint32_t normal = ((rounded >> 6) + 0x00040004u) & 0x00070007u;
  // Below 1 codes step by 0.5, the last place of a bf16 near 64: the addition rounds.
  const std::uint32_t subnormal = bits_of_pair(__hadd2(clamped, both(64.0f))) - bits_of_pair(both(64.0f));
  const std::uint32_t is_subnormal = __hlt2_mask(clamped, both(1.0f));
  return (is_subnormal & subnormal) | (~is_subnormal & normal) | (bits_of_pair(scaled) >> 12 & 0x00080008u);
}
__device__ inline std::uint32_t encode_e2m1_eight(const PackedEight& packed, float inverse, bool has_nan) {
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    std::uint32_t codes;
    if (has_nan) {
      const float2 values = __bfloat1622float2(packed.pairs[i]);
      codes = encode_e2m1(values.x * inverse) | std::uint32_t{encode_e2m1(values.y * inverse)} << 16;
    } else {
      codes = encode_e2m1_pair(packed.pairs[i], __float2bfloat162_rn(inverse));
    }
    word |= ((codes | codes >> 12) & 0xffu) << (8 * i);
  }
  return word;
}
/// The largest magnitude; a NaN if there is one.
__device__ inline float largest_or_nan(const PackedEight& packed) {
  const auto larger = [](__nv_bfloat162 a, __nv_bfloat162 b) { return __hmax2_nan(__habs2(a), __habs2(b)); };
  const __nv_bfloat162 all = larger(larger(packed.pairs[0], packed.pairs[1]), larger(packed.pairs[2], packed.pairs[3]));
  return __bfloat162float(__hmax_nan(__low2bfloat16(all), __high2bfloat16(all)));
}

/// largest_magnitude of bf16 values, at least `largest`.
__device__ inline float largest_of(const Eight& eight, float largest = 0) {
  for (const float value : eight.v) largest = fmaxf(largest, fabsf(value));  // fmaxf passes over NaN
  return fminf(largest, __uint_as_float(0x7f7f0000u));
}
/// The largest of `lanes` neighbouring lanes, a power of two of them.
__device__ inline float largest_of_lanes(float value, int lanes) {
  for (int d = 1; d < lanes; d *= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, d));
  return value;
}
__device__ inline float squares(const Eight& eight, float sum) {
  for (const float value : eight.v) sum = fmaf(value, value, sum);
  return sum;
}
/// bf(weight * (value * s)), the end of an RMSNorm.
__device__ inline void scale_eight(Eight& eight, const Eight& weights, float s) {
  for (int i = 0; i < 8; ++i) eight.v[i] = rounded_bf16(weights.v[i] * (eight.v[i] * s));
}
/// Rotates elements [at, at + 8) of the rotary part and rounds them; `rope` starts a 16-byte word and rope_dim is whole
/// eights.
__device__ inline void rotate_and_round(Eight& eight, const float* rope, int rope_dim, int at) {
  const auto* cosines = reinterpret_cast<const float4*>(rope + at / 2);
  rotate_eight(eight, cosines[0], cosines[rope_dim / 8]);
  for (float& value : eight.v) value = rounded_bf16(value);
}

/// Where a slot's row lies: PagedCacheView::row and footer with one division.
struct RowPlace {
  std::byte* row;
  std::byte* footer;
};
__device__ inline RowPlace place_of(const PagedCacheView& cache, std::int64_t slot) {
  const std::int64_t page = slot / cache.page_size, offset = slot - page * cache.page_size;
  std::byte* at = cache.pages + page * cache.page_stride;
  return {at + offset * cache.layout.row_bytes,
          at + cache.page_size * cache.layout.row_bytes + offset * cache.layout.footer_bytes};
}
/// True if every row starts on 16 bytes.
inline bool has_wide_pages(const PagedCacheView& cache) {
  return reinterpret_cast<std::uintptr_t>(cache.pages) % 16 == 0 && cache.page_stride % 16 == 0 &&
         cache.layout.row_bytes % 16 == 0;
}

// ---- 512 elements in a warp: word k of a lane holds elements [c, c + 8), c = column_of(k, lane) ---------------------

constexpr int kWarpRow = 512;
__device__ inline int column_of(int k, int lane) { return 8 * (32 * k + lane); }

/// Stores a row of bf16 values as kv_e4m3_ue8m0.
__device__ inline void store_kv_e4m3_ue8m0(const Eight (&words)[2], int lane, const RowPlace& place) {
  constexpr int kCodes = 448, kBlock = 64, kPad = 7;
  for (int k = 0; k < 2; ++k) {
    const int c = column_of(k, lane);
    const int exponent = q8_exponent(largest_of_lanes(largest_of(words[k]), kBlock / 8));
    if (c >= kCodes) {
      store_eight(reinterpret_cast<bf16*>(place.row + kCodes) + c - kCodes, words[k]);
      continue;
    }
    *reinterpret_cast<uint2*>(place.row + c) = encode_e4m3_eight(words[k], exp2_of(-exponent));
    if (c % kBlock == 0) place.footer[c / kBlock] = static_cast<std::byte>(exponent + 127);
  }
  if (lane == 31) place.footer[kPad] = std::byte{0};
}

/// Norms, rotates and stores a row of bf16 values.
__device__ inline void finish_kv_row(Eight (&words)[2], const Eight (&weights)[2], float eps, const float* rope,
                                     int rope_dim, int lane, const RowPlace& place) {
  const float s = inverse_rms(warp_sum(squares(words[1], squares(words[0], 0))), kWarpRow, eps);
  for (int k = 0; k < 2; ++k) {
    const int rotary = column_of(k, lane) - (kWarpRow - rope_dim);
    scale_eight(words[k], weights[k], s);
    if (rotary >= 0) rotate_and_round(words[k], rope, rope_dim, rotary);
  }
  store_kv_e4m3_ue8m0(words, lane, place);
}

// ---- 128 elements in eight lanes: part j of lane i holds elements [c, c + 8), c = index_column_of(j, i) -------------
// Four of the seven butterfly stages stay inside a lane, and a scale block of 32 is one part of four lanes.

constexpr int kIndexRow = 128, kIndexLanes = 8;
__device__ inline int index_column_of(int j, int lane) { return kIndexRow / 2 * j + 8 * lane; }

/// Walsh-Hadamard, before its rounding; stages in the order of their spans, as the CPU adds.
__device__ inline void hadamard_in_lanes(Eight (&parts)[2], int lane, float factor) {
  for (Eight& part : parts) {
#pragma unroll
    for (int span = 1; span < 8; span *= 2) {
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) butterfly(part.v, pair, span);
    }
#pragma unroll
    for (int step = 1; step < kIndexLanes; step *= 2) {
      const float sign = (lane & step) == 0 ? 1.0f : -1.0f;
      for (float& value : part.v)
        value = fmaf(sign, value, __shfl_xor_sync(kAllLanes, value, step));  // exact product: one rounding
    }
  }
  for (int i = 0; i < 8; ++i) {
    const float a = parts[0].v[i], b = parts[1].v[i];
    parts[0].v[i] = (a + b) * factor;
    parts[1].v[i] = (a - b) * factor;
  }
}

/// Rounds to bf16 and writes codes (8-byte aligned) if `stores`; returns the scale's exponent.
__device__ inline int store_index_e4m3(const Eight (&parts)[2], int lane, std::uint8_t* codes, bool stores) {
  const Eight rounded[2] = {unpack(pack(parts[0])), unpack(pack(parts[1]))};
  const int exponent = q8_exponent(largest_of_lanes(largest_of(rounded[1], largest_of(rounded[0])), kIndexLanes));
  const float inverse = exp2_of(-exponent);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const uint2 words = encode_e4m3_eight(rounded[j], inverse);
    if (stores) *reinterpret_cast<uint2*>(codes + index_column_of(j, lane)) = words;
  }
  return exponent;
}
/// Rounds to bf16 and writes codes (4-byte aligned) and the four scales if `stores`.
__device__ inline void store_index_e2m1(const Eight (&parts)[2], int lane, std::uint8_t* packed, std::uint8_t* scales,
                                        bool stores) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const PackedEight rounded = pack(parts[j]);
    float largest = largest_or_nan(rounded);
    const bool has_nan = largest != largest;
    largest = has_nan ? largest_of(unpack(rounded)) : fminf(largest, __uint_as_float(0x7f7f0000u));
    const int exponent = q4_exponent(largest_of_lanes(largest, 4));
    const std::uint32_t word = encode_e2m1_eight(rounded, exp2_of(-exponent), has_nan);
    const bool block_has_nan = (__ballot_sync(kAllLanes, has_nan) >> (threadIdx.x % 32 & ~3u) & 0xfu) != 0;
    if (!stores) continue;
    *reinterpret_cast<std::uint32_t*>(packed + index_column_of(j, lane) / 2) = word;
    if (lane % 4 == 0) scales[2 * j + lane / 4] = block_has_nan ? kUe8m0Nan : static_cast<std::uint8_t>(exponent + 127);
  }
}

}  // namespace fathom
