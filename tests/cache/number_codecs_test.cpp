// The number formats against a slow search in double precision, over every code and every bfloat16.
#include "cache/number_codecs.h"

#include <gtest/gtest.h>

#include "support/cases.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace fathom {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

double e4m3_by_definition(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -6 - 3) : std::ldexp(1.0 + mantissa / 8.0, exponent - 7);
  return code & 128 ? -magnitude : magnitude;
}

double e2m1_by_definition(int code) {
  const int exponent = code >> 1 & 3, mantissa = code & 1;
  const double magnitude = exponent == 0 ? mantissa / 2.0 : std::ldexp(1.0 + mantissa / 2.0, exponent - 1);
  return code & 8 ? -magnitude : magnitude;
}

// Nearest magnitude among codes 0 .. last, ties to the even code; beyond the largest, the largest.
template <class Value>
int nearest_magnitude(double magnitude, int last, Value value) {
  int best = 0;
  for (int code = 1; code <= last; ++code) {
    const double here = std::fabs(value(code) - magnitude), there = std::fabs(value(best) - magnitude);
    if (here < there || (here == there && code % 2 == 0)) best = code;
  }
  return best;
}

int slow_e4m3(float value) {
  const double magnitude = std::fmin(std::fabs(static_cast<double>(value)), 448.0);
  return nearest_magnitude(magnitude, 126, e4m3_by_definition) | (std::signbit(value) ? 128 : 0);
}

int slow_e2m1(float value) {
  const double magnitude = std::fmin(std::fabs(static_cast<double>(value)), 6.0);
  return nearest_magnitude(magnitude, 7, e2m1_by_definition) | (std::signbit(value) ? 8 : 0);
}

template <class Check>
void for_every_bf16(Check&& check) {
  for (int bits = 0; bits < 65536; ++bits) check(to_f32(bf16{static_cast<std::uint16_t>(bits)}));
}

// Both neighbours of every point where two codes meet, and the point itself.
template <class Value, class Check>
void for_every_boundary(int last, Value value, Check&& check) {
  for (int code = 0; code < last; ++code) {
    const auto middle = static_cast<float>((value(code) + value(code + 1)) / 2);
    for (const float near : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, kInf)}) {
      check(near);
      check(-near);
    }
  }
}

TEST(NumberCodecs, E4m3DecodesEveryCode) {
  test::count_cases(256);
  for (int code = 0; code < 256; ++code) {
    const float value = decode_e4m3(static_cast<std::uint8_t>(code));
    if ((code & 127) == 127) {
      EXPECT_TRUE(std::isnan(value) && std::isnan(kE4m3Values[code])) << code;
    } else {
      EXPECT_EQ(value, e4m3_by_definition(code)) << code;
      EXPECT_EQ(std::signbit(value), code >= 128) << code;
      EXPECT_EQ(kE4m3Values[code], value) << code;
      EXPECT_EQ(encode_e4m3(value), code);
    }
  }
}

TEST(NumberCodecs, E4m3EncodesEveryBf16AsTheSlowSearch) {
  test::count_cases(65536);
  for_every_bf16(
      [](float value) { ASSERT_EQ(encode_e4m3(value), std::isnan(value) ? 0x7f : slow_e4m3(value)) << value; });
}

TEST(NumberCodecs, E4m3RoundsTiesToEven) {
  for_every_boundary(126, e4m3_by_definition,
                     [](float value) { ASSERT_EQ(encode_e4m3(value), slow_e4m3(value)) << value; });
}

TEST(NumberCodecs, E2m1DecodesEveryCodeAndIgnoresTheHighNibble) {
  for (int code = 0; code < 16; ++code) {
    const float value = decode_e2m1(static_cast<std::uint8_t>(code));
    EXPECT_EQ(value, e2m1_by_definition(code)) << code;
    EXPECT_EQ(std::signbit(value), code >= 8) << code;
    EXPECT_EQ(encode_e2m1(value), code);
    EXPECT_EQ(decode_e2m1(static_cast<std::uint8_t>(code | 0xf0)), value);
  }
}

TEST(NumberCodecs, E2m1EncodesEveryBf16AsTheSlowSearch) {
  test::count_cases(65536);
  for_every_bf16([](float value) {
    ASSERT_EQ(encode_e2m1(value), std::isnan(value) ? (std::signbit(value) ? 8 : 0) : slow_e2m1(value)) << value;
  });
}

TEST(NumberCodecs, E2m1RoundsTiesToEven) {
  for_every_boundary(7, e2m1_by_definition,
                     [](float value) { ASSERT_EQ(encode_e2m1(value), slow_e2m1(value)) << value; });
  const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};  // the list of spec 0.2
  const float rounded[] = {0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f};
  for (int i = 0; i < 7; ++i) EXPECT_EQ(decode_e2m1(encode_e2m1(ties[i])), rounded[i]) << ties[i];
}

TEST(NumberCodecs, Ue8m0DecodesEveryCode) {
  test::count_cases(256);
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(decode_ue8m0(static_cast<std::uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_TRUE(std::isnan(decode_ue8m0(255)));
}

TEST(NumberCodecs, CeilLog2OfEveryNormalBf16) {
  for_every_bf16([](float value) {
    if (!std::isnormal(value) || value < 0) return;
    int exponent = 0;
    const double mantissa = std::frexp(static_cast<double>(value), &exponent);  // in [0.5, 1)
    ASSERT_EQ(ceil_log2(value), mantissa == 0.5 ? exponent - 1 : exponent) << value;
  });
}

// Multiplying by the rounded reciprocal must give the exponent that exact division gives.
TEST(NumberCodecs, ScaleExponentsOfEveryBf16AreThoseOfExactDivision) {
  test::count_cases(65536);
  const auto exact = [](double largest, double most) {
    int e = -200;
    while (std::ldexp(most, e) < largest) ++e;
    return e;
  };
  for_every_bf16([&](float value) {
    if (!std::isfinite(value) || value < 0) return;
    ASSERT_EQ(q8_exponent(value), exact(std::fmax(value, 1e-4f), 448.0)) << value;
    ASSERT_EQ(q4_exponent(value), exact(std::fmax(value, 6.0 * 0x1p-126), 6.0)) << value;
  });
}

std::vector<float> example_block(int count) {  // spec 13.3
  std::vector<float> values = {0.30078125f, -1.703125f, 3.703125f, 0.010009765625f, 0.0f, -0.06201171875f};
  values.resize(count);
  return values;
}

TEST(NumberCodecs, Q8OfTheWorkedExample) {
  std::vector<std::uint8_t> codes(64);
  EXPECT_EQ(quantise_q8(example_block(64).data(), 64, codes.data()), 121);
  std::vector<std::uint8_t> expected = {0x5a, 0xee, 0x77, 0x32, 0x00, 0xc8};
  expected.resize(64);
  EXPECT_EQ(codes, expected);
  std::vector<float> back(64), expected_back = {0.3125f, -1.75f, 3.75f, 0.009765625f, 0.0f, -0.0625f};
  expected_back.resize(64);
  dequantise_e4m3(codes.data(), 64, decode_ue8m0(121), back.data());
  EXPECT_EQ(back, expected_back);
}

TEST(NumberCodecs, Q4OfTheWorkedExample) {
  std::vector<std::uint8_t> packed(16);
  EXPECT_EQ(quantise_q4(example_block(32).data(), 32, packed.data()), 127);
  std::vector<std::uint8_t> expected = {0xb1, 0x06, 0x80};
  expected.resize(16);
  EXPECT_EQ(packed, expected);
  std::vector<float> back(32), expected_back = {0.5f, -1.5f, 4.0f, 0.0f, 0.0f, -0.0f};
  expected_back.resize(32);
  dequantise_e2m1(packed.data(), 32, 1.0f, back.data());
  EXPECT_EQ(back, expected_back);
  EXPECT_TRUE(std::signbit(back[5]));
}

TEST(NumberCodecs, AllZeroBlocksTakeTheFloor) {
  const std::vector<float> zeros(64);
  std::vector<std::uint8_t> codes(64, 0xaa);
  EXPECT_EQ(quantise_q8(zeros.data(), 64, codes.data()), 105);
  EXPECT_EQ(codes, std::vector<std::uint8_t>(64, 0));
  EXPECT_EQ(quantise_q4(zeros.data(), 32, codes.data()), 1);
}

TEST(NumberCodecs, QuantisersAgreeWithTheSlowSearchOnRandomBlocks) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-30, 60);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(64);
    const float scale = std::ldexp(1.0f, exponent(random));
    for (float& value : values) value = normal(random) * scale;  // f32: rounding to bfloat16 is the quantiser's
    std::vector<std::uint8_t> codes(64), packed(16);
    const int e8 = quantise_q8(values.data(), 64, codes.data()) - 127;
    const int e4 = quantise_q4(values.data(), 32, packed.data()) - 127;
    for (int i = 0; i < 64; ++i) {
      const float rounded = round_bf16(values[i]);
      ASSERT_EQ(codes[i], slow_e4m3(std::ldexp(rounded, -e8)));
      if (i < 32) {
        ASSERT_EQ(packed[i / 2] >> (i % 2 * 4) & 15, slow_e2m1(std::ldexp(rounded, -e4)));
      }
    }
  }
}

TEST(NumberCodecs, NanBecomesNanAndLeavesTheScaleAlone) {
  std::vector<float> values = example_block(64);
  values[10] = kNan;
  values[11] = -kNan;
  std::vector<std::uint8_t> codes(64), packed(16);
  EXPECT_EQ(quantise_q8(values.data(), 64, codes.data()), 121);
  EXPECT_EQ(codes[2], 0x77);
  EXPECT_EQ(codes[10], 0x7f);
  EXPECT_EQ(codes[11], 0x7f);
  EXPECT_EQ(quantise_q4(values.data(), 32, packed.data()), 0xff);  // E2M1 has no NaN: the block says it
  const std::vector<float> all(32, kNan);
  EXPECT_EQ(quantise_q8(all.data(), 32, codes.data()), 105);
  EXPECT_EQ(quantise_q4(all.data(), 32, packed.data()), 0xff);
}

TEST(NumberCodecs, InfinityReadsBackAsInfinity) {
  for (const float largest : {kInf, std::numeric_limits<float>::max()}) {  // the latter rounds to an infinite bfloat16
    std::vector<float> values(64, 1.0f), back(64);
    values[3] = largest;
    values[4] = -largest;
    std::vector<std::uint8_t> codes(64), packed(16);
    const std::uint8_t s8 = quantise_q8(values.data(), 64, codes.data());
    EXPECT_EQ(s8, 247);
    EXPECT_EQ(codes[3], 0x7e);
    EXPECT_EQ(codes[4], 0xfe);
    dequantise_e4m3(codes.data(), 64, decode_ue8m0(s8), back.data());
    EXPECT_EQ(back[3], kInf);
    EXPECT_EQ(back[4], -kInf);
    EXPECT_EQ(back[5], 0.0f);
    const std::uint8_t s4 = quantise_q4(values.data(), 32, packed.data());
    EXPECT_EQ(s4, 253);
    dequantise_e2m1(packed.data(), 32, decode_ue8m0(s4), back.data());
    EXPECT_EQ(back[3], kInf);
    EXPECT_EQ(back[4], -kInf);
    EXPECT_EQ(back[5], 0.0f);
  }
}

static_assert(encode_e4m3(448.0f) == 0x7e && encode_e4m3(-1e9f) == 0xfe && encode_e2m1(-6.0f) == 15);  // constexpr

}  // namespace
}  // namespace fathom
