// Weights as bf16, for the kernels that multiply bf16.
#include "linear/linear_cpu.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include "simd/e4m3_bf16.h"

namespace fathom {
namespace {

constexpr int kMostBlock = 512, kChunks = kMostBlock / kQuantBlock;

/// A scale outside the range where all codes are normal numbers of bf16: rounded one by one.
void widen_far_codes(const std::uint8_t* codes, int count, std::uint8_t scale, std::uint16_t* out) {
  for (int k = 0; k < count; ++k) out[k] = to_bf16(decode_e4m3(codes[k]) * decode_ue8m0(scale)).bits;
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi"))) void widen_codes(const simd::E4m3Table& table, const std::uint8_t* codes, int count,
                                                                                 std::uint16_t* out) {
  __m512i first, second;
  int k = 0;
  for (; k + 64 <= count; k += 64) {
    simd::widen_e4m3(table, _mm512_loadu_si512(codes + k), first, second);
    _mm512_storeu_si512(out + k, first);
    _mm512_storeu_si512(out + k + 32, second);
  }
  if (k == count) return;
  const __mmask64 left = (1ull << (count - k)) - 1;
  simd::widen_e4m3(table, _mm512_maskz_loadu_epi8(left, codes + k), first, second);
  _mm512_mask_storeu_epi16(out + k, static_cast<__mmask32>(left), first);
  _mm512_mask_storeu_epi16(out + k + 32, static_cast<__mmask32>(left >> 32), second);
}

}  // namespace

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi"))) void widen_bf16(const WeightRows& weights, const WeightBlock& block, int pad,
                                                                                int row_multiple, std::byte* buffer) {
  auto* out = reinterpret_cast<std::uint16_t*>(buffer);
  const std::int64_t padded = (block.count + pad - 1) / pad * pad, first_byte = bytes_of(weights.dtype, block.first);
  if (weights.dtype == DType::e4m3) {
    simd::E4m3Table tables[kChunks];
    int scales[kChunks];
    std::fill_n(scales, kChunks, -1);
    for (int i = 0; i < block.rows; ++i) {
      const std::int64_t n = block.row + i;
      const std::byte* from = weights.row(n) + first_byte;
      for (int k = 0, c = 0; k < block.count; k += kQuantBlock, ++c) {
        const int count = std::min(kQuantBlock, block.count - k);
        _mm_prefetch(reinterpret_cast<const char*>(from + k + block.ahead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(from + k + block.ahead + 64), _MM_HINT_T0);
        const std::uint8_t scale = weights.scale(n, block.first + k);
        const auto* codes = reinterpret_cast<const std::uint8_t*>(from + k);
        std::uint16_t* to = out + i * padded + k;
        const int exponent = scale - 127;
        if (exponent < simd::kLeastE4m3Exponent || exponent > simd::kMostE4m3Exponent) {
          widen_far_codes(codes, count, scale, to);
          continue;
        }
        if (scale != scales[c]) tables[c] = simd::e4m3_table(exponent), scales[c] = scale;  // 128 rows share one
        widen_codes(tables[c], codes, count, to);
      }
    }
  } else {
    const std::size_t bytes = static_cast<std::size_t>(block.count) * 2;
    for (int i = 0; i < block.rows; ++i) {
      const std::byte* from = weights.row(block.row + i) + first_byte;
      for (std::size_t at = 0; at < bytes; at += 64) _mm_prefetch(reinterpret_cast<const char*>(from + block.ahead + at), _MM_HINT_T0);
      std::memcpy(out + i * padded, from, bytes);
    }
  }
  for (int i = 0; i < block.rows; ++i) std::fill(out + i * padded + block.count, out + (i + 1) * padded, std::uint16_t{0});
  const int missing = (row_multiple - block.rows % row_multiple) % row_multiple;
  std::fill_n(out + block.rows * padded, missing * padded, std::uint16_t{0});
}

}  // namespace fathom
#endif
