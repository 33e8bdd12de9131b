// linear's kernel for vectors of f32, on every instruction set that Highway has: dot products along K, a register block of
// rows x tokens at a time, each with one vector of sums. One token takes another way to the same bits.
#include <cstring>
#include <type_traits>

#include "cache/number_codecs.h"
#include "linear/linear_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "linear/linear_vectors_cpu.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/highway.h>

#include "simd/e4m3-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

constexpr int kPad = 16, kBlock = 512, kTokenTile = 128, kStrip = 8;
constexpr float kCodeUnit = 256.0f;  ///< of widen_finite_e4m3
// Sums fill the registers that one row and the tokens leave: 16 registers hold 4 x 3 of them, 32 hold 8 x 3.
constexpr int kTokens = 3, kRows = HWY_TARGET == HWY_AVX3 ? 8 : 4, kRowsOfOneToken = 8;
static_assert(kRowsOfOneToken % kRows == 0 && kStrip % kRowsOfOneToken == 0 && kQuantBlock % kStrip == 0);

int padded_count(int count) { return (count + kPad - 1) / kPad * kPad; }

/// The codes' values / kCodeUnit, times their scale.
HWY_INLINE void widen_codes(const std::uint8_t* HWY_RESTRICT codes, int count, float scale, float* HWY_RESTRICT out) {
  const D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int k = 0;
  if (!simd::HWY_NAMESPACE::any_nan_e4m3(codes, count)) {
    const auto factor = hn::Set(d, scale);
    for (; k + 2 * lanes <= count; k += 2 * lanes) {
      hn::Vec<D> first, second;
      simd::HWY_NAMESPACE::widen_finite_e4m3(d, codes + k, first, second);
      hn::Store(hn::Mul(first, factor), d, out + k);
      hn::Store(hn::Mul(second, factor), d, out + k + lanes);
    }
  }
  for (; k < count; ++k) out[k] = decode_e4m3(codes[k]) * (1 / kCodeUnit) * scale;
}

HWY_INLINE void widen_words(const std::uint16_t* HWY_RESTRICT words, int count, float* HWY_RESTRICT out) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  const hn::Rebind<std::uint16_t, D> d16;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int k = 0;
  for (; k + lanes <= count; k += lanes) hn::Store(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, words + k)))), d, out + k);
  for (; k < count; ++k) out[k] = to_f32(bf16{words[k]});
}

HWY_INLINE void prefetch(const std::byte* from, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at);
}

void widen(const WeightRows& weights, const WeightBlock& block, std::byte* buffer) {
  const int padded = padded_count(block.count);
  const std::int64_t first_byte = bytes_of(weights.dtype, block.first), bytes = bytes_of(weights.dtype, block.count);
  for (int i = 0; i < block.rows; ++i) {
    const std::byte* from = weights.row(block.row + i) + first_byte;
    float* out = reinterpret_cast<float*>(buffer) + std::int64_t{i} * padded;
    prefetch(from + block.ahead, bytes);
    if (weights.dtype == DType::e4m3) {
      for (int k = 0; k < block.count; k += kQuantBlock) {
        const float scale = decode_ue8m0(weights.scale(block.row + i, block.first + k));
        widen_codes(reinterpret_cast<const std::uint8_t*>(from) + k, std::min(kQuantBlock, block.count - k), scale, out + k);
      }
    } else if (weights.dtype == DType::bf16) {
      widen_words(reinterpret_cast<const std::uint16_t*>(from), block.count, out);
    } else {
      std::memcpy(out, from, static_cast<std::size_t>(bytes));
    }
    std::fill(out + block.count, out + padded, 0.0f);
  }
  // Sums of a last strip's missing rows are not used, but numbers are quicker than what may lie there.
  const int missing = (kRowsOfOneToken - block.rows % kRowsOfOneToken) % kRowsOfOneToken;
  std::fill_n(reinterpret_cast<float*>(buffer) + std::int64_t{block.rows} * padded, std::int64_t{missing} * padded, 0.0f);
}

void pack(const float* values, int num, int count, std::int64_t t, std::int64_t, std::byte* block) {
  const int padded = padded_count(count);
  for (int i = 0; i < num; ++i) {
    float* out = reinterpret_cast<float*>(block) + (t + i) * padded;
    std::memcpy(out, values + std::int64_t{i} * kPackStride, static_cast<std::size_t>(count) * sizeof(float));
    std::fill(out + count, out + padded, 0.0f);
  }
}

template <int Rows, int Tokens>
HWY_INLINE void multiply_block(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT x, int count, bool first, float* HWY_RESTRICT sums,
                               std::int64_t sums_stride) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> held[Rows][Tokens];
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Tokens; ++j) held[i][j] = first ? hn::Zero(d) : hn::Load(d, sums + i * sums_stride + j * lanes);
  }
  for (std::int64_t k = 0; k < count; k += lanes) {
    hn::Vec<D> tokens[Tokens];
    for (int j = 0; j < Tokens; ++j) tokens[j] = hn::Load(d, x + j * count + k);
    for (int i = 0; i < Rows; ++i) {
      const auto row = hn::Load(d, weights + i * count + k);
      for (int j = 0; j < Tokens; ++j) held[i][j] = hn::MulAdd(row, tokens[j], held[i][j]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Tokens; ++j) hn::Store(held[i][j], d, sums + i * sums_stride + j * lanes);
  }
}

template <int Rows, int Tokens>
HWY_INLINE void multiply_strip(const float* weights, const float* x, int rows, int count, bool first, float* sums, std::int64_t sums_stride) {
  for (int i = 0; i < rows; i += Rows) {
    multiply_block<Rows, Tokens>(weights + std::int64_t{i} * count, x, count, first, sums + i * sums_stride, sums_stride);
  }
}

void multiply(const std::byte* buffer, const std::byte* x, int rows, int count, std::int64_t first_token, std::int64_t end_token, std::int64_t,
              bool first, float* sums) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D()));
  const auto* weights = reinterpret_cast<const float*>(buffer);
  const float* packed = reinterpret_cast<const float*>(x) + first_token * count;
  const std::int64_t tokens = end_token - first_token, stride = tokens * lanes;
  std::int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens) multiply_strip<kRows, kTokens>(weights, packed + t * count, rows, count, first, sums + t * lanes, stride);
  if (t + 2 == tokens) {
    multiply_strip<kRows, 2>(weights, packed + t * count, rows, count, first, sums + t * lanes, stride);
  } else if (t < tokens) {
    multiply_strip<kRowsOfOneToken, 1>(weights, packed + t * count, rows, count, first, sums + t * lanes, stride);
  }
}

// ---- one token: weights go from memory through registers into the sums -------------------------------------------------

HWY_INLINE hn::Vec<D> load(const hwy::float16_t* halves) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<hwy::float16_t, D>(), halves)); }
HWY_INLINE hn::Vec<D> load(const bf16* words) {
  const hn::Rebind<std::uint16_t, D> d16;
  const auto wide = hn::PromoteTo(hn::RebindToUnsigned<D>(), hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(words)));
  return hn::BitCast(D(), hn::ShiftLeft<16>(wide));
}

/// As multiply_block<Rows, 1>, of stored weights.
template <int Rows, class Stored>
HWY_INLINE void stream_rows(const WeightRows& weights, const WeightBlock& block, int i, const float* HWY_RESTRICT x, bool first, float* HWY_RESTRICT sums) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Stored* rows[Rows];
  HWY_ALIGN hwy::float16_t halves[Rows][kBlock];
  for (int r = 0; r < Rows; ++r) {
    const std::byte* from = weights.row(block.row + i + r);
    if constexpr (std::is_same_v<Stored, hwy::float16_t>) {
      simd::HWY_NAMESPACE::halves_of_finite_e4m3(reinterpret_cast<const std::uint8_t*>(from) + block.first, block.count, halves[r]);
      rows[r] = halves[r];
    } else {
      rows[r] = reinterpret_cast<const Stored*>(from) + block.first;
    }
  }
  hn::Vec<D> held[Rows];
  for (int r = 0; r < Rows; ++r) held[r] = first ? hn::Zero(d) : hn::Load(d, sums + (i + r) * lanes);
  for (std::int64_t k = 0; k < block.count; k += lanes) {
    const auto token = hn::Load(d, x + k);
    for (int r = 0; r < Rows; ++r) held[r] = hn::MulAdd(load(rows[r] + k), token, held[r]);
  }
  for (int r = 0; r < Rows; ++r) hn::Store(held[r], d, sums + (i + r) * lanes);
}

template <class Stored>
HWY_INLINE void stream_block(const WeightRows& weights, const WeightBlock& block, const float* x, bool first, float* sums) {
  constexpr int kStreamed = 8;
  int i = 0;
  for (; i + kStreamed <= block.rows; i += kStreamed) stream_rows<kStreamed, Stored>(weights, block, i, x, first, sums);
  for (; i < block.rows; ++i) stream_rows<1, Stored>(weights, block, i, x, first, sums);
}

/// x with the scales that the block's rows share: a power of two may multiply either operand. False where it might leave f32's
/// range there, or where rows differ.
bool scale_token(const WeightRows& weights, const WeightBlock& block, const float* HWY_RESTRICT x, float* HWY_RESTRICT out) {
  constexpr int kLeastScale = 127 - 40, kMostScale = 127;
  if (block.row / kQuantBlock != (block.row + block.rows - 1) / kQuantBlock) return false;
  const D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int k = 0; k < block.count; k += kQuantBlock) {
    const std::uint8_t scale = weights.scale(block.row, block.first + k);
    if (scale < kLeastScale || scale > kMostScale) return false;
    const auto factor = hn::Set(d, decode_ue8m0(scale));
    for (int c = k; c < std::min(k + kQuantBlock, block.count); c += lanes) hn::Store(hn::Mul(hn::Load(d, x + c), factor), d, out + c);
  }
  return true;
}

bool stream(const WeightRows& weights, const WeightBlock& block, std::byte* buffer, const std::byte* x, bool first, float* sums) {
  const std::int64_t first_byte = bytes_of(weights.dtype, block.first), bytes = bytes_of(weights.dtype, block.count);
  if (weights.dtype == DType::f32 || block.count % kPad != 0 || block.count % (2 * static_cast<int>(hn::Lanes(D()))) != 0) return false;
  for (int i = 0; i < block.rows; ++i) prefetch(weights.row(block.row + i) + first_byte + block.ahead, bytes);
  const auto* packed = reinterpret_cast<const float*>(x);
  if (weights.dtype == DType::bf16) {
    stream_block<bf16>(weights, block, packed, first, sums);
    return true;
  }
  for (int i = 0; i < block.rows; ++i) {
    if (simd::HWY_NAMESPACE::any_nan_e4m3(reinterpret_cast<const std::uint8_t*>(weights.row(block.row + i) + first_byte), bytes)) return false;
  }
  auto* scaled = reinterpret_cast<float*>(buffer);
  if (!scale_token(weights, block, packed, scaled)) return false;
  stream_block<hwy::float16_t>(weights, block, scaled, first, sums);
  return true;
}

void finish(const float* sums, int rows, std::int64_t first_token, std::int64_t end_token, std::int64_t, float unit, float* out) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t tokens = end_token - first_token;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (int i = 0; i < rows; ++i) {
      out[t * rows + i] = unit * hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sums + (i * tokens + t) * lanes)));
    }
  }
}

const LinearKernel& kernel() {
  static const LinearKernel result{
      .element_bytes = 4,
      .pad = kPad,
      .block = kBlock,
      .token_tile = kTokenTile,
      .row_multiple = kRowsOfOneToken,
      .sums_per_output = static_cast<int>(hn::Lanes(D())),
      .strip_rows = [](std::int64_t) { return kStrip; },
      .padded_tokens = [](std::int64_t tokens) { return tokens; },
      .code_unit = kCodeUnit,
      .begin = [](std::int64_t) {},
      .end = [] {},
      .pack = pack,
      .widen = widen,
      .multiply = multiply,
      .stream = stream,
      .finish = finish,
  };
  return result;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fathom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {

HWY_EXPORT(kernel);
const LinearKernel& linear_vectors() noexcept { return HWY_DYNAMIC_DISPATCH(kernel)(); }
#if defined(__x86_64__)
const LinearKernel& linear_vectors_avx2() noexcept { return N_AVX2::kernel(); }
const LinearKernel& linear_vectors_avx512() noexcept { return N_AVX3::kernel(); }
#endif

}  // namespace fathom
#endif
