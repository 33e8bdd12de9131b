// What happens to a row between products, beside plain loops, on every instruction set, at sizes around every vector's.
#include "simd/row_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "simd/words.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

class RowMath : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_TRUE(simd::force_target(GetParam())); }
  void TearDown() override { simd::force_target(nullptr); }
};

std::vector<float> random_values(std::int64_t count, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = random.next() * 3;
  return values;
}

TEST_P(RowMath, SumOfRoundedSquares) {
  for (const int count : {0, 1, 3, 8, 17, 512}) {
    const std::vector<float> values = random_values(count, 1);
    double sum = 0;
    for (const float value : values) sum += round_bf16(value * value);
    EXPECT_NEAR(simd::sum_of_rounded_squares(values.data(), count), sum, 1e-5 * sum);
  }
  std::vector<float> values(40, 1.0f);
  values[5] = kNan;
  EXPECT_TRUE(std::isnan(simd::sum_of_rounded_squares(values.data(), 40)));
}

TEST_P(RowMath, WeighAndDivide) {
  for (const int count : {0, 1, 7, 16, 35}) {
    const std::vector<float> values = random_values(count + 1, 2), weight = random_values(count, 3);
    std::vector<bf16> narrow;
    for (const float w : weight) narrow.push_back(to_bf16(w));
    std::vector<float> a = values, b = values, c = values;
    simd::weigh_row(a.data(), weight.data(), count, 0.37f);
    simd::weigh_row(b.data(), narrow.data(), count, 0.37f);
    simd::divide_row(c.data(), weight.data(), count);
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(a[i], weight[i] * (values[i] * 0.37f));
      EXPECT_EQ(b[i], to_f32(narrow[i]) * (values[i] * 0.37f));
      EXPECT_EQ(c[i], values[i] / weight[i]);
    }
    EXPECT_EQ(a[count], values[count]);
    EXPECT_EQ(c[count], values[count]);
  }
}

TEST_P(RowMath, Rotate) {
  for (const int dim : {0, 2, 8, 22, 64}) {
    const std::vector<float> values = random_values(dim + 1, 4), rope = random_values(dim, 5);
    for (const float direction : {1.0f, -1.0f}) {
      std::vector<float> came = values;
      simd::rotate(came.data(), dim, rope.data(), direction);
      for (int i = 0; i < dim / 2; ++i) {
        const float c = rope[i], s = direction * rope[dim / 2 + i], e = values[2 * i], o = values[2 * i + 1];
        EXPECT_NEAR(came[2 * i], e * c - o * s, 2e-6f);
        EXPECT_NEAR(came[2 * i + 1], e * s + o * c, 2e-6f);
      }
      EXPECT_EQ(came[dim], values[dim]);
    }
  }
}

TEST_P(RowMath, HadamardStageByStage) {
  for (int count = 1; count <= 512; count *= 2) {
    std::vector<float> came = random_values(count + 1, 6), expected = came;
    for (int span = 1; span < count; span *= 2) {
      for (int i = 0; i < count; ++i) {
        if ((i & span) != 0) continue;
        const float a = expected[i], b = expected[i + span];
        expected[i] = a + b, expected[i + span] = a - b;
      }
    }
    simd::hadamard(came.data(), count);
    EXPECT_EQ(came, expected) << count;
  }
}

TEST_P(RowMath, PoolingIsASoftmaxAChannel) {
  constexpr int kRows = 5;
  for (const int count : {1, 7, 16, 45}) {
    std::vector<std::vector<float>> score, values;
    std::vector<float> most(count, -kInfinity), sum(count), pooled(count);
    for (int r = 0; r < kRows; ++r) score.push_back(random_values(count, 10 + r)), values.push_back(random_values(count, 20 + r));
    for (int r = 0; r < kRows; ++r) simd::keep_largest(score[r].data(), count, most.data());
    for (int r = 0; r < kRows; ++r) simd::add_weighted(score[r].data(), most.data(), values[r].data(), count, sum.data(), pooled.data());
    for (int c = 0; c < count; ++c) {
      double largest = -kInfinity, total = 0, weighted = 0;
      for (int r = 0; r < kRows; ++r) largest = std::max<double>(largest, score[r][c]);
      for (int r = 0; r < kRows; ++r) total += std::exp(score[r][c] - largest), weighted += std::exp(score[r][c] - largest) * values[r][c];
      EXPECT_EQ(most[c], static_cast<float>(largest));
      EXPECT_NEAR(sum[c], total, 1e-6 * total);
      EXPECT_NEAR(pooled[c], weighted, 3e-6 * total);
    }
  }
}

TEST_P(RowMath, PoolingOfHostileScores) {
  for (const int count : {1, 16, 21}) {
    const auto weight_of = [&](float score, float largest) {
      std::vector<float> scores(count, score), most(count, largest), ones(count, 1.0f), sum(count), pooled(count);
      simd::add_weighted(scores.data(), most.data(), ones.data(), count, sum.data(), pooled.data());
      for (int c = 1; c < count; ++c) EXPECT_TRUE(sum[c] == sum[0] || std::isnan(sum[0]));
      return sum[count - 1];
    };
    EXPECT_EQ(weight_of(2, 2), 1);
    EXPECT_EQ(weight_of(-kInfinity, 2), 0);
    EXPECT_EQ(weight_of(-200, 2), 0);
    EXPECT_TRUE(std::isnan(weight_of(kNan, 2)));
    EXPECT_TRUE(std::isnan(weight_of(-kInfinity, -kInfinity)));
    EXPECT_TRUE(std::isnan(weight_of(kInfinity, kInfinity)));
    std::vector<float> most(count, 1.0f);
    simd::keep_largest(std::vector<float>(count, kNan).data(), count, most.data());
    EXPECT_EQ(most, std::vector<float>(count, 1.0f)) << "a NaN is no largest score";
  }
}

INSTANTIATE_TEST_SUITE_P(All, RowMath, testing::ValuesIn(simd::target_names()), [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace fathom
