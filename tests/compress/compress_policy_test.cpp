// The pooling kernel's shape covers every entry once, whatever its size.
#include "compress/compress_policy.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

CompressProblem entry(int dim, int ratio, int overlap) {
  CompressProblem problem;
  problem.dim = dim;
  problem.ratio = ratio;
  problem.overlap = overlap;
  return problem;
}

// Decided while compiling: policies are constant expressions.
static_assert(pool_policy(CompressProblem{}) == PoolPolicy{512, 1, 1});

TEST(CompressPolicy, Deepseek) {
  EXPECT_EQ(pool_policy(entry(512, 4, 1)), (PoolPolicy{512, 1, 1}));
  EXPECT_EQ(pool_policy(entry(128, 4, 1)), (PoolPolicy{128, 1, 1}));
  EXPECT_EQ(pool_policy(entry(512, 128, 0)), (PoolPolicy{32, 16, 16}));
}

TEST(CompressPolicy, SlicesCoverEveryChannelOnce) {
  for (const int ratio : {1, 3, 4, 64, 128, 4096}) {
    for (int dim = 2; dim <= 4096; dim += dim < 70 ? 1 : 511) {
      const PoolPolicy policy = pool_policy(entry(dim, ratio, ratio % 2));
      EXPECT_EQ(policy.threads() % 32, 0) << dim << " " << ratio;
      EXPECT_LE(policy.threads(), kPoolThreads);
      EXPECT_GE(policy.slices * policy.units, dim);
      EXPECT_LT((policy.slices - 1) * policy.units, dim) << "a block without channels";
    }
  }
}

TEST(CompressPolicy, ABlockLooksAtOneTokenOfADecodeAndAtMostAGroupOfAPrefill) {
  const DeviceLimits h100{.num_multiprocessors = 132};
  const CompressProblem csa = entry(512, 4, 1), hca = entry(512, 128, 0);
  EXPECT_EQ(tokens_of_a_block(csa, h100, 128, 128), 1);
  EXPECT_EQ(tokens_of_a_block(csa, h100, 128, 64), 2);
  EXPECT_EQ(tokens_of_a_block(csa, h100, 4096, 1), 4);
  EXPECT_EQ(tokens_of_a_block(csa, h100, 0, 0), 1);
  EXPECT_EQ(tokens_of_a_block(hca, h100, 8, 8), 1);
  EXPECT_EQ(tokens_of_a_block(hca, h100, 128, 128), 8)
      << "128 tokens of 16 blocks in two for each of 132 multiprocessors";
  EXPECT_EQ(tokens_of_a_block(hca, h100, 4096, 1), kMostTokensOfABlock);
  EXPECT_EQ(tokens_of_a_block(hca, {}, 128, 0), kMostTokensOfABlock);
  EXPECT_LE(kMostTokensOfABlock, 32) << "one warp looks at them";
}

}  // namespace
}  // namespace fathom
