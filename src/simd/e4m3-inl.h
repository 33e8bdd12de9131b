// E4M3 codes to f32 by Highway's vectors, through half precision: the code's seven bits, moved to a half's exponent and
// mantissa, are the value / 256, subnormal codes included. Included once for each target, inside HWY_NAMESPACE's reach.
#if defined(FATHOM_SIMD_E4M3_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_SIMD_E4M3_INL_H_
#undef FATHOM_SIMD_E4M3_INL_H_
#else
#define FATHOM_SIMD_E4M3_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd {
namespace HWY_NAMESPACE {

/// Values / 256 of as many codes as `d` has f32 lanes, exact. The two NaN codes give 480 / 256 of their sign.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> widen_finite_e4m3(D d, const std::uint8_t* HWY_RESTRICT codes) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<std::int8_t, D> d8;
  const hn::Rebind<std::int16_t, D> d16;
  const hn::Rebind<hwy::float16_t, D> half;
  const auto words = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(codes)));
  // seeeemmm, its sign extended, becomes s0eeeemmm0000000.
  const auto moved = hn::And(hn::ShiftLeft<7>(words), hn::Set(d16, static_cast<std::int16_t>(0xbfff)));
  return hn::PromoteTo(d, hn::BitCast(half, moved));
}

/// Codes as halves, value / 256 each; the two NaN codes give 480 / 256. Loading a half is cheaper where it comes from memory.
HWY_INLINE void halves_of_finite_e4m3(const std::uint8_t* HWY_RESTRICT codes, std::int64_t count, hwy::float16_t* HWY_RESTRICT out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<std::int16_t> d16;
  const hn::Rebind<std::int8_t, decltype(d16)> d8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d16));
  for (std::int64_t i = 0; i < count; i += lanes) {
    const auto words = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(codes + i)));
    hn::Store(hn::And(hn::ShiftLeft<7>(words), hn::Set(d16, static_cast<std::int16_t>(0xbfff))), d16, reinterpret_cast<std::int16_t*>(out + i));
  }
}

/// Values / 256 of twice as many codes.
template <class D>
HWY_INLINE void widen_finite_e4m3(D d, const std::uint8_t* HWY_RESTRICT codes, hwy::HWY_NAMESPACE::Vec<D>& first,
                                  hwy::HWY_NAMESPACE::Vec<D>& second) {
#if HWY_TARGET == HWY_SCALAR
  first = widen_finite_e4m3(d, codes), second = widen_finite_e4m3(d, codes + 1);
#else
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Repartition<std::int16_t, D> d16;
  const hn::Half<decltype(d16)> half16;
  const hn::Rebind<std::int8_t, decltype(d16)> d8;
  const hn::Rebind<hwy::float16_t, D> half;
  const auto words = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const std::int8_t*>(codes)));
  const auto moved = hn::And(hn::ShiftLeft<7>(words), hn::Set(d16, static_cast<std::int16_t>(0xbfff)));
  first = hn::PromoteTo(d, hn::BitCast(half, hn::LowerHalf(half16, moved)));
  second = hn::PromoteTo(d, hn::BitCast(half, hn::UpperHalf(half16, moved)));
#endif
}

/// The same, and NaN for the two NaN codes.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> widen_e4m3(D d, const std::uint8_t* HWY_RESTRICT codes) {
  namespace hn = hwy::HWY_NAMESPACE;
  const auto value = widen_finite_e4m3(d, codes);
  return hn::IfThenElse(hn::Ge(hn::Abs(value), hn::Set(d, 480.0f / 256)), hn::Set(d, __builtin_nanf("")), value);
}

/// Whether one of `count` codes is NaN.
HWY_INLINE bool any_nan_e4m3(const std::uint8_t* HWY_RESTRICT codes, std::int64_t count) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<std::uint8_t> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto sign = hn::Set(d, 0x80);
  auto most = sign;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) most = hn::Max(most, hn::Or(hn::LoadU(d, codes + i), sign));
  bool any = !hn::AllFalse(d, hn::Eq(most, hn::Set(d, 0xff)));
  for (; i < count; ++i) any |= (codes[i] | 0x80) == 0xff;
  return any;
}

}  // namespace HWY_NAMESPACE
}  // namespace fathom::simd
HWY_AFTER_NAMESPACE();

#endif
