// output: the inverse rotation at the query's position, groups of heads, padding.
#include "fathom/output.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;

/// Two heads of two rotated elements in two groups; wo_a keeps each head's elements apart, wo_b is the identity.
class Output : public testing::TestWithParam<const char*> {
 protected:
  Output() {
    problem = {.num_tokens = 2, .hidden_size = 4, .num_heads = 2, .head_dim = 2, .rope_dim = 2, .output_groups = 2, .output_rank = 2,
               .numerics = Numerics::exact, .wo_a_dtype = DType::f32, .wo_b_dtype = DType::f32, .out_dtype = DType::f32};
    for (int i = 0; i < 4; ++i) wo_b[i * 5] = 1;
    args = {view(heads, DType::f32, {2, 2, 2}), view(rope, DType::f32, {2, 2}), view(positions, DType::i32, {2}), view(wo_a, DType::f32, {4, 2}), {},
            view(wo_b, DType::f32, {4, 4}), {}, view(out, DType::f32, {2, 4})};
  }
  OutputProblem problem;
  OutputArgs args;
  float heads[8] = {1, 2, 3, 4, 1, 2, 3, 4}, rope[4] = {1, 0, 0, 1};
  std::int32_t positions[2] = {0, 1};
  float wo_a[8] = {1, 0, 0, 1, 10, 0, 0, 10}, wo_b[16] = {}, out[8] = {9, 9, 9, 9, 9, 9, 9, 9};
};

TEST_P(Output, TurnsBackAndProjectsByGroup) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  // Position 1 turned by a quarter: (e, o) goes back to (o, -e).
  const float expected[] = {1, 2, 30, 40, 2, -1, 40, -30};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(out[i], expected[i], 1e-5);
}

TEST_P(Output, PaddingRowsAreZeroEvenBesideBadWeights) {
  positions[0] = -1;
  wo_b[0] = INFINITY;
  wo_a[1] = NAN;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(out[i], 0);
}

TEST_P(Output, SlipsAreNamed) {
  problem.output_groups = 3;
  EXPECT_EQ(test::plan_error(problem), "output: output_groups is 3, expected a divisor of num_heads=2");
  problem.output_groups = 1;
  args.wo_a = view(wo_a, DType::f32, {2, 2});
  args.wo_b = view(wo_b, DType::f32, {4, 2});
  EXPECT_EQ(run_with(GetParam(), problem, args), "output: wo_a has 2 columns, expected group_dim=4 (num_heads / output_groups * head_dim)");
  for (const float value : out) EXPECT_EQ(value, 9);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Output, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
