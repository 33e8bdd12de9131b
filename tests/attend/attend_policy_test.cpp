// attend_policy.h: how the CUDA kernels are cut, without a GPU.
#include "attend/attend_policy.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

constexpr DeviceLimits kH100{90, 132, 227 * 1024, 50 << 20, std::int64_t{80} << 30};
constexpr DeviceLimits kRtx4090{89, 128, 99 * 1024, 72 << 20, std::int64_t{24} << 30};

AttendProblem flash(int tokens, int heads = 64, int entries = 512) {
  AttendProblem problem;
  problem.num_tokens = tokens;
  problem.num_heads = heads;
  problem.entries_rows = RowsBy::list;
  problem.entries_width = entries;
  return problem;
}

TEST(AttendPolicy, FewQueriesAreSplitUntilTheDeviceIsFull) {
  const AttendSm90Policy policy = attend_sm90_policy(flash(256), kH100);
  EXPECT_EQ(policy.splits(1, 64), 16);    // a split is a tile at least: 640 rows are twenty, and clusters are whole
  EXPECT_EQ(policy.splits(10, 64), 8);    // 13 blocks a query: one cluster
  EXPECT_EQ(policy.splits(20, 64), 6);    // a cluster of six
  EXPECT_EQ(policy.splits(32, 64), 4);    // 32 blocks, 132 multiprocessors
  EXPECT_EQ(policy.splits(128, 64), 1);
  EXPECT_EQ(policy.splits(64, 128), 1);   // two blocks of heads
  EXPECT_EQ(policy.splits(0, 64), 16);
}

TEST(AttendPolicy, ScratchHoldsWhatAnyNumberOfTokensSplitsInto) {
  for (const DeviceLimits& limits : {kH100, kRtx4090}) {
    for (const int capacity : {1, 2, 7, 64, 300}) {
      for (const int heads : {1, 16, 64, 128}) {
        const AttendSm80Policy sm80 = attend_sm80_policy(flash(capacity, heads), limits);
        const AttendSm90Policy sm90 = attend_sm90_policy(flash(capacity, heads), limits);
        const auto fits = [&](const AttendSplits& policy) {
          for (int tokens = 0; tokens <= capacity; ++tokens) {
            const std::int64_t units = tokens * policy.head_blocks(heads), splits = policy.splits(tokens, heads);
            if (splits == 1) continue;
            EXPECT_LE(units * splits, policy.most_parts(capacity, heads)) << tokens << " of " << capacity << ", heads " << heads;
            EXPECT_LE(units, policy.most_split_units(capacity, heads)) << tokens << " of " << capacity << ", heads " << heads;
            EXPECT_LE(splits, kMostAttendSplits);
          }
        };
        fits(sm80);
        for (int tokens = 0; tokens <= capacity; ++tokens) {
          const std::int64_t units = tokens * sm90.head_blocks(heads), splits = sm90.splits(tokens, heads);
          if (splits <= sm90.kMostCluster) continue;  // nothing goes to memory
          EXPECT_EQ(splits % sm90.kMostCluster, 0);
          EXPECT_LE(splits / sm90.kMostCluster, kMostAttendSplits);
          EXPECT_LE(units * splits / sm90.kMostCluster, sm90.most_parts()) << tokens << " of " << capacity << ", heads " << heads;
          EXPECT_LE(units * sm90.kMostCluster, sm90.most_counters()) << tokens << " of " << capacity << ", heads " << heads;
        }
      }
    }
  }
}

TEST(AttendPolicy, SmallRanksTakeTheSmallerBlock) {
  EXPECT_EQ(attend_sm80_policy(flash(128, 8), kH100).heads_per_block, 16);
  EXPECT_EQ(attend_sm80_policy(flash(128, 64), kH100).heads_per_block, 32);
  EXPECT_EQ(attend_sm80_policy(flash(1, 64), kH100).heads_per_block, 16);
}

TEST(AttendPolicy, HopperTakesTheQuickerKernel) {
  EXPECT_TRUE(is_small_for_sm90(1, 64));
  EXPECT_TRUE(is_small_for_sm90(7, 64));
  EXPECT_FALSE(is_small_for_sm90(8, 64));
  EXPECT_FALSE(is_small_for_sm90(128, 8));
}

TEST(AttendPolicy, OneStepIsNeverSplit) {
  AttendProblem problem = flash(1, 64, 0);
  problem.entries_rows = RowsBy::none;
  problem.window_width = 32;
  EXPECT_EQ(attend_sm80_policy(problem, kH100).most_splits, 1);
  EXPECT_EQ(attend_sm90_policy(problem, kH100).most_splits, 1);
  EXPECT_EQ(attend_sm90_policy(problem, kH100).most_parts(), 0);
  problem.window_width = 0;
  problem.window_rows = RowsBy::none;
  EXPECT_EQ(attend_sm90_policy(problem, kH100).splits(1, 64), 1);
}

}  // namespace
}  // namespace fathom
