#include "simd/bf16_loops.h"

#include <algorithm>
#include <limits>

#include "cache/number_codecs.h"
#include "simd/avx512.h"

#if FATHOM_AVX512
namespace fathom::simd {
namespace {

// ---- rows to keys and values --------------------------------------------------------------------------------------
//
// Two arrangements of 64 columns in two registers: that of keys is what unpacking 64 bytes leaves, first 16l..16l+7 in
// each lane l, second 16l+8..16l+15. That of values makes unpacking words of two rows leave columns in order: first has
// 4l..4l+3 and 16+4l..16+4l+3 in each lane, second the same 32 further on.

constexpr int kBlock = kValueColumns;

/// What the loops need of a layout: blocks of codes under a scale each, then words.
struct RowParts {
  int code_blocks, scales, words, first_word, dim;
};
HWY_INLINE RowParts parts_of(const RowLayout& layout) {
  const bool quantised = layout.segments[0].dtype == DType::e4m3;
  const RowSegment& words = layout.segments[quantised ? 2 : 0];
  return {quantised ? layout.segments[0].count / kBlock : 0, layout.segments[1].offset, words.offset, words.first,
          layout.dim};
}

HWY_INLINE const std::uint8_t* bytes(const std::byte* at) { return reinterpret_cast<const std::uint8_t*>(at); }
HWY_INLINE __mmask32 first_words(int count) { return count >= 32 ? 0xffffffffu : count <= 0 ? 0 : (1u << count) - 1; }

struct Words {
  __m512i first, second;
};
/// Words of a block, of which `count` are there, in their own order.
HWY_INLINE Words load_words(const void* at, int count) {
  const auto* words = static_cast<const std::uint16_t*>(at);
  return {_mm512_maskz_loadu_epi16(first_words(count), words),
          _mm512_maskz_loadu_epi16(first_words(count - 32), words + 32)};
}
HWY_INLINE Words as_keys(const Words& x) {
  return {_mm512_shuffle_i64x2(x.first, x.second, 0x88), _mm512_shuffle_i64x2(x.first, x.second, 0xdd)};
}
HWY_INLINE Words as_values(const Words& x) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  return {_mm512_permutexvar_epi64(order, x.first), _mm512_permutexvar_epi64(order, x.second)};
}
HWY_INLINE __m512i codes_as_values(__m512i codes) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), codes);
}
HWY_INLINE Words widen(__m512i codes, std::uint8_t scale) {
  Words x;
  widen_scaled_e4m3(codes, scale, x.first, x.second);
  return x;
}
HWY_INLINE __m512i magnitudes(__m512i codes) { return _mm512_and_si512(codes, _mm512_set1_epi8(0x7f)); }
/// Whether one of the magnitudes is NaN's.
HWY_INLINE bool any_nan(__m512i magnitudes) { return _mm512_cmpeq_epi8_mask(magnitudes, _mm512_set1_epi8(0x7f)) != 0; }

/// A block with NaN codes or a scale that bf16 does not reach, one by one, in its own order.
HWY_NOINLINE void decode_slowly(const RowBytes& row, const RowParts& parts, int block, std::uint16_t* out) {
  float values[kBlock];
  dequantise_e4m3(bytes(row.row) + block * kBlock, kBlock, decode_ue8m0(bytes(row.footer)[parts.scales + block]),
                  values);
  for (int i = 0; i < kBlock; ++i) out[i] = to_bf16(values[i]).bits;
}
HWY_INLINE Words load_slowly(const RowBytes& row, const RowParts& parts, int block) {
  std::uint16_t words[kBlock];
  decode_slowly(row, parts, block, words);
  return load_words(words, kBlock);
}

void decode_keys(const RowLayout& layout, const RowBytes* rows, int num_rows, int at, const RowBytes* ahead,
                 int num_ahead, Pair* keys) {
  const RowParts parts = parts_of(layout);
  const int steps = 2 * ((layout.dim + kBlock - 1) / kBlock);
  for (int j = 0; j < num_rows; ++j) {
    if (j < num_ahead) {
      for (int line = 0; line < layout.row_bytes; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(ahead[j].row) + line, _MM_HINT_T0);
    }
    const int row = at + j;
    Pair* const start = keys + row / kLine * steps * kPiece + row % kLine * kLine;
    const auto store = [start](int block, const Words& x) {
      _mm512_storeu_si512(start + block * 2 * kPiece, x.first);
      _mm512_storeu_si512(start + block * 2 * kPiece + kPiece, x.second);
    };
    const std::uint8_t *codes = bytes(rows[j].row), *scales = bytes(rows[j].footer) + parts.scales;
    __m512i largest = _mm512_setzero_si512();
    bool fit = true;
    for (int block = 0; block < parts.code_blocks; ++block) {
      const __m512i own = _mm512_loadu_si512(codes + block * kBlock);
      largest = _mm512_max_epu8(largest, magnitudes(own));
      fit &= fits_scaled_e4m3(scales[block]);
      store(block, widen(own, std::min<std::uint8_t>(scales[block], 127 + kMostE4m3Exponent)));
    }
    if (HWY_UNLIKELY(!fit || any_nan(largest))) {
      for (int block = 0; block < parts.code_blocks; ++block) store(block, as_keys(load_slowly(rows[j], parts, block)));
    }
    for (int c = parts.first_word; c < parts.dim; c += kBlock) {
      store(c / kBlock,
            as_keys(load_words(rows[j].row + parts.words + (c - parts.first_word) * sizeof(bf16), parts.dim - c)));
    }
  }
}

/// A block of one row, arranged as values.
HWY_INLINE Words value_words(const RowBytes& row, const RowParts& parts, int block) {
  if (block >= parts.code_blocks) {
    const int c = block * kBlock;
    return as_values(load_words(row.row + parts.words + (c - parts.first_word) * sizeof(bf16), parts.dim - c));
  }
  const std::uint8_t scale = bytes(row.footer)[parts.scales + block];
  const __m512i codes = _mm512_loadu_si512(bytes(row.row) + block * kBlock);
  if (HWY_UNLIKELY(!fits_scaled_e4m3(scale) || any_nan(magnitudes(codes))))
    return as_values(load_slowly(row, parts, block));
  return widen(codes_as_values(codes), scale);
}

/// One row's half of its pairs.
HWY_INLINE void store_half(const Words& x, std::int64_t at, Pair* values, std::int64_t panel) {
  const __mmask32 half = at % 2 == 0 ? 0x55555555u : 0xaaaaaaaau;
  Pair* out = values + at / 2 * kLine;
  _mm512_mask_storeu_epi16(out, half, _mm512_unpacklo_epi16(x.first, x.first));
  _mm512_mask_storeu_epi16(out + panel, half, _mm512_unpackhi_epi16(x.first, x.first));
  _mm512_mask_storeu_epi16(out + 2 * panel, half, _mm512_unpacklo_epi16(x.second, x.second));
  _mm512_mask_storeu_epi16(out + 3 * panel, half, _mm512_unpackhi_epi16(x.second, x.second));
}

void decode_values(const RowLayout& layout, const RowBytes* rows, std::int64_t num_rows, std::int64_t at, int column,
                   Pair* values, std::int64_t panel) {
  constexpr std::int64_t kAhead = 8;
  const RowParts parts = parts_of(layout);
  const int block = column / kBlock;
  const std::int64_t offset =
      block < parts.code_blocks ? column : parts.words + (column - parts.first_word) * std::int64_t{sizeof(bf16)};
  std::int64_t j = 0;
  if (at % 2 != 0 && num_rows > 0) store_half(value_words(rows[j++], parts, block), at, values, panel);
  for (; j + 2 <= num_rows; j += 2) {
    if (j + kAhead + 1 < num_rows) {
      _mm_prefetch(reinterpret_cast<const char*>(rows[j + kAhead].row + offset), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(rows[j + kAhead + 1].row + offset), _MM_HINT_T0);
    }
    const Words a = value_words(rows[j], parts, block), b = value_words(rows[j + 1], parts, block);
    Pair* out = values + (at + j) / 2 * kLine;
    _mm512_storeu_si512(out, _mm512_unpacklo_epi16(a.first, b.first));
    _mm512_storeu_si512(out + panel, _mm512_unpackhi_epi16(a.first, b.first));
    _mm512_storeu_si512(out + 2 * panel, _mm512_unpacklo_epi16(a.second, b.second));
    _mm512_storeu_si512(out + 3 * panel, _mm512_unpackhi_epi16(a.second, b.second));
  }
  if (j < num_rows) store_half(value_words(rows[j], parts, block), at + j, values, panel);
}

// ---- queries and weights --------------------------------------------------------------------------------------------

void pack(const bf16* q, std::int64_t head_stride, int heads, int dim, Pair* out) {
  for (int c = 0; c < dim; c += kBlock, out += 2 * kPiece) {
    __m512i first[16], second[16];
    for (int h = 0; h < 16; ++h) {
      const Words x = as_keys(load_words(q + (h < heads ? h * head_stride + c : 0), h < heads ? dim - c : 0));
      first[h] = x.first;
      second[h] = x.second;
    }
    transpose(first);
    transpose(second);
    for (int p = 0; p < 16; ++p) {
      _mm512_storeu_si512(out + p * kLine, first[p]);
      _mm512_storeu_si512(out + kPiece + p * kLine, second[p]);
    }
  }
}

/// 2^x for x <= 0, within 2e-7; 0 below the smallest normal number, where results would cost a hundred times as much;
/// NaN for NaN.
HWY_INLINE __m512 power_of_two(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.326472964e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.671512991e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550733581e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402224243e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931470037e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(counts, p, whole);
}

template <bool kTiles>
void weigh(const float* logits, int rows, int groups, float scale, const float* base, Pair* weights,
           std::int64_t weights_group, float* total) {
  constexpr float kLog2E = 1.44269504f;
  const std::int64_t stride = std::int64_t{groups} * kLine;
  const __m512 factor = _mm512_set1_ps(scale), log2e = _mm512_set1_ps(kLog2E);
  const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
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
      for (int g = 0; g < Groups; ++g)
        b[g] = _mm512_loadu_si512(q + (std::int64_t{g} * steps + step) * kPiece + p * kLine);
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

void score_by_dots(const Pair* keys, int rows, int steps, const Pair* q, int groups, float scale, float* logits,
                   float* most) {
  const std::int64_t stride = std::int64_t{groups} * kLine;
  for (int g = 0; g < groups; g += 2) {
    for (int row = 0; row < rows; row += kDotRows) {
      const Pair* at = keys + (row / kLine * steps) * kPiece + row % kLine * kLine;
      (g + 1 < groups ? score_dots<2> : score_dots<1>)(at, steps, q + std::int64_t{g} * steps * kPiece, stride,
                                                       logits + row * stride + g * kLine);
    }
  }
  find_largest(logits, rows, groups, scale, most);
}

HWY_INLINE void gather_dots(const Gathering& x, const Pair* weights, const Pair* values, float* sums) {
  const std::int64_t panel = std::int64_t{x.row_steps} * kPiece;
  __m512 held[kDotRows][2];
  for (int i = 0; i < kDotRows; ++i) {
    for (int v = 0; v < 2; ++v)
      held[i][v] = x.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + i * x.sums_head + v * kLine);
  }
  for (std::int64_t p = 0; p < std::int64_t{x.row_steps} * kLine; ++p) {
    const __m512i b[2] = {_mm512_loadu_si512(values + p * kLine), _mm512_loadu_si512(values + panel + p * kLine)};
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      for (int v = 0; v < 2; ++v) held[i][v] = add_pairs(held[i][v], weights[p * kLine + i], b[v]);
    }
  }
  for (int i = 0; i < kDotRows; ++i) {
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(sums + i * x.sums_head + v * kLine, held[i][v]);
  }
}

void gather_by_dots(const Gathering& x) {
  const std::int64_t panel = std::int64_t{x.row_steps} * kPiece;
  for (int v = 0; v < kValueColumns / kLine; v += 2) {
    for (int h = 0; h < x.groups * kLine; h += kDotRows) {
      const Pair* weights = x.weights + h / kLine * x.weights_group + h % kLine;
      gather_dots(x, weights, x.values + v * panel, x.sums + h * x.sums_head + v * kLine);
    }
  }
}

// ---- AMX tiles ------------------------------------------------------------------------------------------------------

void score_by_tiles(const Pair* keys, int rows, int steps, const Pair* q, int groups, float scale, float* logits,
                    float* most) {
  const std::int64_t stride = std::int64_t{groups} * kLine, piece = std::int64_t{steps} * kPiece;
  for (int g = 0; g < groups; g += 2) {
    (g + 1 < groups ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)(keys, piece, q + g * piece, piece, steps, true,
                                                                   logits + g * kLine, stride);
  }
  find_largest(logits, rows, groups, scale, most);
}

void gather_by_tiles(const Gathering& x) {
  const std::int64_t panel = std::int64_t{x.row_steps} * kPiece;
  for (int v = 0; v < kValueColumns / kLine; v += 2) {
    for (int g = 0; g < x.groups; g += 2) {
      (g + 1 < x.groups ? multiply_tiles<2, 2>
                        : multiply_tiles<1, 2>)(x.weights + g * x.weights_group, x.weights_group, x.values + v * panel,
                                                panel, x.row_steps, x.fresh,
                                                x.sums + g * kLine * x.sums_head + v * kLine, x.sums_head);
    }
  }
}

void no_tiles() {}

constexpr Bf16Loops kDots = {"dots",        no_tiles,      no_tiles,     pack,          decode_keys,
                             decode_values, score_by_dots, weigh<false>, gather_by_dots};
constexpr Bf16Loops kTiles = {"tiles",       begin_tiles,    end_tiles,   pack,           decode_keys,
                              decode_values, score_by_tiles, weigh<true>, gather_by_tiles};

}  // namespace

const Bf16Loops& bf16_dot_loops() noexcept { return kDots; }
const Bf16Loops& bf16_tile_loops() noexcept { return kTiles; }

}  // namespace fathom::simd
HWY_POP_ATTRIBUTES

#else
namespace fathom::simd {

constexpr Bf16Loops kNone = {"none", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
const Bf16Loops& bf16_dot_loops() noexcept { return kNone; }
const Bf16Loops& bf16_tile_loops() noexcept { return kNone; }

}  // namespace fathom::simd
#endif
