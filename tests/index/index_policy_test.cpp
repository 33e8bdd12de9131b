// The cuts of index and select_topk on CUDA: what fits registers, scratch and shared memory, for every size.
#include "index/index_policy.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

constexpr DeviceLimits kH100{.compute_capability = 90, .num_multiprocessors = 132, .shared_bytes_per_block = 227 * 1024};
constexpr DeviceLimits kSmallest{.compute_capability = 86, .num_multiprocessors = 28, .shared_bytes_per_block = 99 * 1024};

static_assert(!select_policy(2048, 512).wide && select_policy(2049, 512).wide);
static_assert(select_policy(8192, 512) == SelectPolicy{true, 8192, 1});
static_assert(select_policy(262144, 512) == SelectPolicy{true, 8192, 32});
static_assert(select_policy(0, 1).segments == 1);

TEST(SelectPolicy, SegmentsDropMostOfTheirColumns) {
  for (const std::int64_t topk : {1, 512, 1024, 2048, 2049, 4096, 1 << 20}) {
    for (const std::int64_t columns : {1, 8193, 262144, 1 << 24}) {
      const SelectPolicy policy = select_policy(columns, topk);
      EXPECT_GE(policy.segments * policy.segment, columns);
      if (policy.segments > 1) {
        EXPECT_LE(4 * topk, policy.segment);
        EXPECT_LT((policy.segments - 1) * policy.segment, columns);
      }
      EXPECT_LE(policy.segments, SelectPolicy::kMostSegments);
      EXPECT_LE(policy.candidates(topk), 1 << 30) << "positions are i32";
    }
  }
}

TEST(IndexPolicy, ScratchStaysUnderItsLimit) {
  for (const std::int32_t entries : {0, 1, 33, 2048, 8192, 262144, 1 << 24}) {
    for (const std::int32_t tokens : {0, 1, 31, 4096, 1 << 24}) {
      for (const std::int32_t topk : {1, 512, 4096, 1 << 20}) {
        IndexProblem problem{.num_tokens = tokens, .topk = topk};
        problem.max_entries = entries;
        const IndexPolicy policy = index_policy(problem, kH100);
        EXPECT_GE(policy.row_width, entries);
        EXPECT_EQ(policy.row_width % IndexPolicy::kTileKeys, 0);
        EXPECT_GE(policy.rows, 1);
        EXPECT_LE(policy.rows, IndexPolicy::kMostRows);
        EXPECT_LE(policy.rows * (policy.row_width * 4 + policy.select.row_bytes(topk)), IndexPolicy::kScratchBytes);
      }
    }
  }
}

TEST(IndexPolicy, TokensOfASequenceShareTilesWhereTheyFit) {
  IndexProblem problem{.num_tokens = 64, .num_seqs = 64};
  EXPECT_EQ(index_policy(problem, kH100).tokens_per_block, 1);
  problem.num_seqs = 32;
  EXPECT_EQ(index_policy(problem, kH100).tokens_per_block, 2);
  problem.num_seqs = 1;
  EXPECT_EQ(index_policy(problem, kH100).tokens_per_block, 4);
  EXPECT_EQ(index_policy(problem, kH100).score_blocks, 3 * 132);
  EXPECT_EQ(index_policy(problem, kSmallest).tokens_per_block, 2);
  for (const std::int32_t heads : {1, 16, 17, 64, 128}) {
    problem.index_heads = heads;
    for (const DeviceLimits& limits : {kH100, kSmallest}) {
      const IndexPolicy policy = index_policy(problem, limits);
      EXPECT_LE(score_shared_bytes(heads, policy.tokens_per_block, policy.counts), limits.shared_bytes_per_block);
      EXPECT_GE(policy.score_blocks, limits.num_multiprocessors);
    }
  }
}

}  // namespace
}  // namespace fathom
