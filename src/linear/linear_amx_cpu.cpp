// linear's kernel for AMX: 16 weight rows are the left operand as they lie, 16 tokens the right one, packed in pairs of K.
// Two by two tiles of sums at a time. A tile's instruction adds 32 products to each sum in an order of its own, the same for
// every row and column, so that the company of a token does not show here either.
#include "linear/linear_cpu.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include "simd/intrinsics.h"

#define FATHOM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

namespace fathom {
namespace {

constexpr int kStep = 32, kTile = 16, kBlock = 512, kTokenTile = 512;

/// Tokens beside each other in packed x: few tokens leave no room for others.
int chunk_width(std::int64_t tokens) { return static_cast<int>(std::min<std::int64_t>(tokens, kTile)); }

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// Tiles 0 to 3 are sums, 4 and 5 weights, 6 and 7 tokens.
FATHOM_TARGET void begin(std::int64_t tokens) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    const bool is_weights = i == 4 || i == 5;
    config.row_bytes[i] = static_cast<std::uint16_t>(is_weights ? 2 * kStep : 4 * chunk_width(tokens));
    config.rows[i] = kTile;
  }
  __asm__ volatile("" : : "r"(&config) : "memory");  // the intrinsic owns to read eight bytes of it only
  _tile_loadconfig(&config);
}
FATHOM_TARGET void end() { _tile_release(); }

FATHOM_TARGET inline void transpose(__m512i (&rows)[kTile]) {
  __m512i pairs[kTile], fours[kTile];
  for (int i = 0; i < kTile; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < kTile; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // fours[4 * g + c] holds, of rows 4g to 4g + 3, columns c, 4 + c, 8 + c, 12 + c.
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88), high = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
    const __m512i low_odd = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd), high_odd = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
    rows[c] = _mm512_shuffle_i32x4(low, high, 0x88);
    rows[8 + c] = _mm512_shuffle_i32x4(low, high, 0xdd);
    rows[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
    rows[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
  }
}

/// 32 values as 16 pairs of bf16.
FATHOM_TARGET inline __m512i pairs_of(const float* values, int count) {
  const __mmask16 low = count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
  const __mmask16 high = count >= 32 ? 0xffff : count > 16 ? static_cast<__mmask16>((1u << (count - 16)) - 1) : 0;
  const __m512 a = _mm512_maskz_loadu_ps(low, values), b = _mm512_maskz_loadu_ps(high, values + 16);
  const __m512bh pairs = _mm512_cvtne2ps_pbh(b, a);
  __m512i bits;
  std::memcpy(&bits, &pairs, sizeof(bits));
  return bits;
}

/// [chunk, K / 2, tokens of a chunk, 2].
FATHOM_TARGET void pack(const float* values, int num, int count, std::int64_t t, std::int64_t tokens, std::byte* block) {
  const int width = chunk_width(tokens), padded = (count + kStep - 1) / kStep * kStep;
  const __mmask16 columns = static_cast<__mmask16>((1u << width) - 1);
  auto* out = reinterpret_cast<std::uint32_t*>(block) + t / kTile * (padded / 2) * width;
  for (int k = 0; k < padded; k += kStep) {
    __m512i rows[kTile];
    for (int i = 0; i < kTile; ++i) rows[i] = i < num ? pairs_of(values + std::int64_t{i} * kPackStride + k, count - k) : _mm512_setzero_si512();
    transpose(rows);
    for (int i = 0; i < kTile; ++i) _mm512_mask_storeu_epi32(out + (k / 2 + i) * width, columns, rows[i]);
  }
}

/// Rows x Chunks tiles of sums over one block of K.
template <int Rows, int Chunks>
FATHOM_TARGET inline void multiply_tiles(const std::uint16_t* weights, int count, const std::uint16_t* x, std::int64_t x_chunk, int width, bool first,
                                         float* sums, std::int64_t row_stride) {
  const std::int64_t weight_stride = std::int64_t{count} * 2, token_stride = std::int64_t{width} * 4, chunk_sums = std::int64_t{kTile} * width;
  float* const below = sums + row_stride;
  if (first) {
    _tile_zero(0);
    if constexpr (Chunks > 1) _tile_zero(1);
    if constexpr (Rows > 1) _tile_zero(2);
    if constexpr (Rows > 1 && Chunks > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, token_stride);
    if constexpr (Chunks > 1) _tile_loadd(1, sums + chunk_sums, token_stride);
    if constexpr (Rows > 1) _tile_loadd(2, below, token_stride);
    if constexpr (Rows > 1 && Chunks > 1) _tile_loadd(3, below + chunk_sums, token_stride);
  }
  for (int k = 0; k < count; k += kStep) {
    _tile_loadd(4, weights + k, weight_stride);
    _tile_loadd(6, x + std::int64_t{k} * width, token_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Chunks > 1) {
      _tile_loadd(7, x + x_chunk + std::int64_t{k} * width, token_stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Rows > 1) {
      _tile_loadd(5, weights + std::int64_t{kTile} * count + k, weight_stride);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (Chunks > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, token_stride);
  if constexpr (Chunks > 1) _tile_stored(1, sums + chunk_sums, token_stride);
  if constexpr (Rows > 1) _tile_stored(2, below, token_stride);
  if constexpr (Rows > 1 && Chunks > 1) _tile_stored(3, below + chunk_sums, token_stride);
}

template <int Chunks>
FATHOM_TARGET inline void multiply_rows(const std::uint16_t* weights, int rows, int count, const std::uint16_t* x, std::int64_t x_chunk, int width,
                                        bool first, float* sums, std::int64_t row_stride) {
  int i = 0;
  for (; i + 2 * kTile <= rows; i += 2 * kTile) {
    multiply_tiles<2, Chunks>(weights + std::int64_t{i} * count, count, x, x_chunk, width, first, sums + i / kTile * row_stride, row_stride);
  }
  if (i < rows) multiply_tiles<1, Chunks>(weights + std::int64_t{i} * count, count, x, x_chunk, width, first, sums + i / kTile * row_stride, row_stride);
}

/// Sums lie as [tile of rows, chunk, 16, tokens of a chunk].
FATHOM_TARGET void multiply(const std::byte* weights, const std::byte* x, int rows, int count, std::int64_t first_token, std::int64_t end_token,
                            std::int64_t tokens, bool first, float* sums) {
  const int width = chunk_width(tokens);
  const std::int64_t x_chunk = std::int64_t{count} * width, chunk_sums = std::int64_t{kTile} * width;
  const std::int64_t begin_chunk = first_token / kTile, chunks = (end_token + kTile - 1) / kTile - begin_chunk;
  const auto* w = reinterpret_cast<const std::uint16_t*>(weights);
  const auto* packed = reinterpret_cast<const std::uint16_t*>(x) + begin_chunk * x_chunk;
  std::int64_t c = 0;
  for (; c + 2 <= chunks; c += 2) {
    multiply_rows<2>(w, rows, count, packed + c * x_chunk, x_chunk, width, first, sums + c * chunk_sums, chunks * chunk_sums);
  }
  if (c < chunks) multiply_rows<1>(w, rows, count, packed + c * x_chunk, x_chunk, width, first, sums + c * chunk_sums, chunks * chunk_sums);
}

FATHOM_TARGET void finish(const float* sums, int rows, std::int64_t first_token, std::int64_t end_token, std::int64_t tokens, float, float* out) {
  const int width = chunk_width(tokens);
  const std::int64_t count = end_token - first_token, chunks = (count + kTile - 1) / kTile;
  const __mmask16 columns = static_cast<__mmask16>((1u << width) - 1);
  for (int i = 0; i < rows; i += kTile) {
    const int left = std::min(kTile, rows - i);
    const __mmask16 kept = static_cast<__mmask16>((1u << left) - 1);
    for (std::int64_t c = 0; c < chunks; ++c) {
      const float* tile = sums + (i / kTile * chunks + c) * kTile * width;
      __m512i lines[kTile];
      for (int r = 0; r < kTile; ++r) lines[r] = _mm512_maskz_loadu_epi32(columns, tile + r * width);
      transpose(lines);
      const int here = static_cast<int>(std::min<std::int64_t>(kTile, count - c * kTile));
      for (int t = 0; t < here; ++t) _mm512_mask_storeu_epi32(out + (c * kTile + t) * rows + i, kept, lines[t]);
    }
  }
}

void widen(const WeightRows& weights, const WeightBlock& block, std::byte* out) { widen_bf16(weights, block, kStep, kTile, out); }

}  // namespace

const LinearKernel& linear_amx() noexcept {
  static const LinearKernel kernel{
      .element_bytes = 2,
      .pad = kStep,
      .block = kBlock,
      .token_tile = kTokenTile,
      .row_multiple = kTile,
      .sums_per_output = 1,
      // Few tokens: what is widened stays in the first cache. Many: x comes from further away, and less often so.
      .strip_rows = [](std::int64_t tokens) { return tokens <= 32 ? 32 : 128; },
      .padded_tokens = [](std::int64_t tokens) { return tokens <= kTile ? tokens : (tokens + kTile - 1) / kTile * kTile; },
      .code_unit = 1,
      .begin = begin,
      .end = end,
      .pack = pack,
      .widen = widen,
      .multiply = multiply,
      .stream = nullptr,
      .finish = finish,
  };
  return kernel;
}

}  // namespace fathom
#endif
