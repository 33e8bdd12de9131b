#include "simd/bf16_loops.h"

#include <algorithm>
#include <limits>

#include "cache/number_codecs.h"
#include "simd/avx512.h"

#if FATHOM_AVX512
namespace fathom::simd {
namespace {

constexpr int kBlock = 64;  ///< columns that share a scale

// ---- rows to keys and values --------------------------------------------------------------------------------------

/// 32 bf16 in their own order to the order of keys: lane l has columns 4l.., then 16 + 4l...
HWY_INLINE __m512i to_lane_order(__m512i words) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), words);
}

HWY_INLINE __mmask32 first_words(int count) { return count >= 32 ? 0xffffffffu : count <= 0 ? 0 : (1u << count) - 1; }

/// Codes under scales that bf16 does not reach, one by one.
HWY_NOINLINE void decode_slowly(const std::uint8_t* codes, float scale, std::uint16_t* out) {
  float values[kBlock];
  dequantise_e4m3(codes, kBlock, scale, values);
  for (int i = 0; i < kBlock; ++i) out[i] = to_bf16(values[i]).bits;
}

HWY_INLINE void decode_words(const std::byte* at, int count, Pair* keys) {
  const auto* words = reinterpret_cast<const std::uint16_t*>(at);
  _mm512_storeu_si512(keys, to_lane_order(_mm512_maskz_loadu_epi16(first_words(count), words)));
  _mm512_storeu_si512(keys + kPiece, to_lane_order(_mm512_maskz_loadu_epi16(first_words(count - 32), words + 32)));
}

/// 64 codes times 2^exponent. Bytes move so that unpacking them gives keys in lane order, and unpacking keys columns in
/// their own.
HWY_INLINE void decode_codes(__m512i codes, std::uint8_t scale, Pair* keys) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i first, second;
  widen_scaled_e4m3(_mm512_permutexvar_epi32(order, codes), scale, first, second);
  _mm512_storeu_si512(keys, first);
  _mm512_storeu_si512(keys + kPiece, second);
}

void decode(const RowLayout& layout, const RowBytes* rows, int num_rows, int at, Pair* keys) {
  const bool quantised = layout.segments[0].dtype == DType::e4m3;
  const int code_blocks = quantised ? layout.segments[0].count / kBlock : 0;
  const RowSegment& words = layout.segments[quantised ? 2 : 0];
  const int blocks = (layout.dim + kBlock - 1) / kBlock;
  const __m512i magnitude = _mm512_set1_epi8(0x7f);
  for (int j = 0; j < num_rows; ++j) {
    const int row = at + j;
    Pair* out = keys + row / kLine * (2 * blocks * kPiece) + row % kLine * kLine;
    const auto* codes = reinterpret_cast<const std::uint8_t*>(rows[j].row);
    const auto* scales = reinterpret_cast<const std::uint8_t*>(rows[j].footer) + layout.segments[1].offset;
    for (int block = 0; block < code_blocks; ++block, out += 2 * kPiece) {
      const __m512i own = _mm512_loadu_si512(codes + block * kBlock);
      const bool plain = fits_scaled_e4m3(scales[block]) && _mm512_cmpeq_epi8_mask(_mm512_and_si512(own, magnitude), magnitude) == 0;
      if (HWY_LIKELY(plain)) {
        decode_codes(own, scales[block], out);
      } else {
        std::uint16_t values[kBlock];
        decode_slowly(codes + block * kBlock, decode_ue8m0(scales[block]), values);
        decode_words(reinterpret_cast<const std::byte*>(values), kBlock, out);
      }
    }
    const std::byte* rest = rows[j].row + words.offset;
    for (int c = words.first; c < layout.dim; c += kBlock, out += 2 * kPiece) {
      decode_words(rest + (c - words.first) * sizeof(bf16), layout.dim - c, out);
    }
  }
}

void pair(const Pair* keys, int steps, int columns, Pair* values, std::int64_t values_panel) {
  for (int step = 0; step * kStep < columns; ++step) {
    for (int row = 0; row < kScoreRows; row += 2) {
      const Pair* at = keys + (row / kLine * steps + step) * kPiece + row % kLine * kLine;
      const __m512i a = _mm512_loadu_si512(at), b = _mm512_loadu_si512(at + kLine);
      Pair* out = values + step * 2 * values_panel + row / 2 * kLine;
      _mm512_storeu_si512(out, _mm512_unpacklo_epi16(a, b));
      _mm512_storeu_si512(out + values_panel, _mm512_unpackhi_epi16(a, b));
    }
  }
}

// ---- queries and weights --------------------------------------------------------------------------------------------

void pack(const bf16* q, std::int64_t head_stride, int heads, int dim, Pair* out) {
  for (int c = 0; c < dim; c += kBlock) {
    for (int half = 0; half < kBlock; half += kStep, out += kPiece) {
      __m512i lines[16];
      for (int h = 0; h < 16; ++h) {
        const __mmask32 there = h < heads ? first_words(dim - c - half) : 0;
        lines[h] = to_lane_order(_mm512_maskz_loadu_epi16(there, q + (h < heads ? h * head_stride + c + half : 0)));
      }
      transpose(lines);
      for (int p = 0; p < 16; ++p) _mm512_storeu_si512(out + p * kLine, lines[p]);
    }
  }
}

/// 2^x for x <= 0, within 2e-7; NaN for NaN. Below 2^-126 the result is what bf16 takes for zero.
HWY_INLINE __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);  // the second operand where one is NaN; -inf - -inf would be
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.326472964e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.671512991e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550733581e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402224243e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931470037e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

template <bool kTiles>
void weigh(const float* logits, int rows, int groups, float scale, const float* base, Pair* weights, std::int64_t weights_group, float* total) {
  constexpr float kLog2E = 1.44269504f;
  const std::int64_t stride = std::int64_t{groups} * kLine;
  const __m512 factor = _mm512_set1_ps(scale), log2e = _mm512_set1_ps(kLog2E);
  const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                               18, 2, 17, 1, 16, 0);
  for (int g = 0; g < groups; ++g, logits += kLine, weights += weights_group) {
    const __m512 zero = _mm512_loadu_ps(base + g * kLine);
    __m512 sum = _mm512_setzero_ps();
    __m512i pairs[16];
    for (int i = 0; i < 16; ++i) {
      __m512 w[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      for (int k = 0; k < 2; ++k) {
        if (2 * i + k >= rows) continue;
        // Rounded as the base was, so that the largest logit is 0 from itself however large it is.
        const __m512 logit = _mm512_mul_ps(_mm512_loadu_ps(logits + (2 * i + k) * stride), factor);
        w[k] = power_of_two(_mm512_mul_ps(_mm512_sub_ps(logit, zero), log2e));
        sum = _mm512_add_ps(sum, w[k]);
      }
      pairs[i] = _mm512_permutexvar_epi16(interleaved, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(w[1], w[0])));
    }
    if constexpr (kTiles) transpose(pairs);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(weights + i * kLine, pairs[i]);
    _mm512_storeu_ps(total + g * kLine, sum);
  }
}

/// The largest scaled logit of each head.
HWY_INLINE void find_largest(const float* logits, int rows, int groups, float scale, float* most) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int g = 0; g < groups; ++g) {
    __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int j = 0; j < rows; ++j) {
      const __m512 logit = _mm512_mul_ps(_mm512_loadu_ps(logits + (std::int64_t{j} * groups + g) * kLine), factor);
      best = _mm512_max_ps(logit, best);  // the second operand where one is NaN
    }
    _mm512_storeu_ps(most + g * kLine, best);
  }
}

// ---- AVX-512's dot products -----------------------------------------------------------------------------------------

constexpr int kDotRows = 8;  ///< rows, or heads, of a register tile; two vectors wide

template <int Groups>
HWY_INLINE void score_dots(const Pair* keys, int steps, const Pair* q, std::int64_t stride, float* logits) {
  __m512 sums[kDotRows][Groups];
  for (auto& row : sums) {
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (int step = 0; step < steps; ++step) {
    for (int p = 0; p < kLine; ++p) {
      __m512i b[Groups];
      for (int g = 0; g < Groups; ++g) b[g] = _mm512_loadu_si512(q + (std::int64_t{g} * steps + step) * kPiece + p * kLine);
#pragma GCC unroll 8
      for (int i = 0; i < kDotRows; ++i) {
        for (int g = 0; g < Groups; ++g) sums[i][g] = add_pairs(sums[i][g], keys[step * kPiece + i * kLine + p], b[g]);
      }
    }
  }
  for (int i = 0; i < kDotRows; ++i) {
    for (int g = 0; g < Groups; ++g) _mm512_storeu_ps(logits + i * stride + g * kLine, sums[i][g]);
  }
}

void score_by_dots(const Pair* keys, int rows, int steps, const Pair* q, int groups, float scale, float* logits, float* most) {
  const std::int64_t stride = std::int64_t{groups} * kLine;
  for (int g = 0; g < groups; g += 2) {
    for (int row = 0; row < rows; row += kDotRows) {
      const Pair* at = keys + (row / kLine * steps) * kPiece + row % kLine * kLine;
      (g + 1 < groups ? score_dots<2> : score_dots<1>)(at, steps, q + std::int64_t{g} * steps * kPiece, stride, logits + row * stride + g * kLine);
    }
  }
  find_largest(logits, rows, groups, scale, most);
}

template <int Panels>
HWY_INLINE void gather_dots(const Gathering& x, const Pair* weights, const Pair* values, float* sums) {
  __m512 held[kDotRows][Panels];
  for (int i = 0; i < kDotRows; ++i) {
    for (int v = 0; v < Panels; ++v) held[i][v] = x.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + i * x.sums_head + v * kLine);
  }
  for (std::int64_t p = 0; p < std::int64_t{x.row_steps} * kLine; ++p) {
    __m512i b[Panels];
    for (int v = 0; v < Panels; ++v) b[v] = _mm512_loadu_si512(values + v * x.values_panel + p * kLine);
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      for (int v = 0; v < Panels; ++v) held[i][v] = add_pairs(held[i][v], weights[p * kLine + i], b[v]);
    }
  }
  for (int i = 0; i < kDotRows; ++i) {
    for (int v = 0; v < Panels; ++v) _mm512_storeu_ps(sums + i * x.sums_head + v * kLine, held[i][v]);
  }
}

void gather_by_dots(const Gathering& x) {
  for (int v = 0; v < x.panels; v += 2) {
    for (int h = 0; h < x.groups * kLine; h += kDotRows) {
      const Pair* weights = x.weights + h / kLine * x.weights_group + h % kLine;
      (v + 1 < x.panels ? gather_dots<2> : gather_dots<1>)(x, weights, x.values + v * x.values_panel, x.sums + h * x.sums_head + v * kLine);
    }
  }
}

// ---- AMX tiles ------------------------------------------------------------------------------------------------------

void score_by_tiles(const Pair* keys, int rows, int steps, const Pair* q, int groups, float scale, float* logits, float* most) {
  const std::int64_t stride = std::int64_t{groups} * kLine, row_tile = std::int64_t{steps} * kPiece, group = row_tile;
  {
    const Tiles tiles;
    for (int g = 0; g < groups; g += 2, q += 2 * group) {
      float* out = logits + g * kLine;
      if (g + 1 < groups) {
        multiply_tiles<2, 2>(keys, row_tile, q, group, steps, true, out, stride);
      } else {
        multiply_tiles<2, 1>(keys, row_tile, q, group, steps, true, out, stride);
      }
    }
  }
  find_largest(logits, rows, groups, scale, most);
}

void gather_by_tiles(const Gathering& x) {
  // Weights of so many row steps, and the values that meet them, stay in L1 while all columns go by.
  const int chunk = std::max(32 / x.groups, 4);
  const Tiles tiles;
  for (int first = 0; first < x.row_steps; first += chunk) {
    const int steps = std::min(chunk, x.row_steps - first);
    const bool fresh = x.fresh && first == 0;
    for (int v = 0; v < x.panels; v += 2) {
      const Pair* values = x.values + v * x.values_panel + first * kPiece;
      for (int g = 0; g < x.groups; g += 2) {
        const Pair* weights = x.weights + g * x.weights_group + first * kPiece;
        float* sums = x.sums + g * kLine * x.sums_head + v * kLine;
        if (g + 1 < x.groups) {
          multiply_tiles<2, 2>(weights, x.weights_group, values, x.values_panel, steps, fresh, sums, x.sums_head);
        } else {
          multiply_tiles<1, 2>(weights, x.weights_group, values, x.values_panel, steps, fresh, sums, x.sums_head);
        }
      }
    }
  }
}

constexpr Bf16Loops kDots = {"dots", pack, decode, pair, score_by_dots, weigh<false>, gather_by_dots};
constexpr Bf16Loops kTiles = {"tiles", pack, decode, pair, score_by_tiles, weigh<true>, gather_by_tiles};

}  // namespace

const Bf16Loops& bf16_dot_loops() noexcept { return kDots; }
const Bf16Loops& bf16_tile_loops() noexcept { return kTiles; }

}  // namespace fathom::simd
HWY_POP_ATTRIBUTES

#else
namespace fathom::simd {

constexpr Bf16Loops kNone = {"none", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
const Bf16Loops& bf16_dot_loops() noexcept { return kNone; }
const Bf16Loops& bf16_tile_loops() noexcept { return kNone; }

}  // namespace fathom::simd
#endif
