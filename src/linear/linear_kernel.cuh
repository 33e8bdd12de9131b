// What the CUDA kernels of linear share: the x that the product sees (Q8 per token and 128 elements), E4M3 weights as
// operands of the tensor cores, copies that bring zeros beyond an edge.
//
// Q8 in a kernel: eight lanes own one block of 128 elements, 16 each. Codes are the CPU's (src/cache/number_codecs.h).
#pragma once

#include <cmath>
#include <cstdint>

#include "cache/number_codecs.h"
#include "device/early_launch.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "fathom/linear.h"
#include "linear/linear_round.h"

namespace fathom::linear_kernel {

constexpr int kQuantBlock = 128;
constexpr int kLanesPerBlock = 8, kPerLane = kQuantBlock / kLanesPerBlock;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
constexpr bool kConvertsE4m3 = true;  ///< the hardware turns E4M3 pairs into f16 pairs and floats into E4M3
#else
constexpr bool kConvertsE4m3 = false;
#endif

__device__ __forceinline__ void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 16 bytes; L2 fetches the whole line.
__device__ __forceinline__ void copy_line_part(void* to_shared, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(copy::shared_address(to_shared)), "l"(from) : "memory");
}
/// 16 bytes, or zeros where `valid` is false; `from` is an address inside the view all the same.
__device__ __forceinline__ void copy_or_zero(void* to_shared, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(copy::shared_address(to_shared)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

/// Before wait_for_launch_before (device/early_launch.cuh) returns nothing may be touched but the weights' way into L2, and what
/// the launch before wrote is read by ordinary loads only: the read-only path (__ldg) promises nothing about it.
__device__ __forceinline__ void prefetch_to_l2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// ---- x ------------------------------------------------------------------------------------------------------------

/// 16 elements of x from `at` on as bf16 pairs; elements at or beyond `end` are zero. Both are multiples of eight where x
/// is read 16 bytes at a time, which the caller has checked.
struct Lane16 {
  std::uint32_t pairs[8];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) pairs[i] = 0;
  }
  __device__ __forceinline__ void load(const TensorView& x, std::int64_t row, int at, int end) {
    if (x.dtype == DType::bf16) {
      load_bf16(static_cast<const bf16*>(x.data) + row + at, end - at);
    } else {
      load_f32(static_cast<const float*>(x.data) + row + at, end - at);
    }
  }
  /// The elements from `at` on, of which `left` are there. Several loads of one kind are on their way at a time; where the kinds meet in one
  /// loop, each waits for the one before.
  __device__ __forceinline__ void load_bf16(const bf16* at, int left) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 words = make_uint4(0, 0, 0, 0);
      if (8 * half < left) words = *reinterpret_cast<const uint4*>(at + 8 * half);
      pairs[4 * half] = words.x, pairs[4 * half + 1] = words.y, pairs[4 * half + 2] = words.z, pairs[4 * half + 3] = words.w;
    }
  }
  __device__ __forceinline__ void load_f32(const float* at, int left) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float4 low = make_float4(0, 0, 0, 0), high = low;
      if (8 * half < left) low = *reinterpret_cast<const float4*>(at + 8 * half), high = *reinterpret_cast<const float4*>(at + 8 * half + 4);
      pairs[4 * half] = mma::pack_bf16x2(low.x, low.y), pairs[4 * half + 1] = mma::pack_bf16x2(low.z, low.w);
      pairs[4 * half + 2] = mma::pack_bf16x2(high.x, high.y), pairs[4 * half + 3] = mma::pack_bf16x2(high.z, high.w);
    }
  }
  /// Every other pair, from pair `first` on: in this order a word of codes is one operand of a product (linear_sm90_kernel.cuh).
  __device__ __forceinline__ uint4 alternate(int first) const { return make_uint4(pairs[first], pairs[first + 2], pairs[first + 4], pairs[first + 6]); }
  __device__ __forceinline__ float value(int i) const {
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xffff0000u);
  }
};

/// E4M3 codes of two scaled values, as the pair of f16 that they stand for (`low` in the lower half).
__device__ __forceinline__ std::uint32_t e4m3_as_f16x2(float low, float high) {
  std::uint32_t pair;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("{.reg .b16 c; cvt.rn.satfinite.e4m3x2.f32 c, %1, %2; cvt.rn.f16x2.e4m3x2 %0, c;}" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(round_to_e4m3(high)), "f"(round_to_e4m3(low)));
#endif
  return pair;
}

/// The larger of each half; a NaN is passed by, as the quantiser does.
__device__ __forceinline__ std::uint32_t max_bf16x2(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

/// Exponent of the block's scale, the same in its eight lanes.
__device__ __forceinline__ int block_exponent(const Lane16& lane) {
  std::uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = max_bf16x2(largest, lane.pairs[i] & 0x7fff7fffu);
#pragma unroll
  for (int d = 1; d < kLanesPerBlock; d *= 2) largest = max_bf16x2(largest, __shfl_xor_sync(kAllLanes, largest, d));
  const float number = fmaxf(__uint_as_float(largest << 16), __uint_as_float(largest & 0xffff0000u));
  return q8_exponent(fminf(number, __uint_as_float(0x7f7f0000u)));  // an infinity counts as bf16's largest number
}

/// Q8: the lane's codes as f16 pairs, replacing its values; returns the block's exponent. A code whose value is beyond f32
/// (only where the exponent is the largest there is) becomes an infinity, as it does on the CPU.
__device__ __forceinline__ int quantise_to_f16(Lane16& lane) {
  constexpr int kLargestExponent = 120;
  const int exponent = block_exponent(lane);
  // Exact in bf16, but where it is far below E4M3's smallest number.
  const std::uint32_t half = static_cast<std::uint32_t>(127 - exponent) << 7, inverse = half << 16 | half;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t scaled = mma::multiply_bf16x2(lane.pairs[i], inverse);
    lane.pairs[i] = e4m3_as_f16x2(__uint_as_float(scaled << 16), __uint_as_float(scaled & 0xffff0000u));
  }
  if (exponent == kLargestExponent) {
    constexpr std::uint32_t k256 = 0x5c00, kF16Infinity = 0x7c00;
    const auto widen = [](std::uint32_t half) {
      const std::uint32_t magnitude = half & 0x7fffu;
      return magnitude >= k256 && magnitude < kF16Infinity ? (half & 0x8000u) | kF16Infinity : half;
    };
#pragma unroll
    for (int i = 0; i < 8; ++i) lane.pairs[i] = widen(lane.pairs[i] & 0xffffu) | widen(lane.pairs[i] >> 16) << 16;
  }
  return exponent;
}

/// x that is not quantised as f16 pairs, divided by a power of two so that what f16 cannot hold is 2^-40 of the block's largest element and
/// less; returns that power.
__device__ __forceinline__ float scale_to_f16(Lane16& lane) {
  constexpr float kWider = 128;  // than E4M3's largest number: 57344
  const int exponent = block_exponent(lane);
  const float inverse = exp2_of(-exponent);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(lane.pairs[i]) : "f"(lane.value(2 * i + 1) * inverse * kWider), "f"(lane.value(2 * i) * inverse * kWider));
  }
  return exp2_of(exponent) / kWider;
}

/// Q8 and back: what the product sees, exact in bf16.
__device__ __forceinline__ void quantise_and_back(Lane16& lane) {
  const float scale = exp2_of(quantise_to_f16(lane));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float low, high;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(low), "=f"(high) : "r"(lane.pairs[i]));
    lane.pairs[i] = mma::pack_bf16x2(low * scale, high * scale);
  }
}

// ---- weights ------------------------------------------------------------------------------------------------------

/// 2^(byte - 127 + shift) as f32: a tile's scale with a factor 2^shift, shift >= 0, folded in; infinite beyond f32's range.
__device__ __forceinline__ float shifted_scale(std::uint32_t byte, int shift) {
  const std::uint32_t exponent = byte + shift;
  if (byte == kUe8m0Nan) return __uint_as_float(0x7fc00000u);
  return exponent == 0 ? 0x1p-127f : __uint_as_float(min(exponent, 255u) << 23);
}

/// A word's four E4M3 codes as two pairs of f16, times 2^-kF16Shift: codes (0, 1), (2, 3) where the hardware converts, else
/// (1, 3), (0, 2).
constexpr int kF16Shift = kConvertsE4m3 ? 0 : 8;
__device__ __forceinline__ void decode_f16(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h;}"
      : "=r"(first), "=r"(second)
      : "r"(word));
#else
  // Bias 7 read with bias 15.
  first = (word & 0x80008000u) | ((word >> 1) & 0x3f803f80u);
  second = ((word << 8) & 0x80008000u) | ((word << 7) & 0x3f803f80u);
#endif
}

/// The same as bf16 in the order (1, 3), (0, 2), times 2^-kBf16Shift: below 1, so that no sum of products overflows that
/// does not overflow in the end.
constexpr int kBf16Shift = 9;
__device__ __forceinline__ void decode_bf16(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
  constexpr std::uint32_t kFactor = (127u + 120u - kBf16Shift) << 7, kBoth = kFactor << 16 | kFactor;
  first = mma::multiply_bf16x2(mma::place_e4m3_odd(word), kBoth);
  second = mma::multiply_bf16x2(mma::place_e4m3_even(word), kBoth);
}

/// Bits 0x80 of a byte say that one of the codes seen so far is a NaN, which placed bits cannot say.
__device__ __forceinline__ void look_for_nan(std::uint32_t& seen, std::uint32_t word) { seen |= (word & 0x7f7f7f7fu) + 0x01010101u; }
__device__ __forceinline__ bool saw_nan(std::uint32_t seen) { return (seen & 0x80808080u) != 0; }

}  // namespace fathom::linear_kernel
