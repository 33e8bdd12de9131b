// Bf16Scores: the scores of index by products of bf16 pairs, as AVX-512's dot products or as AMX tiles. E4M3 and E2M1
// codes are exact in bf16, and so are their products in f32. Queries and keys stand in the order that decoding leaves,
// which is that of no one else. Pieces are those of bf16_loops.h.
#pragma once

#include <cstdint>

#include "simd/bf16_loops.h"

namespace fathom::simd {

inline constexpr int kScoredKeys = 32;  ///< at a time

struct Bf16Scores {
  const char* name;
  /// Queries of 16 heads at a time, given as rows of codes in the keys' format: q[groups][steps][piece].
  void (*pack)(const RowLayout& layout, const RowBytes* heads, int num_heads, Pair* q);
  /// scores[j] = sum over heads of weights[h] * max(q[h] . keys[j], 0), where a NaN stays one. `keys` is scratch of
  /// kScoredKeys rows. weights go on to whole groups of 16.
  void (*score)(const RowLayout& layout, const RowBytes* rows, std::int64_t count, Pair* keys, const Pair* q, int heads,
                const float* weights, float* scores);
};

/// Whether a format's rows can be scored: index_e4m3_f32 of a multiple of 64, index_e2m1_ue8m0 of a multiple of 128.
constexpr bool takes_bf16_scores(CacheFormat format, int dim) noexcept {
  return (format == CacheFormat::index_e4m3_f32 && dim % 64 == 0) ||
         (format == CacheFormat::index_e2m1_ue8m0 && dim % 128 == 0);
}

/// Only where why_not() of instruction_sets.h finds nothing that the machine lacks.
const Bf16Scores& bf16_dot_scores() noexcept;
const Bf16Scores& bf16_tile_scores() noexcept;

}  // namespace fathom::simd
