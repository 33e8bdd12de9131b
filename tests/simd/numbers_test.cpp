// The words for rows of numbers beside the codecs that define them, on every instruction set, bit for bit.
#include "simd/numbers.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "cache/number_codecs.h"
#include "simd/words.h"
#include "support/cases.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

class Numbers : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_TRUE(simd::force_target(GetParam())); }
  void TearDown() override { simd::force_target(nullptr); }
};

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

/// Every bf16, and around the middle between it and its neighbour.
std::vector<float> values_around_every_bf16() {
  std::vector<float> values;
  for (std::uint32_t high = 0; high < 65536; ++high) {
    for (const std::uint32_t low : {0u, 0x7fffu, 0x8000u, 0x8001u}) values.push_back(std::bit_cast<float>(high << 16 | low));
  }
  values.resize(values.size() - 3);  // no multiple of a vector's lanes
  return values;
}

TEST_P(Numbers, Bf16BothWays) {
  const std::vector<float> values = values_around_every_bf16();
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<bf16> narrow(values.size() + 1, bf16{0x1234});
  std::vector<float> wide(values.size() + 1, 7.0f), rounded = values;
  simd::narrow_bf16(values.data(), count, narrow.data());
  simd::widen_bf16(narrow.data(), count, wide.data());
  simd::round_bf16(rounded.data(), count);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(narrow[i].bits, to_bf16(values[i]).bits) << std::hex << bits(values[i]);
    ASSERT_EQ(bits(wide[i]), bits(to_f32(narrow[i])));
    ASSERT_EQ(bits(rounded[i]), bits(round_bf16(values[i])));
  }
  EXPECT_EQ(narrow.back().bits, 0x1234);
  EXPECT_EQ(wide.back(), 7.0f);
  test::count_cases(static_cast<std::int64_t>(values.size()));
}

/// Q8 and back by the codec.
std::vector<float> by_the_codec(std::vector<float> values) {
  for (std::size_t i = 0; i < values.size(); i += 128) {
    const int count = static_cast<int>(std::min<std::size_t>(128, values.size() - i));
    std::uint8_t codes[128];
    const float scale = decode_ue8m0(quantise_q8(values.data() + i, count, codes));
    dequantise_e4m3(codes, count, scale, values.data() + i);
  }
  return values;
}

void expect_the_codec(std::vector<float> values) {
  const std::vector<float> expected = by_the_codec(values);
  simd::round_q8(values.data(), static_cast<std::int64_t>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(values[i])) << i;
    } else {
      ASSERT_EQ(bits(values[i]), bits(expected[i])) << i << ": " << values[i] << " for " << expected[i];
    }
  }
  test::count_cases(static_cast<std::int64_t>(values.size()));
}

TEST_P(Numbers, Q8IsTheCodecs) {
  test::Random random(1);
  for (const std::size_t count : {1, 7, 127, 128, 129, 300, 1024}) {
    for (const float size : {1.0f, 1e-6f, 1e-30f, 3e4f, 1e37f}) {
      std::vector<float> values(count);
      for (float& value : values) value = random.next() * random.next() * random.next() * size;
      expect_the_codec(values);
    }
  }
  // Every code's value and the middle to the next, beside a largest that makes the scale 1.
  std::vector<float> steps;
  for (int code = 0; code < 126; ++code) {
    const float low = kE4m3Values[code], high = kE4m3Values[code + 1];
    if (code % 40 == 0) steps.resize((steps.size() + 127) / 128 * 128), steps.push_back(448.0f);
    for (const float value : {low, (low + high) / 2, -high}) steps.push_back(value);
  }
  expect_the_codec(steps);
}

TEST_P(Numbers, Q8OfHostileValues) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float value : {kInfinity, -kInfinity, kNan, -kNan, 3.4e38f, 1e-40f, -0.0f, 0.0f}) {
    std::vector<float> values(130, 1.5f);
    values[3] = values[129] = value;
    expect_the_codec(values);
    expect_the_codec(std::vector<float>(40, value));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Numbers, testing::ValuesIn(simd::target_names()), [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace fathom
