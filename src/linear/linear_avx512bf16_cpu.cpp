// linear's kernel for AVX-512's dot products of bf16 pairs: as linear_vectors_cpu.cpp, with twice the elements a vector.
#include "linear/linear_cpu.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include "simd/intrinsics.h"

#define FATHOM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16")))

namespace fathom {
namespace {

constexpr int kLanes = 32, kBlock = 512, kTokenTile = 128, kStrip = 24, kSums = 16;
constexpr int kTokens = 4, kRows = 6, kRowsOfOneToken = 12;

FATHOM_TARGET void pack(const float* values, int num, int count, std::int64_t t, std::int64_t, std::byte* block) {
  const int padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int i = 0; i < num; ++i) {
    const float* from = values + std::int64_t{i} * kPackStride;
    auto* out = reinterpret_cast<std::uint16_t*>(block) + (t + i) * padded;
    for (int k = 0; k < count; ++k) out[k] = to_bf16(from[k]).bits;
    std::fill(out + count, out + padded, std::uint16_t{0});
  }
}

FATHOM_TARGET inline __m512bh load(const std::uint16_t* words) {
  const __m512i bits = _mm512_loadu_si512(words);
  __m512bh pairs;
  std::memcpy(&pairs, &bits, sizeof(pairs));
  return pairs;
}

template <int Rows, int Tokens>
FATHOM_TARGET inline void multiply_block(const std::uint16_t* weights, const std::uint16_t* x, int count, bool first, float* sums,
                                         std::int64_t sums_stride) {
  __m512 held[Rows][Tokens];
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Tokens; ++j) held[i][j] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + i * sums_stride + j * kSums);
  }
  for (int k = 0; k < count; k += kLanes) {
    __m512bh row[Rows];
    for (int i = 0; i < Rows; ++i) row[i] = load(weights + i * count + k);
    for (int j = 0; j < Tokens; ++j) {
      const __m512bh token = load(x + j * count + k);
      for (int i = 0; i < Rows; ++i) held[i][j] = _mm512_dpbf16_ps(held[i][j], row[i], token);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Tokens; ++j) _mm512_storeu_ps(sums + i * sums_stride + j * kSums, held[i][j]);
  }
}

FATHOM_TARGET void multiply(const std::byte* weights, const std::byte* x, int rows, int count, std::int64_t first_token,
                            std::int64_t end_token, std::int64_t, bool first, float* sums) {
  const auto* w = reinterpret_cast<const std::uint16_t*>(weights);
  const auto* packed = reinterpret_cast<const std::uint16_t*>(x);
  const std::int64_t stride = (end_token - first_token) * kSums;
  std::int64_t t = first_token;
  for (; t + kTokens <= end_token; t += kTokens) {
    for (int i = 0; i < rows; i += kRows) {
      multiply_block<kRows, kTokens>(w + std::int64_t{i} * count, packed + t * count, count, first, sums + i * stride + (t - first_token) * kSums, stride);
    }
  }
  for (; t < end_token; ++t) {
    for (int i = 0; i < rows; i += kRowsOfOneToken) {
      multiply_block<kRowsOfOneToken, 1>(w + std::int64_t{i} * count, packed + t * count, count, first, sums + i * stride + (t - first_token) * kSums,
                                         stride);
    }
  }
}

FATHOM_TARGET void finish(const float* sums, int rows, std::int64_t first_token, std::int64_t end_token, std::int64_t, float, float* out) {
  const std::int64_t tokens = end_token - first_token;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (int i = 0; i < rows; ++i) out[t * rows + i] = _mm512_reduce_add_ps(_mm512_loadu_ps(sums + (i * tokens + t) * kSums));
  }
}

void widen(const WeightRows& weights, const WeightBlock& block, std::byte* out) { widen_bf16(weights, block, kLanes, kRowsOfOneToken, out); }

}  // namespace

const LinearKernel& linear_avx512bf16() noexcept {
  static const LinearKernel kernel{
      .element_bytes = 2,
      .pad = kLanes,
      .block = kBlock,
      .token_tile = kTokenTile,
      .row_multiple = kRowsOfOneToken,
      .sums_per_output = kSums,
      .strip_rows = [](std::int64_t) { return kStrip; },
      .padded_tokens = [](std::int64_t tokens) { return tokens; },
      .code_unit = 1,
      .begin = [](std::int64_t) {},
      .end = [] {},
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
