// index against the worked example (13.6) and the rules on visibility, NaN and absent pages.
#include "fathom/index.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// 13.6: two heads of two elements, three keys.
class WorkedExample : public testing::TestWithParam<const char*> {
 protected:
  WorkedExample() {
    problem = {.index_heads = 2, .index_dim = 2, .topk = 2, .compress_ratio = 1, .format = CacheFormat::index_f32, .page_size = 2,
               .entries_page_size = 1, .max_entries = 4};
    args.q = view(q, DType::f32, {1, 2, 2});
    args.weights = view(weights, DType::f32, {1, 2});
    args.index_cache = view(keys, DType::u8, {2, 16});
    args.block_table = view(table, DType::i32, {1, 2});
    args.entries_block_table = view(entry_table, DType::i32, {1, 4});
    args.positions = view(&position, DType::i32, {1});
    args.seq_ids = view(&seq, DType::i32, {1});
    args.topk_entries = view(picks, DType::i32, {1, 2});
    args.topk_indices = view(slots, DType::i32, {1, 2});
    args.scores = view(scores, DType::f32, {1, 4});
  }
  IndexProblem problem;
  IndexArgs args;
  float q[4] = {1, -2, 0.5f, 1}, weights[2] = {0.8f, -0.4f};
  float keys[8] = {2, -1, NAN, NAN, 1, 0.5f, -1, 1};  // page 1 holds keys 0, 1; page 0 key 2
  std::int32_t table[2] = {1, 0}, entry_table[4] = {9, 8, 7, 6}, position = 2, seq = 0, picks[2], slots[2];
  float scores[4];
};

TEST_P(WorkedExample, ScoresAndPicks) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_NEAR(scores[0], -0.4f, 1e-6);
  EXPECT_NEAR(scores[1], -0.2f, 1e-6);
  EXPECT_NEAR(scores[2], 3.2f, 1e-6);
  EXPECT_EQ(scores[3], -kInfinity);
  EXPECT_EQ(picks[0], 1);
  EXPECT_EQ(picks[1], 2);
  EXPECT_EQ(slots[0], 8);
  EXPECT_EQ(slots[1], 7);
}

TEST_P(WorkedExample, OnlyVisibleEntriesCount) {
  problem.compress_ratio = 2;  // position 2 sees floor(3 / 2) = 1 entry
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_EQ(picks[0], 0);
  EXPECT_EQ(picks[1], -1);
  EXPECT_EQ(slots[1], -1);
  EXPECT_EQ(scores[1], -kInfinity);
  position = -1;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_EQ(picks[0], -1);
  EXPECT_EQ(scores[0], -kInfinity);
}

TEST_P(WorkedExample, AnEntryWithoutAPageIsNeverPicked) {
  table[0] = -1;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_EQ(picks[0], 2);
  EXPECT_EQ(picks[1], -1);
  table[0] = std::numeric_limits<std::int32_t>::max();
  table[1] = std::numeric_limits<std::int32_t>::min();
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_EQ(picks[0], -1);
  position = std::numeric_limits<std::int32_t>::max();
  seq = -3;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_EQ(picks[0], -1);
}

TEST_P(WorkedExample, ANanKeyIsTheWorstPick) {
  position = 3;  // sees key 3, which is NaN
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_TRUE(std::isnan(scores[3]));
  EXPECT_EQ(picks[0], 1);
  EXPECT_EQ(picks[1], 2);
}

TEST_P(WorkedExample, SlipsAreNamed) {
  args.topk_entries = args.topk_indices = args.scores = {};
  EXPECT_EQ(run_with(GetParam(), problem, args), "index: topk_entries, topk_indices and scores are all missing, expected at least one");
  args.topk_indices = view(slots, DType::i32, {1, 2});
  args.entries_block_table = {};
  EXPECT_EQ(run_with(GetParam(), problem, args), "index: entries_block_table is missing, topk_indices need it");
  problem.format = CacheFormat::kv_f32;
  EXPECT_EQ(test::plan_error(problem), "index: format is kv_f32, expected index_f32, index_e4m3_f32 or index_e2m1_ue8m0");
}

INSTANTIATE_TEST_SUITE_P(Cpu, WorkedExample, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
