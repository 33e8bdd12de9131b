#include "simd/numbers.h"

#include <algorithm>
#include <bit>

#include "cache/number_codecs.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/numbers.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using Word = hn::RebindToUnsigned<D>;
using Half = hn::Rebind<std::uint16_t, D>;

constexpr std::uint32_t kInfinity = 0x7f800000u;

/// Bits of bf16 in the upper half of each word, as to_bf16 rounds them.
HWY_INLINE hn::Vec<Word> rounded_to_bf16(hn::Vec<Word> bits) {
  const Word d;
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  const auto rounded = hn::Add(bits, hn::Add(hn::Set(d, 0x7fffu), odd));
  const auto is_nan = hn::Gt(hn::And(bits, hn::Set(d, 0x7fffffffu)), hn::Set(d, kInfinity));
  return hn::And(hn::IfThenElse(is_nan, hn::Or(bits, hn::Set(d, 0x00400000u)), rounded), hn::Set(d, 0xffff0000u));
}

void widen_row(const bf16* from, std::int64_t count, float* out) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto* words = reinterpret_cast<const std::uint16_t*>(from);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(Word(), hn::LoadU(Half(), words + i)))), d, out + i);
  }
  for (; i < count; ++i) out[i] = to_f32(from[i]);
}

void narrow_row(const float* from, std::int64_t count, bf16* out) {
  const D d;
  const hn::RebindToSigned<D> signed_words;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto* words = reinterpret_cast<std::uint16_t*>(out);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto high = hn::ShiftRight<16>(rounded_to_bf16(hn::BitCast(Word(), hn::LoadU(d, from + i))));
    hn::StoreU(hn::DemoteTo(Half(), hn::BitCast(signed_words, high)), Half(), words + i);
  }
  for (; i < count; ++i) out[i] = to_bf16(from[i]);
}

void round_row(float* values, std::int64_t count) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::BitCast(d, rounded_to_bf16(hn::BitCast(Word(), hn::LoadU(d, values + i)))), d, values + i);
  }
  for (; i < count; ++i) values[i] = fathom::round_bf16(values[i]);
}

/// One block of a scale, values already in bf16. Its length is a multiple of the lanes.
HWY_INLINE void round_q8_block(float* values, std::int64_t count) {
  const D d;
  const Word word;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto all_but_sign = hn::Set(word, 0x7fffffffu);
  auto most = hn::Zero(word);
  for (std::int64_t i = 0; i < count; i += lanes) {
    const auto magnitude = hn::And(hn::BitCast(word, hn::LoadU(d, values + i)), all_but_sign);
    most = hn::Max(most, hn::IfThenZeroElse(hn::Gt(magnitude, hn::Set(word, kInfinity)), magnitude));
  }
  const std::uint32_t largest = std::min(hn::GetLane(hn::MaxOfLanes(word, most)), 0x7f7f0000u);
  const int exponent = q8_exponent(std::bit_cast<float>(largest));
  const auto scale = hn::Set(d, exp2_of(exponent)), inverse = hn::Set(d, exp2_of(-exponent));
  const auto limit = hn::Set(d, kE4m3Largest), least_normal = hn::Set(d, 0x1p-6f), last_place = hn::Set(d, 0x1p14f);
  for (std::int64_t i = 0; i < count; i += lanes) {
    const auto value = hn::Mul(hn::LoadU(d, values + i), inverse);
    const auto magnitude = hn::Abs(value);
    const auto clamped = hn::Min(magnitude, limit);
    const auto bits = hn::BitCast(word, clamped);
    const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(word, 1u));
    const auto normal = hn::And(hn::Add(bits, hn::Add(hn::Set(word, 0x7ffffu), odd)), hn::Set(word, 0xfff00000u));
    // Below 2^-6 codes step by 2^-9, the last place of an f32 near 2^14: the addition rounds.
    const auto subnormal = hn::Sub(hn::Add(clamped, last_place), last_place);
    const auto rounded = hn::IfThenElse(hn::Lt(clamped, least_normal), subnormal, hn::BitCast(d, normal));
    const auto number = hn::CopySign(rounded, value);
    hn::StoreU(hn::Mul(hn::IfThenElse(hn::Eq(value, value), number, value), scale), d, values + i);
  }
}

void round_q8_row(float* values, std::int64_t count) {
  constexpr std::int64_t kBlock = 128;
  static_assert(kBlock % hn::MaxLanes(D()) == 0);
  round_row(values, count);
  std::int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) round_q8_block(values + i, kBlock);
  if (i == count) return;
  float last[kBlock] = {};
  std::copy(values + i, values + count, last);
  round_q8_block(last, kBlock);
  std::copy_n(last, count - i, values + i);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fathom::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(widen_row);
HWY_EXPORT(narrow_row);
HWY_EXPORT(round_row);
HWY_EXPORT(round_q8_row);

void widen_bf16(const bf16* from, std::int64_t count, float* out) { HWY_DYNAMIC_DISPATCH(widen_row)(from, count, out); }
void narrow_bf16(const float* from, std::int64_t count, bf16* out) { HWY_DYNAMIC_DISPATCH(narrow_row)(from, count, out); }
void round_bf16(float* values, std::int64_t count) { HWY_DYNAMIC_DISPATCH(round_row)(values, count); }
void round_q8(float* values, std::int64_t count) { HWY_DYNAMIC_DISPATCH(round_q8_row)(values, count); }

}  // namespace fathom::simd
#endif
