// merge_partials against the worked example (13.2): window and entries apart, the sink once.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fathom/attend.h"
#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class MergePartials : public testing::TestWithParam<const char*> {
 protected:
  MergePartials() {
    problem = {.num_partials = 2, .num_heads = 1, .value_dim = 4, .out_dtype = DType::f32};
    args = {view(parts, DType::f32, {2, 1, 1, 4}), view(lses, DType::f32, {2, 1, 1}), view(&sink, DType::f32, {1}),
            view(out, DType::f32, {1, 1, 4}), view(&lse, DType::f32, {1, 1})};
  }
  void expect_out(float a, float b, float c, float d) const {
    const float expected[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(out[i], expected[i], 2e-6) << "element " << i;
  }
  MergePartialsProblem problem;
  MergePartialsArgs args;
  float parts[8] = {0.622543f, 0.754915f, 1.009830f, -0.264745f, 0.778000f, 0.796333f, 0.703667f, 1.629334f};
  float lses[2] = {1.656150f, 1.773123f}, sink = 0.75f, out[4] = {}, lse = 0;
};

TEST_P(MergePartials, EqualsTheJointSoftmax) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.592162f, 0.652673f, 0.712301f, 0.619726f);
  EXPECT_NEAR(lse, 2.409493f, 2e-6);
}

TEST_P(MergePartials, WithoutASink) {
  args.attn_sink = {};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.704812f, 0.776834f, 0.847805f, 0.737620f);
}

TEST_P(MergePartials, APartThatSawNothingCountsNothingWhateverItHolds) {
  for (const float nothing : {-kInfinity, kInfinity}) {
    lses[1] = nothing;
    parts[4] = parts[5] = NAN;
    args.attn_sink = {};
    ASSERT_EQ(run_with(GetParam(), problem, args), "");
    expect_out(0.622543f, 0.754915f, 1.009830f, -0.264745f);
    EXPECT_NEAR(lse, 1.656150f, 2e-6);
  }
  lses[0] = -kInfinity;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0, 0, 0, 0);
  EXPECT_EQ(lse, -kInfinity);
}

TEST_P(MergePartials, ANanPartIsNotAnEmptyOne) {
  for (const int poisoned : {1, 2}) {
    for (int p = 0; p < poisoned; ++p) lses[p] = NAN;
    ASSERT_EQ(run_with(GetParam(), problem, args), "");
    EXPECT_TRUE(std::isnan(lse));
    EXPECT_TRUE(std::isnan(out[0]));
  }
}

TEST_P(MergePartials, HugeSinksAndLsesStayFinite) {
  lses[0] = 3e4f;
  lses[1] = -3e4f;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.622543f, 0.754915f, 1.009830f, -0.264745f);
  sink = kInfinity;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0, 0, 0, 0);
}

INSTANTIATE_TEST_SUITE_P(Cpu, MergePartials, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
