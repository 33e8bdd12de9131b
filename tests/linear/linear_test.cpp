// linear: formats, quantisation and order. Checks of arguments are in tests/core/plan_test.cpp.
#include "fathom/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/op_run.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

using test::run_with;

/// Each on the machines that have what it needs.
class Linear : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const LinearProblem any{.in_dim = 1, .out_dim = 1};
    const auto list = candidates(*find_op("linear"), &any, test::cpu());
    for (const Candidate& candidate : list.value()) {
      if (std::string(candidate.implementation) == GetParam() && !candidate.runs_here) GTEST_SKIP() << candidate.reason;
    }
  }
  /// Those that multiply bf16 take no f32 that is not quantised.
  bool is_bf16() const { return std::string(GetParam()) == "cpu:amx" || std::string(GetParam()) == "cpu:avx512bf16"; }
};

TEST_P(Linear, E4m3CodesTimesTheirTilesScale) {
  // Code 0x38 is 1. Two tiles along K: scales 2 and 1/4; row 128 starts a second row of tiles.
  if (is_bf16()) GTEST_SKIP() << "x is f32";
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
  const LinearProblem problem{.in_dim = 6, .out_dim = 6, .x_dtype = DType::bf16, .weight_dtype = DType::bf16, .out_dtype = DType::f32,
                              .activation_quant = ActivationQuant::e4m3_128};
  std::vector<bf16> x;
  for (const float value : {0.30078125f, -1.703125f, 3.703125f, 0.010009765625f, 0.0f, -0.06201171875f}) x.push_back(to_bf16(value));
  std::vector<bf16> weight(36);
  std::vector<float> out(6);
  for (int i = 0; i < 6; ++i) weight[i * 7] = to_bf16(1);
  const LinearArgs args{view(x.data(), DType::bf16, {1, 6}), view(weight.data(), DType::bf16, {6, 6}), {}, view(out.data(), DType::f32, {1, 6})};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const float expected[] = {0.3125f, -1.75f, 3.75f, 0.009765625f, 0, -0.0625f};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i], expected[i]);
}

TEST_P(Linear, GroupsAreBlocksOfADiagonal) {
  const LinearProblem problem{.in_dim = 1, .out_dim = 2, .groups = 3, .out_dtype = DType::f32};
  bf16 x[3], weight[6];
  for (int i = 0; i < 3; ++i) x[i] = to_bf16(std::pow(10.0f, static_cast<float>(i)));
  for (int i = 0; i < 6; ++i) weight[i] = to_bf16(static_cast<float>(i + 1));
  float out[6] = {};
  const LinearArgs args{view(x, DType::bf16, {1, 3}), view(weight, DType::bf16, {6, 1}), {}, view(out, DType::f32, {1, 6})};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const float expected[] = {1, 2, 30, 40, 500, 600};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i], expected[i]);
}

/// A product with E4M3 weights of random codes, in every row of tiles another scale.
struct CodesCase {
  LinearProblem problem{.num_tokens = 40, .in_dim = 640, .out_dim = 300, .weight_dtype = DType::e4m3, .out_dtype = DType::f32};
  std::vector<bf16> x;
  std::vector<std::uint8_t> weight, scale;
  std::vector<float> out;

  CodesCase() : x(40 * 640), weight(300 * 640), scale(3 * 5), out(40 * 300) {
    test::Random random(9);
    for (bf16& value : x) value = to_bf16(random.next());
    for (std::uint8_t& code : weight) code = static_cast<std::uint8_t>(random.below(0x7f) | random.below(2) << 7);
    for (std::uint8_t& byte : scale) byte = static_cast<std::uint8_t>(116 + random.below(6));
  }
  LinearArgs args(std::int64_t first, std::int64_t tokens) {
    return {view(x.data() + first * 640, DType::bf16, {tokens, 640}), view(weight.data(), DType::e4m3, {300, 640}),
            view(scale.data(), DType::ue8m0, {3, 5}), view(out.data() + first * 300, DType::f32, {tokens, 300})};
  }
};

TEST_P(Linear, ANanAmongTheCodesIsItsRowsAlone) {
  CodesCase it;
  it.weight[7 * 640 + 500] = 0x7f, it.weight[171 * 640] = 0xff, it.weight[299 * 640 + 639] = 0xff;
  for (const std::int64_t tokens : {1, 2, 40}) {
    ASSERT_EQ(run_with(GetParam(), it.problem, it.args(0, tokens)), "");
    for (std::int64_t i = 0; i < tokens * 300; ++i) {
      EXPECT_EQ(std::isnan(it.out[i]), i % 300 == 7 || i % 300 == 171 || i % 300 == 299) << tokens << " tokens, output " << i;
    }
  }
}

TEST_P(Linear, ANanScaleIsItsTilesRows) {
  CodesCase it;
  it.scale[1 * 5 + 2] = 0xff;
  for (const std::int64_t tokens : {1, 40}) {
    ASSERT_EQ(run_with(GetParam(), it.problem, it.args(0, tokens)), "");
    for (std::int64_t i = 0; i < tokens * 300; ++i) EXPECT_EQ(std::isnan(it.out[i]), i % 300 >= 128 && i % 300 < 256) << i;
  }
}

TEST_P(Linear, ScalesFarFromOne) {
  CodesCase it, beside;
  const auto far = [](std::uint8_t byte, int by) { return static_cast<std::uint8_t>(byte + by); };
  for (const int by : {-90, -60, 60, 100}) {
    for (std::size_t i = 0; i < it.scale.size(); ++i) it.scale[i] = far(beside.scale[i], by);
    for (const std::int64_t tokens : {1, 40}) {
      ASSERT_EQ(run_with(GetParam(), it.problem, it.args(0, tokens)), "");
      ASSERT_EQ(run_with(GetParam(), beside.problem, beside.args(0, tokens)), "");
      for (std::int64_t i = 0; i < tokens * 300; ++i) EXPECT_EQ(it.out[i], std::ldexp(beside.out[i], by)) << by << ", output " << i;
    }
  }
}

// Whatever way a step of one token, of few and of many takes, and wherever a strip of rows begins: the same bits.
TEST_P(Linear, ATokensBitsAreItsOwn) {
  for (const DType weight_dtype : {DType::e4m3, DType::bf16}) {
    CodesCase it;
    std::vector<bf16> words(300 * 640);
    test::Random random(10);
    for (bf16& word : words) word = to_bf16(random.next());
    it.problem.weight_dtype = weight_dtype;
    const auto args = [&](std::int64_t first, std::int64_t tokens) {
      LinearArgs result = it.args(first, tokens);
      if (weight_dtype == DType::bf16) result.weight = view(words.data(), DType::bf16, {300, 640}), result.weight_scale = {};
      return result;
    };
    ASSERT_EQ(run_with(GetParam(), it.problem, args(0, 40)), "");
    const std::vector<float> together = it.out;
    for (const std::int64_t tokens : {1, 2, 3, 7, 16, 17, 33}) {
      for (const int threads : {1, 3}) {
        std::fill(it.out.begin(), it.out.end(), 0.0f);
        for (std::int64_t t = 0; t < 40; t += tokens) {
          ASSERT_EQ(run_with(GetParam(), it.problem, args(t, std::min(tokens, 40 - t)), Device::cpu(threads).value()), "");
        }
        EXPECT_EQ(it.out, together) << tokens << " tokens at a time on " << threads << " threads";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Linear, testing::Values("cpu:amx", "cpu:avx512bf16", "cpu:avx512", "cpu:avx2", "cpu", "reference"), [](const auto& tested) {
  std::string name = tested.param;
  std::replace(name.begin(), name.end(), ':', '_');
  return name;
});

TEST(LinearCpu, RefusesWhatBf16CannotHold) {
  for (const char* name : {"cpu:amx", "cpu:avx512bf16"}) {
    const LinearProblem wide{.in_dim = 4, .out_dim = 4, .x_dtype = DType::f32}, heavy{.in_dim = 4, .out_dim = 4, .weight_dtype = DType::f32};
    for (const LinearProblem& problem : {wide, heavy}) {
      const auto list = candidates(*find_op("linear"), &problem, test::cpu());
      for (const Candidate& candidate : list.value()) {
        EXPECT_TRUE(std::string(candidate.implementation) != name || !candidate.reason.empty()) << name;
      }
    }
  }
}

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
