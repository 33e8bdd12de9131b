// What the files written in AVX-512 and AMX share. They include this last, and close with HWY_POP_ATTRIBUTES. All of it
// is internal to each file, since two files may be compiled for different targets.
#pragma once

#include <hwy/base.h>

#if defined(__x86_64__)
#define FATHOM_AVX512 1

#include <cstdint>

#include "simd/bf16_loops.h"
#include "simd/e4m3_bf16.h"
#include "simd/intrinsics.h"

// Highway's way of giving a part of a file its target, for both compilers.
HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,amx-tile,amx-bf16,fma")

namespace fathom::simd {
namespace {

/// lines[i][j] becomes lines[j][i].
HWY_INLINE void transpose(__m512i (&lines)[16]) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(lines[i], lines[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(lines[i], lines[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {  // lane k of b[i + 4j] has rows 4j to 4j + 3 of column i + 4k
    const __m512i even_low = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88),
                  odd_low = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88),
                  odd_high = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
    lines[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    lines[i + 8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    lines[i + 4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    lines[i + 12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
}

/// sum + the two products of each pair.
HWY_INLINE __m512 add_pairs(__m512 sum, Pair a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))),
                          reinterpret_cast<__m512bh>(b));
}

/// Sets all eight tiles to 16 lines of 64 bytes: 0 to 3 for sums, 4 and 5 for a, 6 and 7 for b.
inline void begin_tiles() {
  alignas(64) static constexpr struct {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t lines[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } kShape;
  _tile_loadconfig(&kShape);
}
inline void end_tiles() { _tile_release(); }
/// The compilers' tile instructions say nothing of the memory they touch.
HWY_INLINE void settle_memory() { asm volatile("" ::: "memory"); }

/// Up to 2 x 2 pieces of sums: a is As pieces, b is Bs.
template <int As, int Bs>
HWY_INLINE void multiply_tiles(const Pair* a, std::int64_t a_next, const Pair* b, std::int64_t b_next, int steps,
                               bool fresh, float* sums, std::int64_t stride) {
  const std::int64_t bytes = stride * 4;
  float* const lower = sums + kLine * stride;
  settle_memory();
  if (fresh) {
    _tile_zero(0);
    if constexpr (Bs > 1) _tile_zero(1);
    if constexpr (As > 1) _tile_zero(2);
    if constexpr (As > 1 && Bs > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, bytes);
    if constexpr (Bs > 1) _tile_loadd(1, sums + kLine, bytes);
    if constexpr (As > 1) _tile_loadd(2, lower, bytes);
    if constexpr (As > 1 && Bs > 1) _tile_loadd(3, lower + kLine, bytes);
  }
  for (int step = 0; step < steps; ++step, a += kPiece, b += kPiece) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Bs > 1) {
      _tile_loadd(7, b + b_next, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (As > 1) {
      _tile_loadd(5, a + a_next, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (As > 1 && Bs > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, bytes);
  if constexpr (Bs > 1) _tile_stored(1, sums + kLine, bytes);
  if constexpr (As > 1) _tile_stored(2, lower, bytes);
  if constexpr (As > 1 && Bs > 1) _tile_stored(3, lower + kLine, bytes);
  settle_memory();
}

}  // namespace
}  // namespace fathom::simd

#endif
