// What linear's Hopper kernel chooses: tiles that fit, and every tile of outputs and step of K exactly once.
#include "linear/linear_sm90_policy.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>

namespace fathom {
namespace {

constexpr DeviceLimits kH100{90, 132, 227 * 1024, 50 << 20, std::int64_t{80} << 30};
constexpr DeviceLimits kSlice{90, 16, 227 * 1024, 6 << 20, std::int64_t{10} << 30};  // an eighth of the device

LinearProblem weight(DType dtype, std::int32_t in_dim, std::int32_t out_dim, std::int32_t groups = 1) {
  LinearProblem problem;
  problem.in_dim = in_dim, problem.out_dim = out_dim, problem.groups = groups;
  problem.weight_dtype = dtype;
  return problem;
}

TEST(LinearSm90Policy, EveryTileFitsABlock) {
  for (const LinearSm90Tile& tile : kLinearSm90Tiles) {
    SCOPED_TRACE(testing::Message() << tile.is_e4m3 << " " << tile.parts << " " << tile.tokens);
    EXPECT_LE(tile.shared_bytes(), kH100.shared_bytes_per_block);
    EXPECT_LE((tile.shared_bytes() + 1024) * tile.blocks_per_multiprocessor(), 228 * 1024);
    EXPECT_GE(tile.stages(), 3);
    EXPECT_EQ(tile.stage_bytes() % 1024, 0) << "slabs begin on 1024 bytes";
    EXPECT_LE(tile.rows(), 256) << "the copy engine's largest box";
    EXPECT_LE(tile.rows() * tile.tokens * 4, tile.stages() * tile.stage_bytes()) << "a cluster's sums go where the ring was";
    EXPECT_EQ(tile.tokens % tile.staging_tokens(), 0);
  }
}

TEST(LinearSm90Policy, TokensDecideTheWidth) {
  const LinearProblem problem = weight(DType::e4m3, 4096, 4096);
  for (const int tokens : {1, 8, 32}) EXPECT_EQ(linear_sm90_policy(problem, tokens, kH100).tile.tokens, 32);
  EXPECT_EQ(linear_sm90_policy(problem, 4096, kH100).tile.tokens, 128);
}

TEST(LinearSm90Policy, FewTilesShareKInClusters) {
  const LinearSm90Policy narrow = linear_sm90_policy(weight(DType::e4m3, 4096, 512), 1, kH100);
  EXPECT_GT(narrow.splits, 1);
  EXPECT_EQ(narrow.blocks, narrow.tiles() * narrow.splits);
  const LinearSm90Policy wide = linear_sm90_policy(weight(DType::e4m3, 1024, 32768), 4096, kH100);
  EXPECT_EQ(wide.splits, 1);
  EXPECT_EQ(wide.blocks, kH100.num_multiprocessors);
}

/// What all blocks of a launch visit.
TEST(LinearSm90Policy, BlocksVisitEveryStepOfEveryTileOnce) {
  for (const DeviceLimits& limits : {kH100, kSlice}) {
    for (const LinearProblem& problem :
         {weight(DType::e4m3, 4096, 1024), weight(DType::e4m3, 640, 200), weight(DType::e4m3, 128, 4800, 3), weight(DType::bf16, 4096, 64),
          weight(DType::e4m3, 1 << 14, 48, 2), weight(DType::bf16, 520, 300, 2), weight(DType::e4m3, 16, 1)}) {
      for (const int tokens : {1, 7, 16, 30, 64, 130, 5000}) {
        const LinearSm90Policy policy = linear_sm90_policy(problem, tokens, limits);
        const LinearSm90Tiles tiles = linear_sm90_tiles(problem, policy);
        ASSERT_GT(policy.blocks, 0);
        ASSERT_EQ(policy.blocks % policy.splits, 0) << "whole clusters";
        EXPECT_GE(tiles.row_tiles_per_group * tiles.tile_rows, problem.out_dim);
        EXPECT_GE(tiles.token_tiles * tiles.tile_tokens, tokens);
        std::map<std::tuple<int, int, int>, int> visits;
        for (int cluster = 0; cluster < policy.blocks / policy.splits; ++cluster) {
          for (int tile = cluster; tile < policy.tiles(); tile += policy.blocks / policy.splits) {
            const auto place = tiles.at(tile);
            EXPECT_LT(place.group, problem.groups);
            EXPECT_LT(place.row_in_group, problem.out_dim);
            EXPECT_LT(place.token, tokens);
            ++visits[{place.group, place.row_in_group, place.token}];
          }
        }
        EXPECT_EQ(static_cast<std::int64_t>(visits.size()), policy.tiles());
        for (const auto& [key, count] : visits) EXPECT_EQ(count, 1);
        EXPECT_EQ(tiles.step_begin(0), 0);
        EXPECT_EQ(tiles.step_begin(policy.splits), tiles.steps);
        for (int split = 0; split < policy.splits; ++split) EXPECT_LT(tiles.step_begin(split), tiles.step_begin(split + 1)) << "a block of no steps";
      }
    }
  }
}

}  // namespace
}  // namespace fathom
