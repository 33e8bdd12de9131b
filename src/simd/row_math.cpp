#include "simd/row_math.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/row_math.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }

/// body(load, store) over whole vectors, then over what is left of `count`, one element in the first lane.
template <class Body>
HWY_INLINE void over(std::int64_t count, Body&& body) {
  const D d;
  std::int64_t i = 0;
  for (; i + lanes() <= count; i += lanes()) {
    body([&](const float* from) { return hn::LoadU(d, from + i); }, [&](V value, float* to) { hn::StoreU(value, d, to + i); });
  }
  for (; i < count; ++i) {
    body([&](const float* from) { return hn::Set(d, from[i]); }, [&](V value, float* to) { to[i] = hn::GetLane(value); });
  }
}

float rounded_squares(const float* values, std::int64_t count) {
  const D d;
  const hn::RebindToUnsigned<D> word;
  auto sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes() <= count; i += lanes()) {
    const auto value = hn::LoadU(d, values + i), square = hn::Mul(value, value);
    const auto bits = hn::BitCast(word, square);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(word, 1u));
    const auto rounded = hn::And(hn::Add(bits, hn::Add(hn::Set(word, 0x7fffu), odd)), hn::Set(word, 0xffff0000u));
    // A NaN's bits must not be rounded over into a number's.
    sum = hn::Add(sum, hn::IfThenElse(hn::Eq(square, square), hn::BitCast(d, rounded), square));
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) total += round_bf16(values[i] * values[i]);
  return total;
}

void weigh(float* values, const float* weight, std::int64_t count, float factor) {
  const auto factors = hn::Set(D(), factor);
  over(count, [&](auto load, auto store) { store(hn::Mul(load(weight), hn::Mul(load(values), factors)), values); });
}
void weigh_narrow(float* values, const bf16* weight, std::int64_t count, float factor) {
  const D d;
  const hn::RebindToUnsigned<D> word;
  const hn::Rebind<std::uint16_t, D> half;
  const auto* bits = reinterpret_cast<const std::uint16_t*>(weight);
  const auto factors = hn::Set(d, factor);
  std::int64_t i = 0;
  for (; i + lanes() <= count; i += lanes()) {
    const auto wide = hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(word, hn::LoadU(half, bits + i))));
    hn::StoreU(hn::Mul(wide, hn::Mul(hn::LoadU(d, values + i), factors)), d, values + i);
  }
  for (; i < count; ++i) values[i] = to_f32(weight[i]) * (values[i] * factor);
}

void rotate_pairs(float* values, int dim, const float* rope, float direction) {
  const D d;
  const int pairs = dim / 2, step = static_cast<int>(lanes());
  const auto sign = hn::Set(d, direction);
  int i = 0;
  for (; i + step <= pairs; i += step) {
    V even, odd;
    hn::LoadInterleaved2(d, values + 2 * i, even, odd);
    const auto c = hn::LoadU(d, rope + i), s = hn::Mul(sign, hn::LoadU(d, rope + pairs + i));
    // Not fused: the plain loops of a machine without fused products give the same.
    const auto first = hn::Sub(hn::Mul(even, c), hn::Mul(odd, s)), second = hn::Add(hn::Mul(even, s), hn::Mul(odd, c));
    hn::StoreInterleaved2(first, second, d, values + 2 * i);
  }
  for (; i < pairs; ++i) {
    const float c = rope[i], s = direction * rope[pairs + i], even = values[2 * i], odd = values[2 * i + 1];
    values[2 * i] = even * c - odd * s;
    values[2 * i + 1] = even * s + odd * c;
  }
}

void butterflies(float* values, std::int64_t count) {
  const D d;
  std::int64_t span = 1;
  if (count >= 4 * lanes() && lanes() > 1) {
    for (std::int64_t i = 0; i < count; i += 4 * lanes()) {  // spans 1 and 2 of four vectors' worth
      V a, b, c, e;
      hn::LoadInterleaved4(d, values + i, a, b, c, e);
      const auto ab = hn::Add(a, b), a_b = hn::Sub(a, b), ce = hn::Add(c, e), c_e = hn::Sub(c, e);
      hn::StoreInterleaved4(hn::Add(ab, ce), hn::Add(a_b, c_e), hn::Sub(ab, ce), hn::Sub(a_b, c_e), d, values + i);
    }
    span = 4;
#if HWY_TARGET != HWY_SCALAR
    // Spans inside one vector: each half beside the other, sums below, differences above.
    for (std::int64_t i = 0; i < count && lanes() > 4; i += lanes()) {
      auto v = hn::LoadU(d, values + i);
      const auto swapped = hn::SwapAdjacentBlocks(v);
      v = hn::OddEvenBlocks(hn::Sub(swapped, v), hn::Add(v, swapped));
      if (lanes() > 8) {
        const auto halves = hn::ConcatLowerUpper(d, v, v);
        v = hn::ConcatUpperLower(d, hn::Sub(halves, v), hn::Add(v, halves));
      }
      hn::StoreU(v, d, values + i);
    }
    if (lanes() > 4) span = lanes();
#endif
  }
  for (; span < count; span *= 2) {
    for (std::int64_t base = 0; base < count; base += 2 * span) {
      float *low = values + base, *high = low + span;
      over(span, [&](auto load, auto store) {
        const auto a = load(low), b = load(high);
        store(hn::Add(a, b), low);
        store(hn::Sub(a, b), high);
      });
    }
  }
}

void largest(const float* score, std::int64_t count, float* most) {
  over(count, [&](auto load, auto store) {
    const auto a = load(score), b = load(most);
    store(hn::IfThenElse(hn::Gt(a, b), a, b), most);  // a NaN is never larger
  });
}

void add(const float* score, const float* most, const float* values, std::int64_t count, float* sum, float* pooled) {
  over(count, [&](auto load, auto store) {
    const D d;
    const auto below = hn::Sub(load(score), load(most));
    const auto weight = hn::IfThenElse(hn::Eq(below, below), hn::Exp(d, below), below);
    store(hn::Add(load(sum), weight), sum);
    store(hn::MulAdd(weight, load(values), load(pooled)), pooled);
  });
}

void divide(float* values, const float* divisor, std::int64_t count) {
  over(count, [&](auto load, auto store) { store(hn::Div(load(values), load(divisor)), values); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fathom::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(rounded_squares);
HWY_EXPORT(weigh);
HWY_EXPORT(weigh_narrow);
HWY_EXPORT(rotate_pairs);
HWY_EXPORT(butterflies);
HWY_EXPORT(largest);
HWY_EXPORT(add);
HWY_EXPORT(divide);

float sum_of_rounded_squares(const float* values, std::int64_t count) { return HWY_DYNAMIC_DISPATCH(rounded_squares)(values, count); }
void weigh_row(float* values, const float* weight, std::int64_t count, float factor) { HWY_DYNAMIC_DISPATCH(weigh)(values, weight, count, factor); }
void weigh_row(float* values, const bf16* weight, std::int64_t count, float factor) {
  HWY_DYNAMIC_DISPATCH(weigh_narrow)(values, weight, count, factor);
}
void rotate(float* values, int dim, const float* rope, float direction) { HWY_DYNAMIC_DISPATCH(rotate_pairs)(values, dim, rope, direction); }
void hadamard(float* values, std::int64_t count) { HWY_DYNAMIC_DISPATCH(butterflies)(values, count); }
void keep_largest(const float* score, std::int64_t count, float* most) { HWY_DYNAMIC_DISPATCH(largest)(score, count, most); }
void add_weighted(const float* score, const float* most, const float* values, std::int64_t count, float* sum, float* pooled) {
  HWY_DYNAMIC_DISPATCH(add)(score, most, values, count, sum, pooled);
}
void divide_row(float* values, const float* divisor, std::int64_t count) { HWY_DYNAMIC_DISPATCH(divide)(values, divisor, count); }

}  // namespace fathom::simd
#endif
