// Loops: what attend and index spend their time in on the CPU, one table of functions for each instruction set. All
// lanes of a vector are heads, or columns, of one row; no sum is ever taken across lanes but the one over index heads.
// So every element of a result is one chain in the order of its terms, and no bit depends on how the work around it was
// cut.
#pragma once

#include <cstdint>

#include "cache/row_bytes.h"
#include "fathom/cache.h"

namespace fathom::simd {

/// out[i, j] += sum over p of a[i, p] * b[p, j]. The columns of b, and of out, stand in panels of two vectors: column j
/// of b[p] is b + (j / width) * b_panel + p * b_p + j % width.
struct Product {
  int m, n, k;  ///< n is a multiple of a vector's lanes
  const float* a;
  std::int64_t a_i, a_p;
  const float* b;
  std::int64_t b_p, b_panel;
  float* out;
  std::int64_t out_i;
};

struct Loops {
  const char* target;  ///< Highway's name of the instruction set
  int lanes;           ///< f32 of a vector; a panel is two vectors

  /// Decodes elements [first, first + count) of rows as decode_row does, but for the sign of zeros, to out + j *
  /// stride. Of e2m1 rows whole blocks of a scale.
  void (*decode)(const RowLayout& layout, const RowBytes* rows, std::int64_t num_rows, int first, int count, float* out,
                 std::int64_t stride);
  /// Terms are added in order, each by one fused multiply-add to what `out` held.
  void (*multiply)(const Product& product);
  /// Scales logits[j * stride + h] and puts the largest of each head, which a NaN never is, into most[h].
  void (*largest)(float* logits, std::int64_t stride, std::int64_t rows, std::int64_t heads, float scale, float* most);
  /// Turns logits[j * stride + h] into exp(logit - base[h]), at last rounded to bf16 if asked; total[h] is the sum of
  /// the weights, in order and not rounded. `heads` is a multiple of the lanes here and above.
  void (*weigh)(float* logits, std::int64_t stride, std::int64_t rows, std::int64_t heads, const float* base,
                bool round, float* total);
  /// out[c] = values[c] * factor, as f32 or rounded to bf16.
  void (*store)(const float* values, std::int64_t count, float factor, DType dtype, void* out);
  /// scores[j] = sum over h < heads of weights[h] * max(q[h] . keys[j], 0), where a NaN stays one. q in panels of
  /// heads, [panels, dim, width]; q and weights go on to whole panels.
  void (*score)(const float* keys, std::int64_t num_keys, const float* q, int dim, int heads, const float* weights,
                float* scores);
  /// Appends j, and scores[j], wherever not scores[j] <= cut; returns how many.
  std::int64_t (*above)(const float* scores, std::int64_t count, float cut, std::int32_t* which);

  int width() const noexcept { return 2 * lanes; }
  std::int64_t padded(std::int64_t columns) const noexcept { return (columns + lanes - 1) / lanes * lanes; }
  std::int64_t panels(std::int64_t columns) const noexcept { return (columns + width() - 1) / width(); }
};

/// Those of the instruction set that dispatch chose (target_name() of words.h).
const Loops& best_loops() noexcept;
/// Those of one set; only where why_not() of instruction_sets.h finds nothing that the machine lacks.
const Loops& avx2_loops() noexcept;
const Loops& avx512_loops() noexcept;

}  // namespace fathom::simd
