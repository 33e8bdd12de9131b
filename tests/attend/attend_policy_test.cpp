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

constexpr ClusterRoom kH100Room{0,  132, 66, 42, 31,
                                24, 18,  16, 15};  // as an H100 may have it: not 33 of four, nor 16 of eight

TEST(AttendPolicy, FewQueriesAreSplitUntilTheDeviceIsFull) {
  using Cut = AttendSm90Policy::Cut;
  const AttendSm90Policy policy = attend_sm90_policy(flash(256), kH100Room);
  EXPECT_EQ(policy.cut(4096, 64), Cut{});
  EXPECT_EQ(policy.cut(128, 64), Cut{});
  EXPECT_EQ(policy.cut(64, 64), (Cut{64, 2, 1}));
  EXPECT_EQ(policy.cut(8, 64), (Cut{32, 7, 1}));  // 16 clusters of seven: there is no room for 16 of eight
  EXPECT_EQ(policy.cut(1, 64), (Cut{16, 7, 1}));  // sums of few heads are soon exchanged
  EXPECT_EQ(policy.cut(128, 8), Cut{});
  const AttendSm90Policy::Cut long_rows = attend_sm90_policy(flash(1, 64, 8192), kH100Room).cut(1, 64);
  EXPECT_EQ(long_rows.cluster, 8);
  EXPECT_GT(long_rows.parts, 1);
}

TEST(AttendPolicy, BlocksOfASplitQueryAreOnTheDeviceTogether) {
  for (const int entries : {0, 512, 1024, 8192}) {
    for (const int heads : {1, 8, 16, 33, 64, 128}) {
      const AttendSm90Policy policy = attend_sm90_policy(flash(256, heads, entries), kH100Room);
      for (std::int64_t tokens = 1; tokens < 300; ++tokens) {
        const AttendSm90Policy::Cut cut = policy.cut(tokens, heads);
        if (cut.cluster * cut.parts == 1) continue;
        EXPECT_LE(tokens * cut.head_blocks(heads) * cut.parts, kH100Room[cut.cluster]) << tokens;
        EXPECT_LE(cut.cluster * cut.parts, policy.tiles) << tokens;
        EXPECT_LE(cut.parts, 32);
      }
    }
  }
}

TEST(AttendPolicy, ScratchHoldsWhatAnyNumberOfTokensSplitsInto) {
  for (const DeviceLimits& limits : {kH100, kRtx4090}) {
    for (const int capacity : {1, 2, 7, 64, 300}) {
      for (const int heads : {1, 16, 64, 128}) {
        const AttendSm80Policy sm80 = attend_sm80_policy(flash(capacity, heads), limits);
        const AttendSm90Policy sm90 = attend_sm90_policy(flash(capacity, heads), kH100Room);
        const AttendSm90Policy::Most most = sm90.most(capacity, heads);
        for (int tokens = 0; tokens <= capacity; ++tokens) {
          const std::int64_t units = tokens * sm80.head_blocks(heads), splits = sm80.splits(tokens, heads);
          if (splits > 1) {
            EXPECT_LE(units * splits, sm80.most_parts(capacity, heads))
                << tokens << " of " << capacity << ", heads " << heads;
            EXPECT_LE(units, sm80.most_split_units(capacity, heads))
                << tokens << " of " << capacity << ", heads " << heads;
            EXPECT_LE(splits, kMostAttendSplits);
          }
          const AttendSm90Policy::Cut cut = sm90.cut(tokens, heads);
          const std::int64_t wide = tokens * cut.head_blocks(heads);
          if (cut.parts == 1) continue;  // nothing goes to memory
          EXPECT_LE(wide * cut.parts, most.parts) << tokens << " of " << capacity << ", heads " << heads;
          EXPECT_LE(wide * cut.cluster, most.counters) << tokens << " of " << capacity << ", heads " << heads;
        }
      }
    }
  }
}

AttendProblem fixed(AttendProblem problem) {
  problem.split = Split::fixed;
  return problem;
}

TEST(AttendPolicy, FixedPiecesAreTheQuerysOwn) {
  EXPECT_EQ(fixed_pieces(0), 1);
  EXPECT_EQ(fixed_pieces(16), 1);
  EXPECT_EQ(fixed_pieces(17), 2);
  EXPECT_EQ(fixed_pieces(20), 2);  // 640 rows
  EXPECT_EQ(fixed_pieces(113), 8);
  EXPECT_EQ(fixed_pieces(std::int64_t{1} << 20), 8);
  for (const int tiles : {0, 1, 16, 17, 20, 36, 64, 128, 260}) {
    int next = 0;
    for (int block = 0; block < 8; ++block) {
      const TileShare share = share_of(tiles, block, 8, Split::fixed);
      EXPECT_EQ(share.begin, block < fixed_pieces(tiles) ? next : tiles);
      EXPECT_LE(share.end - share.begin, (tiles + fixed_pieces(tiles) - 1) / fixed_pieces(tiles));
      next = share.end;
      // Blocks past the query's pieces, which a plan for longer ones has, change nothing.
      if (block < fixed_pieces(tiles)) {
        EXPECT_EQ(share, share_of(tiles, block, fixed_pieces(tiles), Split::fixed));
      }
    }
    EXPECT_EQ(next, tiles);
  }
}

TEST(AttendPolicy, FixedCutsFollowNeitherBatchNorDevice) {
  const ClusterRoom few{0, 4, 2, 1, 1, 1, 1, 1, 1};
  for (const int capacity : {1, 300, 5000}) {
    for (const int tokens : {1, 7, 64, 300}) {
      for (const ClusterRoom& room : {kH100Room, few}) {
        const auto cut = attend_sm90_policy(fixed(flash(capacity)), room).cut(tokens, 64);
        EXPECT_EQ(cut.cluster, 2);
        EXPECT_EQ(cut.parts, 1);
      }
      for (const DeviceLimits& limits : {kH100, kRtx4090, DeviceLimits{80, 4, 99 * 1024, 1 << 20, 1 << 30}}) {
        const AttendSm80Policy policy = attend_sm80_policy(fixed(flash(capacity)), limits);
        EXPECT_EQ(policy.splits(tokens, 64), 2);
        EXPECT_EQ(policy.heads_per_block, 32);
      }
    }
  }
  EXPECT_EQ(attend_sm90_policy(fixed(flash(1)), kH100Room).cut(1, 64).heads, 16);  // no bit depends on it
  EXPECT_EQ(attend_sm90_policy(fixed(flash(64)), kH100Room).cut(64, 64).heads, 64);
}

TEST(AttendPolicy, FixedPartsWaitForNoMoreThanALaunch) {
  const AttendSm80Policy policy = attend_sm80_policy(fixed(flash(4096)), kH100);
  const std::int64_t units = 4096 * policy.head_blocks(64), at_a_time = policy.units_of_launch(units);
  EXPECT_GE(at_a_time * 2, 2 * policy.target_blocks);
  EXPECT_LE(policy.most_parts(4096, 64) * 32 * 512 * 4, std::int64_t{64} << 20);
  EXPECT_EQ(policy.most_parts(4096, 64), at_a_time * 2);
  EXPECT_EQ(policy.most_split_units(4096, 64), at_a_time);
  EXPECT_EQ(policy.units_of_launch(5), 5);
  EXPECT_EQ(attend_sm80_policy(flash(4096), kH100).units_of_launch(units), units);
  EXPECT_EQ(attend_sm90_policy(fixed(flash(64, 64, 8192)), kH100Room).most(64, 64).parts, 0);
}

TEST(AttendPolicy, SmallRanksTakeTheSmallerBlock) {
  EXPECT_EQ(attend_sm80_policy(flash(128, 8), kH100).heads_per_block, 16);
  EXPECT_EQ(attend_sm80_policy(flash(128, 64), kH100).heads_per_block, 32);
  EXPECT_EQ(attend_sm80_policy(flash(1, 64), kH100).heads_per_block, 16);
}

TEST(AttendPolicy, OneStepIsNeverSplit) {
  AttendProblem problem = flash(1, 64, 0);
  problem.entries_rows = RowsBy::none;
  problem.window_width = 32;
  EXPECT_EQ(attend_sm80_policy(problem, kH100).most_splits, 1);
  EXPECT_EQ(attend_sm90_policy(problem, kH100Room).cut(1, 64), AttendSm90Policy::Cut{});
  EXPECT_EQ(attend_sm90_policy(problem, kH100Room).most(1, 64).parts, 0);
  problem.window_width = 0;
  problem.window_rows = RowsBy::none;
  EXPECT_EQ(attend_sm90_policy(problem, kH100Room).cut(1, 64), AttendSm90Policy::Cut{});
}

}  // namespace
}  // namespace fathom
