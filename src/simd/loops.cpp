#include "simd/loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/loops.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/highway.h>

#include "simd/decode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/// Rows of a register tile of two vectors each: 12 sums of 16 registers, 16 of 32.
constexpr int kTileRows = HWY_MAX_BYTES >= 64 || HWY_ARCH_ARM_A64 ? 8 : 6;

/// sums[i][v] += a[i, p] * b[p][v] over p: one load of b meets all rows.
template <int Rows, int Vectors>
HWY_INLINE void add_products(const float* HWY_RESTRICT a, std::int64_t a_i, std::int64_t a_p,
                             const float* HWY_RESTRICT b, std::int64_t b_p, int k, V (&sums)[Rows][Vectors]) {
  const D d;
  for (int p = 0; p < k; ++p) {
    V row[Vectors];
    for (int v = 0; v < Vectors; ++v) row[v] = hn::LoadU(d, b + p * b_p + v * hn::Lanes(d));
    for (int i = 0; i < Rows; ++i) {
      const V factor = hn::Set(d, a[i * a_i + p * a_p]);
      for (int v = 0; v < Vectors; ++v) sums[i][v] = hn::MulAdd(factor, row[v], sums[i][v]);
    }
  }
}

template <int Rows, int Vectors>
HWY_INLINE void multiply_tile(const Product& x, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                              float* HWY_RESTRICT out) {
  const D d;
  V sums[Rows][Vectors];
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) sums[i][v] = hn::LoadU(d, out + i * x.out_i + v * hn::Lanes(d));
  }
  add_products<Rows, Vectors>(a, x.a_i, x.a_p, b, x.b_p, x.k, sums);
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) hn::StoreU(sums[i][v], d, out + i * x.out_i + v * hn::Lanes(d));
  }
}

/// The rows that are left, fewer than a tile's.
template <int Rows, int Vectors>
HWY_INLINE void multiply_rest(const Product& x, int rows, const float* a, const float* b, float* out) {
  if constexpr (Rows > 0) {
    if (rows == Rows) return multiply_tile<Rows, Vectors>(x, a, b, out);
    multiply_rest<Rows - 1, Vectors>(x, rows, a, b, out);
  }
}

template <int Vectors>
HWY_INLINE void multiply_panel(const Product& x, const float* b, float* out) {
  int i = 0;
  for (; i + kTileRows <= x.m; i += kTileRows)
    multiply_tile<kTileRows, Vectors>(x, x.a + i * x.a_i, b, out + i * x.out_i);
  multiply_rest<kTileRows - 1, Vectors>(x, x.m - i, x.a + i * x.a_i, b, out + i * x.out_i);
}

void multiply(const Product& x) {
  const int lanes = static_cast<int>(hn::Lanes(D()));
  int j = 0;
  for (; j + 2 * lanes <= x.n; j += 2 * lanes) multiply_panel<2>(x, x.b + j / (2 * lanes) * x.b_panel, x.out + j);
  if (j < x.n) multiply_panel<1>(x, x.b + j / (2 * lanes) * x.b_panel, x.out + j);
}

void largest(float* HWY_RESTRICT logits, std::int64_t stride, std::int64_t rows, std::int64_t heads, float scale,
             float* HWY_RESTRICT most) {
  const D d;
  const V factor = hn::Set(d, scale);
  for (std::int64_t h = 0; h < heads; h += hn::Lanes(d)) {
    V best = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (std::int64_t j = 0; j < rows; ++j) {
      const V logit = hn::Mul(hn::LoadU(d, logits + j * stride + h), factor);
      hn::StoreU(logit, d, logits + j * stride + h);
      best = hn::IfThenElse(hn::Gt(logit, best), logit, best);
    }
    hn::StoreU(best, d, most + h);
  }
}

/// e^x for x <= 0, within 1.2e-7; 0 below the smallest normal number, NaN for NaN.
HWY_INLINE V exponential(D d, V x) {
  const hn::RebindToSigned<D> d32;
  const auto n = hn::NearestInt(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const V whole = hn::ConvertTo(d, n);
  // x less a multiple of ln 2, which is given in two parts so that the first product is exact.
  const V r = hn::NegMulAdd(whole, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(whole, hn::Set(d, 0.693359375f), x));
  V p = hn::Set(d, 1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = hn::MulAdd(p, r, hn::Set(d, c));
  }
  const V y = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(d32, 127))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3f)), hn::Mul(y, power));
}

/// To the nearest bf16, ties to even. Not of NaN, of which some would become zeros.
HWY_INLINE V rounded_to_bf16(D d, V x) {
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::BitCast(d32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto up = hn::Add(hn::Add(bits, hn::Set(d32, 0x7fff)), odd);
  return hn::BitCast(d, hn::And(up, hn::Set(d32, 0xffff0000)));
}

void weigh(float* HWY_RESTRICT logits, std::int64_t stride, std::int64_t rows, std::int64_t heads,
           const float* HWY_RESTRICT base, bool round, float* HWY_RESTRICT total) {
  const D d;
  for (std::int64_t h = 0; h < heads; h += hn::Lanes(d)) {
    const V zero = hn::LoadU(d, base + h);
    V sum = hn::Zero(d);
    for (std::int64_t j = 0; j < rows; ++j) {
      float* at = logits + j * stride + h;
      const V weight = exponential(d, hn::Sub(hn::LoadU(d, at), zero));
      sum = hn::Add(sum, weight);
      hn::StoreU(round ? hn::IfThenElse(hn::Eq(weight, weight), rounded_to_bf16(d, weight), weight) : weight, d, at);
    }
    hn::StoreU(sum, d, total + h);
  }
}

void store(const float* HWY_RESTRICT values, std::int64_t count, float factor, DType dtype, void* HWY_RESTRICT out) {
  const D d;
  const hn::RebindToSigned<D> d32;
  const hn::Rebind<std::int16_t, D> half;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const V factors = hn::Set(d, factor);
  std::int64_t c = 0;
  for (; c + lanes <= count; c += lanes) {
    const V value = hn::Mul(hn::LoadU(d, values + c), factors);
    if (dtype == DType::f32) {
      hn::StoreU(value, d, static_cast<float*>(out) + c);
    } else {
      // A NaN keeps its upper bits and is made quiet, as to_bf16 does.
      const V quiet = hn::Or(value, hn::BitCast(d, hn::Set(d32, 0x400000)));
      const V stored = hn::IfThenElse(hn::Eq(value, value), rounded_to_bf16(d, value), quiet);
      hn::StoreU(hn::DemoteTo(half, hn::ShiftRight<16>(hn::BitCast(d32, stored))), half,
                 static_cast<std::int16_t*>(out) + c);
    }
  }
  for (; c < count; ++c) {
    const float value = values[c] * factor;
    if (dtype == DType::f32) {
      static_cast<float*>(out)[c] = value;
    } else {
      static_cast<bf16*>(out)[c] = to_bf16(value);
    }
  }
}

/// Rows keys against all heads. Lanes past the last head hold zeros times keys, which may be NaN: they are left out.
template <int Rows>
HWY_INLINE void score_tile(const float* HWY_RESTRICT keys, const float* HWY_RESTRICT q, int dim, int heads,
                           const float* HWY_RESTRICT weights, float* HWY_RESTRICT scores) {
  const D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  V score[Rows];
  for (int i = 0; i < Rows; ++i) score[i] = hn::Zero(d);
  for (int h = 0; h < heads; h += 2 * lanes, q += std::int64_t{2} * lanes * dim) {
    V dots[Rows][2];
    for (int i = 0; i < Rows; ++i) dots[i][0] = dots[i][1] = hn::Zero(d);
    add_products<Rows, 2>(keys, dim, 1, q, 2 * lanes, dim, dots);
    for (int v = 0; v < 2; ++v) {
      const int left = heads - h - v * lanes;
      if (left <= 0) break;
      const auto there = hn::FirstN(d, static_cast<std::size_t>(left));
      const V weight = hn::LoadU(d, weights + h + v * lanes);
      for (int i = 0; i < Rows; ++i) {
        const V positive = hn::IfThenZeroElse(hn::Lt(dots[i][v], hn::Zero(d)), dots[i][v]);
        score[i] = hn::Add(score[i], hn::IfThenElseZero(there, hn::Mul(positive, weight)));
      }
    }
  }
  for (int i = 0; i < Rows; ++i) scores[i] = hn::GetLane(hn::SumOfLanes(d, score[i]));
}

void score(const float* keys, std::int64_t num_keys, const float* q, int dim, int heads, const float* weights,
           float* scores) {
  std::int64_t j = 0;
  for (; j + kTileRows <= num_keys; j += kTileRows)
    score_tile<kTileRows>(keys + j * dim, q, dim, heads, weights, scores + j);
  for (; j < num_keys; ++j) score_tile<1>(keys + j * dim, q, dim, heads, weights, scores + j);
}

std::int64_t above(const float* HWY_RESTRICT scores, std::int64_t count, float cut, std::int32_t* HWY_RESTRICT which) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const V cuts = hn::Set(d, cut);
  std::int64_t found = 0, j = 0;
  for (; j + lanes <= count; j += lanes) {
    const auto fits = hn::Not(hn::Le(hn::LoadU(d, scores + j), cuts));
    if (HWY_LIKELY(hn::AllFalse(d, fits))) continue;
    alignas(8) std::uint8_t bits[8] = {};
    hn::StoreMaskBits(d, fits, bits);
    std::uint64_t mask;
    std::memcpy(&mask, bits, sizeof(mask));
    for (; mask != 0; mask &= mask - 1) which[found++] = static_cast<std::int32_t>(j + __builtin_ctzll(mask));
  }
  for (; j < count; ++j) {
    if (!(scores[j] <= cut)) which[found++] = static_cast<std::int32_t>(j);
  }
  return found;
}

const Loops& loops() {
  static const Loops kLoops = {hwy::TargetName(HWY_TARGET),
                               static_cast<int>(hn::Lanes(D())),
                               decode,
                               multiply,
                               largest,
                               weigh,
                               store,
                               score,
                               above};
  return kLoops;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fathom::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(loops);

const Loops& best_loops() noexcept { return HWY_DYNAMIC_DISPATCH(loops)(); }
#if HWY_TARGETS & HWY_AVX2
const Loops& avx2_loops() noexcept { return N_AVX2::loops(); }
#else
const Loops& avx2_loops() noexcept { return best_loops(); }
#endif
#if HWY_TARGETS & HWY_AVX3
const Loops& avx512_loops() noexcept { return N_AVX3::loops(); }
#else
const Loops& avx512_loops() noexcept { return best_loops(); }
#endif

}  // namespace fathom::simd
#endif
