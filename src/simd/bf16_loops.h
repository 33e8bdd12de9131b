// Bf16Loops: attend's products of bf16 pairs, as AVX-512's dot products or as AMX tiles. Both read operands in 1 KiB
// pieces, 16 lines of 16 pairs, so that everything around the two products is shared.
//
//   keys     [16 rows][16 pairs]    of rows and columns      a step is 32 columns of keys
//   q        [16 pairs][16 heads]   of columns and heads
//   weights  tiles: [16 heads][16 pairs], dots: [16 pairs][16 heads]   of heads and rows; a row step is 32 rows
//   values   [16 pairs][16 columns] of rows and columns
//
// Within 64 columns keys and q stand in the order that unpacking bytes leaves; values and sums stand in their own. bf16
// products are exact in f32, and each element is one chain of sums in the order of its terms. The instructions take
// bf16 and f32 denormals for zero.
#pragma once

#include <cstdint>

#include "cache/row_bytes.h"
#include "fathom/cache.h"

namespace fathom::simd {

/// Two bf16, the element that comes first in the lower half.
using Pair = std::uint32_t;
inline constexpr std::int64_t kPiece = 256;   ///< pairs of a piece
inline constexpr int kLine = 16;              ///< rows, heads or columns of a piece
inline constexpr int kStep = 32;              ///< columns or rows that a piece adds up
inline constexpr int kScoreRows = 2 * kLine;  ///< rows scored at a time
inline constexpr int kValueColumns = 64;      ///< columns gathered at a time: those of one scale

/// sums[h, c] += sum over rows of weights[h, row] * values[row, c], for all heads of `groups` and kValueColumns
/// columns.
struct Gathering {
  const Pair* weights;  ///< [groups, row_steps, piece], groups `weights_group` apart
  std::int64_t weights_group;
  const Pair* values;  ///< [panels, row_steps, piece]
  float* sums;
  std::int64_t sums_head;
  int groups, row_steps;
  bool fresh;  ///< sums start from zero
};

struct Bf16Loops {
  const char* name;
  /// Around score and gather, on the same thread: sets up the processor's tiles, and gives them back.
  void (*begin)();
  void (*end)();
  /// Turns 16 heads, of which `heads` are there, to [steps, piece].
  void (*pack)(const bf16* q, std::int64_t head_stride, int heads, int dim, Pair* out);
  /// Rows to keys[tile][step], from row `at` of kScoreRows on; kv_bf16 or kv_e4m3_ue8m0. Meanwhile fetches the rows
  /// ahead[0 .. num_ahead).
  void (*decode_keys)(const RowLayout& layout, const RowBytes* rows, int num_rows, int at, const RowBytes* ahead,
                      int num_ahead, Pair* keys);
  /// Columns [column, column + kValueColumns) of an even number of rows, as pairs from row number `at` on: panel number
  /// c at values + c * panel. An odd last row is paired with zeros.
  void (*decode_values)(const RowLayout& layout, const RowBytes* rows, std::int64_t num_rows, std::int64_t at,
                        int column, Pair* values, std::int64_t panel);
  /// logits[row, h] = q[h] . keys[row], not scaled; most[h] = the largest of `rows` rows times scale, which a NaN never
  /// is.
  void (*score)(const Pair* keys, int rows, int steps, const Pair* q, int groups, float scale, float* logits,
                float* most);
  /// weights of one row step = exp(logits * scale - base) as bf16, zeros past `rows`; total[h] = their sum, in order,
  /// not rounded.
  void (*weigh)(const float* logits, int rows, int groups, float scale, const float* base, Pair* weights,
                std::int64_t weights_group, float* total);
  void (*gather)(const Gathering& gathering);
};

/// Only where why_not() of instruction_sets.h finds nothing that the machine lacks.
const Bf16Loops& bf16_dot_loops() noexcept;
const Bf16Loops& bf16_tile_loops() noexcept;

}  // namespace fathom::simd
