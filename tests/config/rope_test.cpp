// Rotary tables against the bits the specification prints and against the reference's own tables.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "fathom/checkpoint.h"
#include "fathom/config.h"

namespace fathom {
namespace {

RopeConfig compressed() { return preset_config("v4-flash").value().layer(2).value().rope; }
RopeConfig window() { return preset_config("v4-flash").value().layer(0).value().rope; }

std::vector<std::uint32_t> frequency_bits(const RopeConfig& config) {
  std::vector<float> frequencies(static_cast<std::size_t>(config.rope_dim / 2));
  EXPECT_TRUE(rope_frequencies(config, frequencies.data()).ok());
  std::vector<std::uint32_t> bits;
  for (const float frequency : frequencies) bits.push_back(std::bit_cast<std::uint32_t>(frequency));
  return bits;
}

TEST(RopeFrequencies, AreTheBitsOfTheSpecification) {
  const auto bits = frequency_bits(compressed());
  ASSERT_EQ(bits.size(), 32u);
  EXPECT_EQ(bits[0], 0x3f800000u);
  EXPECT_EQ(bits[1], 0x3f300a3au);
  EXPECT_EQ(bits[15], 0x3b6e4237u);
  EXPECT_EQ(bits[16], 0x3b147ae1u);
  EXPECT_EQ(bits[20], 0x399bb3afu);
  EXPECT_EQ(bits[24], 0x37a3d70cu);
  EXPECT_EQ(bits[25], 0x36b443d0u);
  EXPECT_EQ(bits[31], 0x35187c4du);
  const auto window_bits = frequency_bits(window());
  EXPECT_EQ(window_bits[0], 0x3f800000u);
  EXPECT_EQ(window_bits[1], 0x3f3ff911u);
  EXPECT_EQ(window_bits[16], 0x3c23d70au);
  EXPECT_EQ(window_bits[31], 0x390bd472u);
}

TEST(RopeFrequencies, ARampWithoutLengthIsAStep) {
  RopeConfig config = compressed();
  config.original_length = 6;  // less than a turn of the first pair: the ramp would begin and end there
  RopeConfig plain = config;
  plain.factor = 0;
  float stepped[32], kept[32];
  ASSERT_TRUE(rope_frequencies(config, stepped).ok());
  ASSERT_TRUE(rope_frequencies(plain, kept).ok());
  EXPECT_EQ(stepped[0], 1.0f);
  for (int i = 1; i < 32; ++i) EXPECT_EQ(stepped[i], kept[i] / config.factor) << i;
}

TEST(RopeTable, AgreesWithTheReference) {
  const auto golden = Checkpoint::open(FATHOM_GOLDEN_DIR "/tables.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status().text();
  const FileTensor positions = golden.value().tensor("positions").value();
  for (const auto& [name, config] : {std::pair{"compressed", compressed()}, std::pair{"window", window()}}) {
    const FileTensor cosines = golden.value().tensor(std::string("rope.") + name + ".cos").value();
    const FileTensor sines = golden.value().tensor(std::string("rope.") + name + ".sin").value();
    ASSERT_EQ(cosines.shape, (std::vector<std::int64_t>{22, 32}));
    double worst = 0;
    for (std::int64_t i = 0; i < 22; ++i) {
      std::int32_t position;
      std::memcpy(&position, positions.data + 4 * i, 4);
      float row[64];
      ASSERT_TRUE(fill_rope_table(config, position, view(row, DType::f32, {1, 64})).ok());
      for (int pair = 0; pair < 32; ++pair) {
        float cosine, sine;
        std::memcpy(&cosine, cosines.data + 4 * (32 * i + pair), 4);
        std::memcpy(&sine, sines.data + 4 * (32 * i + pair), 4);
        worst = std::max({worst, std::abs(double{cosine} - row[pair]), std::abs(double{sine} - row[32 + pair])});
      }
    }
    EXPECT_LE(worst, 1e-7) << name;
  }
}

TEST(RopeTable, AngleIsTheProductRoundedToF32) {
  const std::int64_t position = 1048575;
  float row[64];
  ASSERT_TRUE(fill_rope_table(compressed(), position, view(row, DType::f32, {1, 64})).ok());
  float frequencies[32];
  ASSERT_TRUE(rope_frequencies(compressed(), frequencies).ok());
  const float angle = static_cast<float>(position) * frequencies[1];
  EXPECT_EQ(row[1], static_cast<float>(std::cos(double{angle})));
  EXPECT_NE(row[1], static_cast<float>(std::cos(static_cast<double>(position) * frequencies[1])));
}

TEST(RopeTable, RowsDoNotDependOnWhereTheTableBegins) {
  std::vector<float> all(200 * 64), part(50 * 80, -7.0f);
  ASSERT_TRUE(fill_rope_table(window(), 0, view(all.data(), DType::f32, {200, 64})).ok());
  TensorView strided = view(part.data(), DType::f32, {50, 64});
  strided.strides[0] = 80;
  ASSERT_TRUE(fill_rope_table(window(), 100, strided).ok());
  for (std::size_t row = 0; row < 50; ++row) {
    EXPECT_EQ(std::memcmp(&part[80 * row], &all[64 * (100 + row)], 256), 0) << row;
    EXPECT_EQ(part[80 * row + 64], -7.0f);  // what lies between the rows is not touched
  }
  for (int pair = 0; pair < 32; ++pair) {
    EXPECT_EQ(all[static_cast<std::size_t>(pair)], 1.0f);
    EXPECT_EQ(all[static_cast<std::size_t>(32 + pair)], 0.0f);
  }
}

TEST(RopeTable, EmptyTableIsFine) {
  EXPECT_TRUE(fill_rope_table(window(), 5, view(nullptr, DType::f32, {0, 64})).ok());
}

TEST(RopeTable, BadArgumentsAreRefusedAndNothingIsWritten) {
  std::vector<float> table(4 * 64, -7.0f);
  const TensorView good = view(table.data(), DType::f32, {4, 64});
  const auto refused = [&](const RopeConfig& config, std::int64_t first, const TensorView& to, const char* expected) {
    const Status status = fill_rope_table(config, first, to);
    EXPECT_NE(std::string(status.text()).find(expected), std::string::npos)
        << status.text() << "\nexpected: " << expected;
  };
  TensorView bad = good;
  bad.dtype = DType::bf16;
  refused(window(), 0, bad, "dtype bf16");
  refused(window(), 0, view(table.data(), DType::f32, {4, 32}), "32 columns, expected f32 [count, rope_dim=64]");
  refused(window(), 0, view(table.data(), DType::f32, {256}), "rank 1");
  refused(window(), 0, TensorView{}, "rank 0");
  refused(window(), 0, view(nullptr, DType::f32, {4, 64}), "is null");
  bad = good;
  bad.strides[1] = 2;
  refused(window(), 0, bad, "column stride 1");
  bad = good;
  bad.strides[0] = 63;
  refused(window(), 0, bad, "row stride >= 64");
  for (const std::int64_t stride : {std::int64_t{1} << 60, std::int64_t{1} << 62}) {
    bad.strides[0] = stride;
    refused(window(), 0, bad, "strides that are negative or overflow");
  }
  bad = good;
  bad.data = reinterpret_cast<std::byte*>(table.data()) + 1;
  bad.shape[0] = 3;
  refused(window(), 0, bad, "not aligned to its 4-byte elements");
  bad = good;
  bad.device = DeviceKind::cuda;
  refused(window(), 0, bad, "expected cpu");
  refused(window(), -1, good, "4 rows from position -1");
  refused(window(), 16777213, good, "expected positions 0 to 16777216");
  refused(window(), std::numeric_limits<std::int64_t>::max(), good, "expected positions");
  RopeConfig config = window();
  config.theta = std::numeric_limits<float>::quiet_NaN();
  refused(config, 0, good, "rope theta is nan");
  config = compressed();
  config.rope_dim = 8192;
  refused(config, 0, good, "rope_dim is 8192");
  EXPECT_FALSE(rope_frequencies(window(), nullptr).ok());
  for (const float value : table) EXPECT_EQ(value, -7.0f);
}

}  // namespace
}  // namespace fathom
