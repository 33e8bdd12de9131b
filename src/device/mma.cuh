// Tensor-core words of sm_80 and later: one instruction per function.
//
// mma m16n8k16, row x column. With g = lane / 4 and t = lane % 4 a lane holds
//   a   rows g (a0, a2) and g + 8 (a1, a3), columns 2t, 2t+1 (a0, a1) and 2t+8, 2t+9 (a2, a3)
//   b   rows 2t, 2t+1 (b0) and 2t+8, 2t+9 (b1), column g
//   c   row g, columns 2t, 2t+1 (c0, c1); row g + 8, the same columns (c2, c3)
#pragma once

#include <cstdint>

#include "device/copy.cuh"

namespace fathom::mma {

/// c += a b, bf16 operands, f32 sums.
__device__ __forceinline__ void bf16_16x8x16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same with f16 operands.
__device__ __forceinline__ void f16_16x8x16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same, free to be moved among other instructions.
__device__ __forceinline__ void f16_16x8x16_free(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrix_x4(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(copy::shared_address(row))
               : "memory");
}

/// Stores four 8x8 matrices of 16-bit elements, held as `c` is (a pair of columns a word); lane i gives the address of row
/// i % 8 of matrix i / 8. sm_90.
__device__ __forceinline__ void store_matrix_x4(void* row, std::uint32_t r0, std::uint32_t r1, std::uint32_t r2, std::uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(copy::shared_address(row)), "r"(r0), "r"(r1), "r"(r2),
               "r"(r3)
               : "memory");
}

/// Two bf16 products, each rounded once. -0 as the third operand keeps the sign of zero.
__device__ __forceinline__ std::uint32_t multiply_bf16x2(std::uint32_t a, std::uint32_t b) {
  std::uint32_t d;
  asm("{.reg .b32 z; mov.b32 z, 0x80008000; fma.rn.bf16x2 %0, %1, %2, z;}" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
/// Rounds two floats to bf16, `low` into the low half.
__device__ __forceinline__ std::uint32_t pack_bf16x2(float low, float high) {
  std::uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

/// Whether this target turns E4M3 codes into f16 in hardware (sm_89 and later).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
inline constexpr bool kConvertsE4m3 = true;
/// Two E4M3 codes, the low one first, as f16; exact, NaN included.
__device__ __forceinline__ std::uint32_t f16x2_of_e4m3x2(std::uint16_t codes) {
  std::uint32_t d;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"(codes));
  return d;
}
#else
inline constexpr bool kConvertsE4m3 = false;
__device__ std::uint32_t f16x2_of_e4m3x2(std::uint16_t);
#endif

/// E4M3 codes become bf16 by moving bits: exponent bias 7 read with bias 127 gives value * 2^-120, subnormals and zeros
/// included. NaN codes read as +-480 * 2^-120 and must be looked for (has_e4m3_nan).
/// Of a word's bytes d0 d1 d2 d3: {d1, d3}, `odd`, and {d0, d2}, `even`, lower byte in the lower half.
__device__ __forceinline__ std::uint32_t place_e4m3_odd(std::uint32_t word) {
  return (word & 0x80008000u) | ((word >> 4) & 0x07f007f0u);
}
__device__ __forceinline__ std::uint32_t place_e4m3_even(std::uint32_t word) {
  return ((word << 8) & 0x80008000u) | ((word << 4) & 0x07f007f0u);
}
/// Has a bit of 0x80808080 set if one of the four codes is a NaN (0x7f or 0xff); other bits mean nothing.
__device__ __forceinline__ std::uint32_t has_e4m3_nan(std::uint32_t word) { return (word & 0x7f7f7f7fu) + 0x01010101u; }

}  // namespace fathom::mma
