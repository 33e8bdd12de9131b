// E4M3 codes to bf16 with AVX-512 VBMI: the 128 magnitudes lie in registers as two tables of bytes, so that 64 codes
// take two permutations and the sign's bit, whatever they are: subnormals and NaN are entries like others. A power of
// two is folded into the tables at the cost of eight instructions. Callers carry the target attribute too.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "cache/number_codecs.h"
#include "simd/intrinsics.h"

namespace fathom::simd {

/// bf16 of every magnitude.
inline constexpr std::array<std::uint16_t, 128> kE4m3Bf16 = [] {
  std::array<std::uint16_t, 128> words{};
  for (int code = 0; code < 128; ++code) {
    words[code] =
        static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(decode_e4m3(static_cast<std::uint8_t>(code))) >> 16);
  }
  return words;
}();

/// Exponents e for which every code times 2^e is a normal bf16.
inline constexpr int kLeastE4m3Exponent = -117, kMostE4m3Exponent = 119;

struct E4m3Table {
  __m512i low[2], high[2];  ///< bytes of the words of magnitudes 0 to 63 and 64 to 127
};

/// For kLeastE4m3Exponent <= exponent <= kMostE4m3Exponent.
__attribute__((target("avx512f,avx512bw,avx512vbmi"), always_inline)) inline E4m3Table e4m3_table(int exponent) {
  alignas(64) static constexpr std::array<std::uint8_t, 64> kEven = [] {
    std::array<std::uint8_t, 64> bytes{};
    for (int i = 0; i < 64; ++i) bytes[i] = static_cast<std::uint8_t>(2 * i);
    return bytes;
  }();
  const __m512i even = _mm512_load_si512(kEven.data()), odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
  const __m512i shift = _mm512_set1_epi16(static_cast<short>(exponent * 128));
  __m512i words[4];
  for (int i = 0; i < 4; ++i) {
    const __m512i at = _mm512_loadu_si512(kE4m3Bf16.data() + 32 * i);
    // Zero and NaN stay what they are.
    const __mmask32 scales = i == 0 ? 0xfffffffeu : i == 3 ? 0x7fffffffu : 0xffffffffu;
    words[i] = _mm512_mask_add_epi16(at, scales, at, shift);
  }
  E4m3Table table;
  for (int i = 0; i < 2; ++i) {
    table.low[i] = _mm512_permutex2var_epi8(words[2 * i], even, words[2 * i + 1]);
    table.high[i] = _mm512_permutex2var_epi8(words[2 * i], odd, words[2 * i + 1]);
  }
  return table;
}

/// 64 codes as twice 32 bf16: first has bytes 0 to 7 of each 16, second has 8 to 15.
__attribute__((target("avx512f,avx512bw,avx512vbmi"), always_inline)) inline void widen_unordered_e4m3(
    const E4m3Table& table, __m512i codes, __m512i& first, __m512i& second) {
  const __m512i low = _mm512_permutex2var_epi8(table.low[0], codes, table.low[1]);
  const __m512i magnitude = _mm512_permutex2var_epi8(table.high[0], codes, table.high[1]);
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), kOrAnd);
  first = _mm512_unpacklo_epi8(low, high);
  second = _mm512_unpackhi_epi8(low, high);
}

/// The same, in order.
__attribute__((target("avx512f,avx512bw,avx512vbmi"), always_inline)) inline void widen_e4m3(const E4m3Table& table,
                                                                                             __m512i codes,
                                                                                             __m512i& first,
                                                                                             __m512i& second) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  widen_unordered_e4m3(table, _mm512_maskz_permutexvar_epi64(0xff, order, codes), first, second);
}

/// The same tables with exponents as high as they go, 2^119 and 2^118 times the values, for scales that change with
/// every 64 codes: a power of two is then a subtraction from the upper bytes, which stops at zero where the value is
/// zero.
struct alignas(64) E4m3High {
  std::array<std::uint8_t, 128> low{}, high{};
};
inline constexpr std::array<E4m3High, 2> kE4m3High = [] {
  std::array<E4m3High, 2> tables{};
  for (int odd = 0; odd < 2; ++odd) {
    for (int code = 1; code < 127; ++code) {
      const int word = kE4m3Bf16[code] + (kMostE4m3Exponent - odd) * 128;
      tables[odd].low[code] = static_cast<std::uint8_t>(word & 0xff);
      tables[odd].high[code] = static_cast<std::uint8_t>(word >> 8);
    }
  }
  return tables;
}();

/// Whether a UE8M0 scale is one of those exponents.
constexpr bool fits_scaled_e4m3(std::uint8_t scale) noexcept {
  return scale >= 127 + kLeastE4m3Exponent && scale <= 127 + kMostE4m3Exponent;
}
/// Four times what is subtracted for a scale: a broadcast of four bytes is a plain load.
inline constexpr std::array<std::uint32_t, 256> kE4m3Down = [] {
  std::array<std::uint32_t, 256> fours{};
  for (int scale = 0; scale <= 127 + kMostE4m3Exponent; ++scale) {
    fours[scale] = static_cast<std::uint32_t>((127 + kMostE4m3Exponent - scale) / 2) * 0x01010101u;
  }
  return fours;
}();

/// 64 codes, none of them NaN, times a UE8M0 scale that fits; bytes go where widen_unordered_e4m3 puts them.
__attribute__((target("avx512f,avx512bw,avx512vbmi"), always_inline)) inline void widen_scaled_e4m3(__m512i codes,
                                                                                                    std::uint8_t scale,
                                                                                                    __m512i& first,
                                                                                                    __m512i& second) {
  const E4m3High& table = kE4m3High[(127 + kMostE4m3Exponent - scale) % 2];
  const std::uint8_t *lows = table.low.data(), *highs = table.high.data();
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(lows), codes, _mm512_load_si512(lows + 64));
  __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(highs), codes, _mm512_load_si512(highs + 64));
  high = _mm512_subs_epu8(high, _mm512_set1_epi32(static_cast<int>(kE4m3Down[scale])));
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);  // a | (b & c)
  first = _mm512_unpacklo_epi8(low, high);
  second = _mm512_unpackhi_epi8(low, high);
}

}  // namespace fathom::simd
