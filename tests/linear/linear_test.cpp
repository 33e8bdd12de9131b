// linear: formats, quantisation and order. Checks of arguments are in tests/core/plan_test.cpp.
#include "fathom/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/op_run.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

using test::run_with;

class Linear : public testing::TestWithParam<const char*> {};

TEST_P(Linear, E4m3CodesTimesTheirTilesScale) {
  // Code 0x38 is 1. Two tiles along K: scales 2 and 1/4; row 128 starts a second row of tiles.
  const LinearProblem problem{.in_dim = 130, .out_dim = 129, .x_dtype = DType::f32, .weight_dtype = DType::e4m3, .out_dtype = DType::f32};
  std::vector<std::uint8_t> weight(129 * 130, 0x38), scale = {128, 125, 127, 127};
  std::vector<float> x(130, 1.0f), out(129);
  const LinearArgs args{view(x.data(), DType::f32, {1, 130}), view(weight.data(), DType::e4m3, {129, 130}),
                        view(scale.data(), DType::ue8m0, {2, 2}), view(out.data(), DType::f32, {1, 129})};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_EQ(out[0], 128 * 2 + 2 * 0.25f);
  EXPECT_EQ(out[127], out[0]);
  EXPECT_EQ(out[128], 130);
}

TEST_P(Linear, ActivationsRoundToE4m3PerToken) {
  // 13.3's Q8 block: the product with 1 is the sum of the dequantised values.
  const LinearProblem problem{.in_dim = 6, .out_dim = 6, .x_dtype = DType::bf16, .weight_dtype = DType::f32, .out_dtype = DType::f32,
                              .activation_quant = ActivationQuant::e4m3_128};
  std::vector<bf16> x;
  for (const float value : {0.30078125f, -1.703125f, 3.703125f, 0.010009765625f, 0.0f, -0.06201171875f}) x.push_back(to_bf16(value));
  std::vector<float> weight(36), out(6);
  for (int i = 0; i < 6; ++i) weight[i * 7] = 1;
  const LinearArgs args{view(x.data(), DType::bf16, {1, 6}), view(weight.data(), DType::f32, {6, 6}), {}, view(out.data(), DType::f32, {1, 6})};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const float expected[] = {0.3125f, -1.75f, 3.75f, 0.009765625f, 0, -0.0625f};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i], expected[i]);
}

TEST_P(Linear, GroupsAreBlocksOfADiagonal) {
  const LinearProblem problem{.in_dim = 1, .out_dim = 2, .groups = 3, .x_dtype = DType::f32, .weight_dtype = DType::f32, .out_dtype = DType::f32};
  float x[] = {1, 10, 100}, weight[] = {1, 2, 3, 4, 5, 6}, out[6] = {};
  const LinearArgs args{view(x, DType::f32, {1, 3}), view(weight, DType::f32, {6, 1}), {}, view(out, DType::f32, {1, 6})};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const float expected[] = {1, 2, 30, 40, 500, 600};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i], expected[i]);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Linear, testing::Values("cpu", "reference"));

TEST(LinearCpu, ARowDoesNotDependOnItsNeighbours) {
  constexpr int kTokens = 300, kIn = 77, kOut = 13;  // more than a token tile, odd sizes
  const LinearProblem problem{.num_tokens = kTokens, .in_dim = kIn, .out_dim = kOut, .x_dtype = DType::f32, .weight_dtype = DType::f32, .out_dtype = DType::f32};
  test::Random random(5);
  std::vector<float> x(kTokens * kIn), weight(kOut * kIn), all(kTokens * kOut), one(kOut);
  for (auto* values : {&x, &weight}) {
    for (float& value : *values) value = random.next();
  }
  LinearArgs args{view(x.data(), DType::f32, {kTokens, kIn}), view(weight.data(), DType::f32, {kOut, kIn}), {}, view(all.data(), DType::f32, {kTokens, kOut})};
  ASSERT_EQ(run_with("cpu", problem, args), "");
  for (const int t : {0, 3, 4, 255, 256, 299}) {
    args.x = view(x.data() + t * kIn, DType::f32, {1, kIn});
    args.out = view(one.data(), DType::f32, {1, kOut});
    ASSERT_EQ(run_with("cpu", problem, args), "");
    EXPECT_EQ(one, std::vector<float>(all.begin() + t * kOut, all.begin() + (t + 1) * kOut)) << "token " << t;
  }
}

}  // namespace
}  // namespace fathom
