// What linear's panel kernel chooses: panels that fit, and every 16 rows and block of K exactly once.
#include "linear/linear_panel_policy.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>

namespace fathom {
namespace {

constexpr DeviceLimits kH100{90, 132, 227 * 1024, 50 << 20, std::int64_t{80} << 30};
constexpr DeviceLimits kA100{80, 108, 163 * 1024, 40 << 20, std::int64_t{80} << 30};
constexpr DeviceLimits kL20{89, 92, 99 * 1024, 96 << 20, std::int64_t{48} << 30};
constexpr DeviceLimits kSlice{90, 16, 227 * 1024, 6 << 20, std::int64_t{10} << 30};  // an eighth of an H100

LinearProblem weight(DType dtype, std::int32_t in_dim, std::int32_t out_dim, std::int32_t groups = 1) {
  LinearProblem problem;
  problem.in_dim = in_dim, problem.out_dim = out_dim, problem.groups = groups;
  problem.weight_dtype = dtype;
  return problem;
}

TEST(LinearPanelPolicy, PanelsFitEveryDevice) {
  for (const DeviceLimits& limits : {kH100, kA100, kL20}) {
    for (const DType dtype : {DType::e4m3, DType::bf16}) {
      for (int tokens = 9; tokens <= 64; ++tokens) {
        for (const int in_dim : {16, 1024, 4096, 1 << 20}) {
          const PanelPolicy policy = panel_policy(weight(dtype, in_dim, 512), tokens, limits);
          EXPECT_GE(policy.tile.tokens(), tokens);
          EXPECT_GE(policy.panel_blocks, 1);
          EXPECT_LE(policy.panel_blocks, PanelTile::kMostBlocks) << "a lane has two scale bytes";
          EXPECT_LE(policy.shared_bytes(), limits.shared_bytes_per_block) << tokens << " " << in_dim;
        }
      }
    }
  }
}

TEST(LinearPanelPolicy, RowsOfATileGoWithItsTokens) {
  EXPECT_EQ(panel_tile(weight(DType::e4m3, 1024, 512), 32, kH100), (PanelTile{8, 2, 4}));
  EXPECT_EQ(panel_tile(weight(DType::e4m3, 8192, 512), 32, kH100), (PanelTile{16, 1, 4}));
  EXPECT_EQ(panel_tile(weight(DType::bf16, 1024, 512), 32, kH100), (PanelTile{16, 1, 4}));
  EXPECT_EQ(panel_tile(weight(DType::e4m3, 1024, 512), 9, kH100), (PanelTile{16, 1, 2}));
  EXPECT_EQ(panel_tile(weight(DType::e4m3, 1024, 512), 32, kA100), (PanelTile{8, 1, 4}));
}

TEST(LinearPanelPolicy, PartsOfKDoNotDependOnTheTokensOfATile) {
  // The scratch that a plan asks for rests on it.
  for (const LinearProblem& problem :
       {weight(DType::e4m3, 4096, 1024), weight(DType::bf16, 7168, 64), weight(DType::e4m3, 16384, 7168)}) {
    for (int tokens = 9; tokens <= 200; ++tokens) {
      const int most = tokens <= 16 ? 16 : tokens <= 32 ? 32 : 64;
      EXPECT_EQ(panel_policy(problem, tokens, kH100).splits, panel_policy(problem, most, kH100).splits) << tokens;
    }
  }
}

TEST(LinearPanelPolicy, ALargeWeightKeepsEveryMultiprocessorBusy) {
  for (const LinearProblem& problem :
       {weight(DType::e4m3, 1024, 32768), weight(DType::e4m3, 4096, 1024, 8), weight(DType::e4m3, 8192, 4096),
        weight(DType::e4m3, 1536, 65536), weight(DType::e4m3, 16384, 7168)}) {
    const PanelPolicy policy = panel_policy(problem, 32, kH100);
    EXPECT_GE(policy.blocks, 128);
    const std::int64_t per_block = (policy.row_units + policy.blocks_per_panel - 1) / policy.blocks_per_panel;
    const double all = double(problem.in_dim) * problem.out_dim * problem.groups;
    EXPECT_LE(double(per_block) * policy.panel_blocks * policy.tile.step_bytes() * kH100.num_multiprocessors,
              1.15 * all)
        << "the slowest block's share";
  }
}

TEST(LinearPanelPolicy, WarpsShareKOnlyWhereABlockHasOneRound) {
  for (const LinearProblem& problem : {weight(DType::e4m3, 4096, 512), weight(DType::bf16, 7168, 64),
                                       weight(DType::e4m3, 1024, 32768), weight(DType::e4m3, 4096, 64, 40)}) {
    for (const int tokens : {16, 32, 64, 1000}) {
      const PanelPolicy policy = panel_policy(problem, tokens, kH100);
      if (policy.warps_per_unit == 1) continue;
      EXPECT_LE((policy.row_units + policy.blocks_per_panel - 1) / policy.blocks_per_panel * policy.warps_per_unit,
                policy.tile.warps);
      EXPECT_EQ(policy.panels(problem.groups) * policy.blocks_per_panel, policy.blocks) << "a block has one panel";
    }
  }
  EXPECT_GT(panel_policy(weight(DType::e4m3, 4096, 512), 32, kH100).warps_per_unit, 1);
}

/// What all warps of a launch visit.
TEST(LinearPanelPolicy, WarpsVisitEveryStepOfEveryRowOnce) {
  for (const DeviceLimits& limits : {kH100, kL20, kSlice}) {
    for (const LinearProblem& problem :
         {weight(DType::e4m3, 4096, 1024), weight(DType::e4m3, 640, 200), weight(DType::e4m3, 128, 4800, 3),
          weight(DType::bf16, 4096, 64), weight(DType::e4m3, 1 << 14, 48, 2), weight(DType::bf16, 520, 300, 2),
          weight(DType::e4m3, 16, 1), weight(DType::e4m3, 7168, 1536), weight(DType::e4m3, 2048, 40, 30)}) {
      for (const int tokens : {9, 16, 30, 64, 130, 700}) {
        const PanelPolicy policy = panel_policy(problem, tokens, limits);
        const PanelWork work = panel_work(problem, policy);
        ASSERT_GT(policy.blocks, 0);
        EXPECT_LE(policy.blocks, limits.num_multiprocessors);
        ASSERT_EQ(policy.blocks % policy.blocks_per_panel, 0);
        EXPECT_GE(policy.token_tiles * policy.tile.tokens(), tokens);
        EXPECT_EQ(work.unit_begin(policy.blocks_per_panel), policy.row_units);
        const std::int32_t all_blocks = (problem.in_dim + PanelTile::kBlockK - 1) / PanelTile::kBlockK,
                           stride = policy.blocks / policy.blocks_per_panel;
        const std::int32_t steps_of_block = problem.weight_dtype == DType::e4m3 ? 1 : 2;
        EXPECT_EQ(work.block_begin(policy.splits), all_blocks);
        std::map<std::tuple<int, int, int>, int> visits;  // tile, its rows, step of K
        for (int block = 0; block < policy.blocks; ++block) {
          PanelPlace place = PanelPlace::at(work, block / policy.blocks_per_panel);
          const int begin = work.unit_begin(block % policy.blocks_per_panel),
                    end = work.unit_begin(block % policy.blocks_per_panel + 1);
          for (int panel = block / policy.blocks_per_panel; panel < work.panels;
               panel += stride, place = place.after(work, stride)) {
            ASSERT_EQ(place, PanelPlace::at(work, panel));
            EXPECT_LE(place.blocks(work), policy.panel_blocks);
            for (int warp = 0; warp < policy.tile.warps; ++warp) {
              for (int unit = begin + warp / policy.warps_per_unit; unit < end;
                   unit += policy.tile.warps / policy.warps_per_unit) {
                EXPECT_LT(place.tile(work, unit), policy.tiles(problem.groups));
                EXPECT_GE(place.rows(work, unit), 1);
                EXPECT_LE(place.row(work, unit) + place.rows(work, unit),
                          std::int64_t{place.group + 1} * problem.out_dim);
                for (int step = warp % policy.warps_per_unit; step < place.blocks(work) * steps_of_block;
                     step += policy.warps_per_unit) {
                  ++visits[{place.tile(work, unit), unit, place.begin(work) * steps_of_block + step}];
                }
              }
            }
          }
        }
        EXPECT_EQ(static_cast<std::int64_t>(visits.size()), policy.tiles(problem.groups) * all_blocks * steps_of_block);
        for (const auto& [key, count] : visits) EXPECT_EQ(count, 1);
      }
    }
  }
}

}  // namespace
}  // namespace fathom
