// What linear's CPU implementations are made of: one loop over strips of weight rows and blocks of K (linear_cpu.cpp), and
// for each instruction set the five pieces that know about vectors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fathom/core/dtype.h"

namespace fathom {

inline constexpr int kPackTokens = 16, kPackStride = 512;
inline constexpr int kQuantBlock = 128;  ///< elements of K, and rows, that share a scale

/// Stored weights, read where they lie.
struct WeightRows {
  const std::byte* data = nullptr;
  std::int64_t row_bytes = 0;
  DType dtype = DType::bf16;
  const std::uint8_t* scales = nullptr;  ///< of e4m3
  std::int64_t scale_stride = 0;

  const std::byte* row(std::int64_t n) const noexcept { return data + n * row_bytes; }
  std::uint8_t scale(std::int64_t n, std::int64_t k) const noexcept { return scales[n / kQuantBlock * scale_stride + k / kQuantBlock]; }
};

/// Part of the weights: rows [row, row + rows) by elements [first, first + count) of K.
struct WeightBlock {
  std::int64_t row = 0, first = 0;
  int rows = 0, count = 0;
  std::int64_t ahead = 0;  ///< bytes from here to what will be asked for next
};

/// One instruction set's way to multiply. A strip of weight rows is widened, a block of K at a time, into a buffer that the
/// first-level cache holds, and meets all tokens of the tile there. An output is a chain of sums in an order that does not
/// depend on the tokens beside it.
struct LinearKernel {
  int element_bytes;       ///< of widened weights and packed x
  int pad;                 ///< elements of a block are padded with zeros to a multiple
  int block;               ///< elements of K in a block, a multiple of kQuantBlock
  int token_tile;          ///< tokens that share one pass over the weights
  int row_multiple;        ///< rows of a strip are padded with zeros to a multiple
  int sums_per_output;     ///< f32 sums that an output is added up in
  int (*strip_rows)(std::int64_t tokens);            ///< a multiple of row_multiple
  std::int64_t (*padded_tokens)(std::int64_t tokens);  ///< how many tokens packed x has room for
  /// E4M3 is widened to its value over this.
  float code_unit;

  /// Around the calls of a thread.
  void (*begin)(std::int64_t tokens);
  void (*end)();
  /// `count` elements of `num` tokens from `t` on (a multiple of kPackTokens), kPackStride apart, into their block of packed x of `tokens`;
  /// padding included.
  void (*pack)(const float* values, int num, int count, std::int64_t t, std::int64_t tokens, std::byte* block);
  /// The block, row by row, padding included.
  void (*widen)(const WeightRows& weights, const WeightBlock& block, std::byte* out);
  /// Adds products to sums; `first`: sums begin here. `first_token` is a multiple of 16, or 0.
  void (*multiply)(const std::byte* weights, const std::byte* x, int rows, int count, std::int64_t first_token, std::int64_t end_token,
                   std::int64_t tokens, bool first, float* sums);
  /// Both at once for one token, where the kernel has a quicker way to the same bits; null where it never has. False: not for
  /// this block.
  bool (*stream)(const WeightRows& weights, const WeightBlock& block, std::byte* buffer, const std::byte* x, bool first, float* sums);
  /// sums to out[t * rows + i], times `unit`.
  void (*finish)(const float* sums, int rows, std::int64_t first_token, std::int64_t end_token, std::int64_t tokens, float unit, float* out);
};

/// Weights as bf16 rows, for the kernels that multiply them.
void widen_bf16(const WeightRows& weights, const WeightBlock& block, int pad, int row_multiple, std::byte* buffer);

/// The best of this machine's vectors, or those of one instruction set.
const LinearKernel& linear_vectors() noexcept;
const LinearKernel& linear_vectors_avx2() noexcept;
const LinearKernel& linear_vectors_avx512() noexcept;
/// Operands in bf16: E4M3 is exact in it, and so is x where it is bf16 or quantised.
const LinearKernel& linear_avx512bf16() noexcept;
const LinearKernel& linear_amx() noexcept;

}  // namespace fathom
