// The CPU words against plain loops, at sizes around every block edge; results must not depend on the block.
#include "simd/words.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/tiny_layer.h"

namespace fathom {
namespace {

std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = random.next();
  return values;
}

TEST(DotRows, EverySizeAndStride) {
  for (const int count : {0, 1, 3, 15, 16, 17, 64, 130}) {
    for (const int a_rows : {1, 3, 4, 5, 9}) {
      for (const int b_rows : {1, 4, 6}) {
        const int a_stride = count + 3, b_stride = count + 1, out_stride = b_rows + 2;
        const auto a = random_values(a_rows * a_stride, 1), b = random_values(b_rows * b_stride, 2);
        std::vector<float> out(a_rows * out_stride, -1), one(1);
        simd::dot_rows(a.data(), a_stride, a_rows, b.data(), b_stride, b_rows, count, out.data(), out_stride);
        for (int i = 0; i < a_rows; ++i) {
          for (int j = 0; j < b_rows; ++j) {
            double sum = 0;
            for (int k = 0; k < count; ++k) sum += static_cast<double>(a[i * a_stride + k]) * b[j * b_stride + k];
            EXPECT_NEAR(out[i * out_stride + j], sum, 1e-5);
            simd::dot_rows(a.data() + i * a_stride, a_stride, 1, b.data() + j * b_stride, b_stride, 1, count, one.data(), 1);
            EXPECT_EQ(out[i * out_stride + j], one[0]) << "the block must not change a bit";
          }
          for (int j = b_rows; j < out_stride; ++j) EXPECT_EQ(out[i * out_stride + j], -1);
        }
      }
    }
  }
}

TEST(AccumulateRows, EverySizeAndStride) {
  for (const int dim : {1, 7, 16, 33, 70}) {
    for (const int heads : {1, 4, 6}) {
      for (const int rows : {0, 1, 5}) {
        const auto weights = random_values(heads * (rows + 2), 3), v = random_values(rows * (dim + 1) + 1, 4);
        std::vector<float> sums = random_values(heads * (dim + 2), 5);
        const std::vector<float> before = sums;
        simd::accumulate_rows(weights.data(), rows + 2, heads, v.data(), dim + 1, rows, dim, sums.data(), dim + 2);
        for (int i = 0; i < heads; ++i) {
          for (int c = 0; c < dim + 2; ++c) {
            double sum = before[i * (dim + 2) + c];
            for (int j = 0; j < rows && c < dim; ++j) sum += static_cast<double>(weights[i * (rows + 2) + j]) * v[j * (dim + 1) + c];
            EXPECT_NEAR(sums[i * (dim + 2) + c], sum, 1e-6);
          }
        }
      }
    }
  }
}

TEST(ScaleRowAndSumOfSquares, EverySize) {
  for (const int count : {0, 1, 8, 19, 512}) {
    std::vector<float> values = random_values(count + 1, 6);
    const std::vector<float> before = values;
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
    EXPECT_NEAR(simd::sum_of_squares(values.data(), count), sum, 1e-4);
    simd::scale_row(values.data(), count, 3.0f);
    for (int i = 0; i < count; ++i) EXPECT_EQ(values[i], before[i] * 3.0f);
    EXPECT_EQ(values[count], before[count]);
  }
}

TEST(TargetName, SaysSomething) { EXPECT_FALSE(std::string(simd::target_name()).empty()); }

}  // namespace
}  // namespace fathom
