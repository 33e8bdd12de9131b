// project: norms, rotation, the row that is written, padding.
#include "fathom/project.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fathom/config.h"
#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;

/// Two tokens of two elements, one head of four elements (two rotated), all weights chosen so that results are known.
class Project : public testing::TestWithParam<const char*> {
 protected:
  Project() {
    problem = {.num_tokens = 2, .hidden_size = 2, .num_heads = 1, .head_dim = 4, .rope_dim = 2, .q_rank = 2, .numerics = Numerics::exact,
               .wq_a_dtype = DType::f32, .wq_b_dtype = DType::f32, .wkv_dtype = DType::f32, .window_format = CacheFormat::kv_f32, .window_page_size = 1};
    args = {view(x, DType::f32, {2, 2}), view(identity, DType::f32, {2, 2}), {}, view(ones, DType::f32, {2}), view(wide, DType::f32, {4, 2}), {},
            view(wide, DType::f32, {4, 2}), {}, view(ones, DType::f32, {4}), view(rope, DType::f32, {2, 2}), view(positions, DType::i32, {2}),
            view(slots, DType::i64, {2}), view(pages, DType::u8, {3, 16}), view(latent, DType::f32, {2, 2}), view(q, DType::f32, {2, 1, 4})};
  }
  ProjectProblem problem;
  ProjectArgs args;
  float x[4] = {3, 4, 6, 8}, identity[4] = {1, 0, 0, 1}, ones[4] = {1, 1, 1, 1}, wide[8] = {1, 0, 0, 1, 1, 0, 0, 1};
  float rope[4] = {1, 0, 0, 1};  // position 0: no turn; position 1: a quarter turn
  std::int32_t positions[2] = {0, 1};
  std::int64_t slots[2] = {2, 0};
  float pages[12] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7}, latent[4] = {}, q[8] = {};
};

TEST_P(Project, NormsRotatesAndWrites) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const float a = 3 / std::sqrt(12.5f), b = 4 / std::sqrt(12.5f);  // RMS of (3, 4) and of (3, 4, 3, 4)
  const float expected_q[] = {a, b, a, b, a, b, -b, a}, expected_rows[] = {a, b, -b, a, 7, 7, 7, 7, a, b, a, b};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(latent[i], i % 2 == 0 ? a : b, 1e-6);
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(q[i], expected_q[i], 2e-6);
  for (int i = 0; i < 12; ++i) EXPECT_NEAR(pages[i], expected_rows[i], 2e-6);
}

TEST_P(Project, PaddingAndAbsentSlotsWriteNothing) {
  positions[0] = -1;
  positions[1] = 2;  // one past the table
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (const float value : q) EXPECT_EQ(value, 0);
  for (const float value : latent) EXPECT_EQ(value, 0);
  for (const float value : pages) EXPECT_EQ(value, 7);
  positions[0] = 0;
  positions[1] = 1;
  slots[0] = -1;
  slots[1] = 3;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (const float value : pages) EXPECT_EQ(value, 7);
  EXPECT_NE(q[0], 0);
}

TEST_P(Project, SlipsAreNamed) {
  problem.rope_dim = 3;
  EXPECT_EQ(test::plan_error(problem), "project: rope_dim is 3, expected an even number of at most 4");
  problem.rope_dim = 2;
  args.window_cache.shape[1] = 12;
  EXPECT_NE(run_with(GetParam(), problem, args).find("project: window_cache"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Project, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
