#include "simd/bf16_scores.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "cache/number_codecs.h"
#include "simd/avx512.h"

#if FATHOM_AVX512
namespace fathom::simd {
namespace {

constexpr int kCodes = 64;  ///< bytes of codes that are decoded at a time

// ---- codes to bf16 --------------------------------------------------------------------------------------------------

/// 64 E4M3 codes to two lines of pairs; scales, which are f32, wait for the dot products.
HWY_INLINE void decode_e4m3(const E4m3Table& table, const std::uint8_t* codes, Pair* out) {
  __m512i first, second;
  widen_unordered_e4m3(table, _mm512_loadu_si512(codes), first, second);
  _mm512_storeu_si512(out, first);
  _mm512_storeu_si512(out + kPiece, second);
}

/// bf16 of the eight E2M1 magnitudes, as high as exponents go: times 2^kHighest, then times 2^(kHighest - 1).
constexpr int kHighest = 125;
struct alignas(16) E2m1Tables {
  std::array<std::uint8_t, 16> low{}, high{};
};
constexpr E2m1Tables kE2m1High = [] {
  E2m1Tables tables;
  for (int i = 0; i < 16; ++i) {
    if (i % 8 == 0) continue;
    const int word = to_bf16(kE2m1Values[i % 8]).bits + (kHighest - i / 8) * 128;
    tables.low[i] = static_cast<std::uint8_t>(word & 0xff);
    tables.high[i] = static_cast<std::uint8_t>(word >> 8);
  }
  return tables;
}();

/// 128 E2M1 codes under four UE8M0 scales, of which every one takes a lane of bytes, to four lines of pairs. A power of
/// two is a subtraction from upper bytes, which stops at zero; an odd one takes the second half of the tables.
HWY_INLINE void decode_e2m1(const std::uint8_t* codes, std::uint32_t scales, Pair* out) {
  const __m512i low_table =
      _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kE2m1High.low.data())));
  const __m512i high_table =
      _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kE2m1High.high.data())));
  const __m512i each_lane =
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(_mm_set1_epi8(1), _mm_setzero_si128())),
                         _mm256_set_m128i(_mm_set1_epi8(3), _mm_set1_epi8(2)), 1);
  const __m512i scale = _mm512_shuffle_epi8(_mm512_set1_epi32(static_cast<int>(scales)), each_lane);
  const __m512i down = _mm512_sub_epi8(_mm512_set1_epi8(static_cast<char>(127 + kHighest)), scale);
  const __m512i odd = _mm512_slli_epi16(_mm512_and_si512(down, _mm512_set1_epi8(1)), 3);
  const __m512i halves = _mm512_and_si512(_mm512_srli_epi16(down, 1), _mm512_set1_epi8(0x7f));
  const __m512i packed = _mm512_loadu_si512(codes), magnitude = _mm512_set1_epi8(7),
                sign = _mm512_set1_epi8(static_cast<char>(0x80));
  constexpr int kAndOr = 0xea;  // (a & b) | c
  for (int nibble = 0; nibble < 2; ++nibble, out += 2 * kPiece) {
    const __m512i moved = nibble == 0 ? packed : _mm512_srli_epi16(packed, 4);
    const __m512i signs = nibble == 0 ? _mm512_slli_epi16(packed, 4) : packed;
    const __m512i index = _mm512_ternarylogic_epi32(moved, magnitude, odd, kAndOr);
    const __m512i low = _mm512_shuffle_epi8(low_table, index);
    const __m512i high = _mm512_ternarylogic_epi32(
        signs, sign, _mm512_subs_epu8(_mm512_shuffle_epi8(high_table, index), halves), kAndOr);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi8(low, high));
    _mm512_storeu_si512(out + kPiece, _mm512_unpackhi_epi8(low, high));
  }
}

/// The same, one by one, for scales that would leave bf16's range.
HWY_NOINLINE void decode_e2m1_slowly(const std::uint8_t* codes, std::uint32_t scales, Pair* out) {
  for (int step = 0; step < 4; ++step, out += kPiece) {
    std::uint16_t words[2 * kLine];
    for (int i = 0; i < 2 * kLine; ++i) {
      const int byte = i / 8 * 16 + step % 2 * 8 + i % 8;
      const float scale = decode_ue8m0(static_cast<std::uint8_t>(scales >> byte / 16 * 8));
      words[i] =
          to_bf16(fathom::decode_e2m1(static_cast<std::uint8_t>(step < 2 ? codes[byte] : codes[byte] >> 4)) * scale)
              .bits;
    }
    std::memcpy(out, words, sizeof(words));
  }
}

/// Whether all four scales keep E2M1 values normal, and the subtraction within a byte.
HWY_INLINE bool fit_e2m1(std::uint32_t scales) {
  bool fit = true;
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t scale = scales >> 8 * i & 0xff;
    fit &= scale >= 2 && scale <= 127 + kHighest;
  }
  return fit;
}

/// Rows to [tiles][steps][16 rows][16 pairs], and what their dot products are multiplied by.
HWY_INLINE void decode(const RowLayout& layout, const RowBytes* rows, int count, Pair* out, float* scales) {
  const int steps = layout.dim / kStep;
  const bool wide = layout.format == CacheFormat::index_e4m3_f32;
  const E4m3Table table = e4m3_table(0);
  for (int j = 0; j < count; ++j) {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(rows[j].row);
    Pair* line = out + j / kLine * steps * kPiece + j % kLine * kLine;
    if (wide) {
      for (int c = 0; c < layout.dim; c += kCodes, line += 2 * kPiece) decode_e4m3(table, codes + c, line);
      if (scales != nullptr) std::memcpy(scales + j, rows[j].footer, sizeof(float));
      continue;
    }
    for (int c = 0; c < layout.dim; c += 2 * kCodes, line += 4 * kPiece) {
      std::uint32_t four;
      std::memcpy(&four, rows[j].footer + c / 32, sizeof(four));
      (HWY_LIKELY(fit_e2m1(four)) ? decode_e2m1 : decode_e2m1_slowly)(codes + c / 2, four, line);
    }
    if (scales != nullptr) scales[j] = 1;
  }
}

void pack(const RowLayout& layout, const RowBytes* heads, int num_heads, Pair* q) {
  const int steps = layout.dim / kStep;
  for (int h = 0; h < num_heads; h += kLine, q += std::int64_t{steps} * kPiece) {
    const int some = std::min(kLine, num_heads - h);
    if (some < kLine) std::fill_n(q, steps * kPiece, Pair{0});
    decode(layout, heads + h, some, q, nullptr);
    for (int step = 0; step < steps; ++step) {
      __m512i lines[16];
      for (int i = 0; i < 16; ++i) lines[i] = _mm512_loadu_si512(q + step * kPiece + i * kLine);
      transpose(lines);
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(q + step * kPiece + i * kLine, lines[i]);
    }
  }
}

// ---- dot products to scores -----------------------------------------------------------------------------------------

/// sum + weights * max(dots * scale, 0), for lanes that are heads. The second operand of the maximum wins where one is
/// NaN.
HWY_INLINE __m512 add_scores(__m512 sum, __m512 dots, float scale, __m512 weights, __mmask16 there) {
  return _mm512_mask3_fmadd_ps(_mm512_max_ps(_mm512_setzero_ps(), _mm512_mul_ps(dots, _mm512_set1_ps(scale))), weights,
                               sum, there);
}
HWY_INLINE __mmask16 lanes_below(int count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

/// sums[i] = the sum of lines[i]'s lanes.
HWY_INLINE void add_lanes(const __m512 (&lines)[16], float* sums) {
  __m512i turned[16];
  for (int i = 0; i < 16; ++i) turned[i] = reinterpret_cast<__m512i>(lines[i]);
  transpose(turned);
  __m512 sum = reinterpret_cast<__m512>(turned[0]);
  for (int i = 1; i < 16; ++i) sum = _mm512_add_ps(sum, reinterpret_cast<__m512>(turned[i]));
  _mm512_storeu_ps(sums, sum);
}

template <int Groups>
HWY_INLINE void dots_of_tile(const Pair* keys, int steps, const Pair* q, float* dots) {
  constexpr int kRows = 8;
  for (int row = 0; row < kLine; row += kRows) {
    __m512 sums[kRows][Groups];
    for (auto& line : sums) {
      for (__m512& sum : line) sum = _mm512_setzero_ps();
    }
    for (int step = 0; step < steps; ++step) {
      for (int p = 0; p < kLine; ++p) {
        __m512i b[Groups];
        for (int g = 0; g < Groups; ++g)
          b[g] = _mm512_loadu_si512(q + (std::int64_t{g} * steps + step) * kPiece + p * kLine);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          for (int g = 0; g < Groups; ++g)
            sums[i][g] = add_pairs(sums[i][g], keys[step * kPiece + (row + i) * kLine + p], b[g]);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int g = 0; g < Groups; ++g) _mm512_storeu_ps(dots + (row + i) * 2 * kLine + g * kLine, sums[i][g]);
    }
  }
}

template <bool kTiles>
void score(const RowLayout& layout, const RowBytes* rows, std::int64_t count, Pair* keys, const Pair* q, int heads,
           const float* weights, float* scores) {
  const int steps = layout.dim / kStep, groups = (heads + kLine - 1) / kLine;
  const std::int64_t piece = std::int64_t{steps} * kPiece;
  if constexpr (kTiles) begin_tiles();
  alignas(64) float dots[kScoredKeys * 2 * kLine], scales[kScoredKeys], last[kScoredKeys];
  for (std::int64_t first = 0; first < count; first += kScoredKeys) {
    const int some = static_cast<int>(std::min<std::int64_t>(kScoredKeys, count - first));
    decode(layout, rows + first, some, keys, scales);
    std::fill(scales + some, scales + kScoredKeys, 0.0f);
    __m512 sums[kScoredKeys / kLine][kLine];
    for (auto& tile : sums) {
      for (__m512& sum : tile) sum = _mm512_setzero_ps();
    }
    for (int g = 0; g < groups; g += 2) {
      const bool two = g + 1 < groups;
      if constexpr (kTiles) {
        (two ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)(keys, piece, q + g * piece, piece, steps, true, dots,
                                                            2 * kLine);
      } else {
        for (int tile = 0; tile < kScoredKeys / kLine; ++tile) {
          (two ? dots_of_tile<2> : dots_of_tile<1>)(keys + tile * piece, steps, q + g * piece,
                                                    dots + tile * kLine * 2 * kLine);
        }
      }
      for (int v = 0; v < (two ? 2 : 1); ++v) {
        const __m512 weight = _mm512_loadu_ps(weights + (g + v) * kLine);
        const __mmask16 there = lanes_below(heads - (g + v) * kLine);
        for (int tile = 0; tile < kScoredKeys / kLine; ++tile) {
#pragma GCC unroll 16
          for (int i = 0; i < kLine; ++i) {
            const int j = tile * kLine + i;
            sums[tile][i] =
                add_scores(sums[tile][i], _mm512_load_ps(dots + (j * 2 + v) * kLine), scales[j], weight, there);
          }
        }
      }
    }
    float* out = some == kScoredKeys ? scores + first : last;
    for (int tile = 0; tile < kScoredKeys / kLine; ++tile) add_lanes(sums[tile], out + tile * kLine);
    if (out == last) std::copy_n(last, some, scores + first);
  }
  if constexpr (kTiles) end_tiles();
}

constexpr Bf16Scores kDots = {"dots", pack, score<false>};
constexpr Bf16Scores kTiles = {"tiles", pack, score<true>};

}  // namespace

const Bf16Scores& bf16_dot_scores() noexcept { return kDots; }
const Bf16Scores& bf16_tile_scores() noexcept { return kTiles; }

}  // namespace fathom::simd
HWY_POP_ATTRIBUTES

#else
namespace fathom::simd {

constexpr Bf16Scores kNone = {"none", nullptr, nullptr};
const Bf16Scores& bf16_dot_scores() noexcept { return kNone; }
const Bf16Scores& bf16_tile_scores() noexcept { return kNone; }

}  // namespace fathom::simd
#endif
