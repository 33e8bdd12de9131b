// What the CUDA kernels of linear choose, and the rounding that sm_80 does without the hardware's conversion.
#include "linear/linear_items.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>
#include <tuple>

#include "harness/case_file.h"
#include "harness/op_case.h"
#include "linear/linear_round.h"

namespace fathom {
namespace {

constexpr DeviceLimits kH100{90, 132, 227 * 1024, 50 << 20, std::int64_t{80} << 30};
constexpr DeviceLimits kA100{80, 108, 163 * 1024, 40 << 20, std::int64_t{80} << 30};
constexpr DeviceLimits kL20{89, 92, 99 * 1024, 96 << 20, std::int64_t{48} << 30};

LinearProblem e4m3(std::int32_t in_dim, std::int32_t out_dim, std::int32_t groups = 1) {
  LinearProblem problem;
  problem.in_dim = in_dim, problem.out_dim = out_dim, problem.groups = groups;
  problem.weight_dtype = DType::e4m3;
  problem.activation_quant = ActivationQuant::e4m3_128;
  return problem;
}

TEST(LinearPolicy, FormFollowsTheOperands) {
  LinearProblem problem = e4m3(128, 128);
  EXPECT_EQ(form_of(problem), LinearForm::codes);
  problem.activation_quant = ActivationQuant::none;
  EXPECT_EQ(form_of(problem), LinearForm::mixed);
  problem.weight_dtype = DType::bf16;
  EXPECT_EQ(form_of(problem), LinearForm::plain);
}

TEST(LinearPolicy, EveryTileFitsEveryDevice) {
  for (const DeviceLimits& limits : {kH100, kA100, kL20}) {
    for (const LinearForm form : {LinearForm::codes, LinearForm::mixed, LinearForm::plain}) {
      for (int tokens = 1; tokens <= kMostSkinnyTokens; ++tokens) {
        for (const int in_dim : {1024, 4096}) {
          const SkinnyTile tile = skinny_tile(tokens, in_dim);
          EXPECT_LE(tile.shared_bytes(form), limits.shared_bytes_per_block) << tokens;
          EXPECT_GE(tile.tokens(), tokens);
          EXPECT_EQ(tile.phase_blocks(form) % tile.warps_k, 0) << tokens;
        }
      }
    }
    EXPECT_LE(TiledTile{DType::e4m3}.shared_bytes(), limits.shared_bytes_per_block);
    EXPECT_LE(TiledTile{DType::bf16}.shared_bytes(), limits.shared_bytes_per_block);
  }
}

TEST(LinearPolicy, ItemsCoverEveryOutputOnceAndSplitsFitTheCounters) {
  for (const DeviceLimits& limits : {kH100, kA100, kL20}) {
    for (const LinearProblem& problem : {e4m3(4096, 1024), e4m3(1024, 32768), e4m3(4096, 512), e4m3(4096, 1024, 8), e4m3(8192, 4096),
                                         e4m3(16384, 7168), e4m3(128, 1), e4m3(16, 100000), e4m3(1 << 20, 16)}) {
      for (const int tokens : {1, 4, 5, 8}) {
        const SkinnyPolicy policy = skinny_policy(problem, tokens, limits);
        const std::int64_t per_group = policy.row_tiles / problem.groups;
        EXPECT_GE(per_group * policy.tile.rows(), problem.out_dim);
        EXPECT_LT((per_group - 1) * policy.tile.rows(), problem.out_dim);
        EXPECT_GE(policy.token_tiles * policy.tile.tokens(), tokens);
        EXPECT_GE(policy.splits, 1);
        EXPECT_LE(policy.splits, (problem.in_dim + policy.tile.chunk() - 1) / policy.tile.chunk()) << "a split of no chunks";
        EXPECT_LE(policy.blocks, policy.items());
        // A split tile's last block waits for nobody: all its items are in flight at a time, one a block.
        if (policy.splits > 1) {
          EXPECT_EQ(policy.blocks, policy.items());
          EXPECT_LE(policy.items(), 2 * limits.num_multiprocessors);
        }
      }
    }
  }
}

/// What all blocks of a launch visit: every tile and chunk of K once, a tile's splits next to each other.
TEST(LinearPolicy, BlocksVisitEveryChunkOfEveryTileOnce) {
  for (const LinearProblem& problem : {e4m3(4096, 1024), e4m3(640, 200), e4m3(128, 4800, 3), e4m3(1 << 14, 48, 2), e4m3(7168, 1536)}) {
    for (const int tokens : {1, 4, 7}) {
      const SkinnyPolicy policy = skinny_policy(problem, tokens, kH100);
      const SkinnyItems items = skinny_items(problem, policy);
      const std::int32_t chunks = (problem.in_dim + policy.tile.chunk() - 1) / policy.tile.chunk();
      std::map<std::tuple<int, int, int, int>, int> visits;  // group, row, token, chunk
      for (int block = 0; block < policy.blocks; ++block) {
        SkinnyPlace place = SkinnyPlace::at(items, items.item_begin(block));
        for (; place.item < items.item_begin(block + 1); place = place.next(items)) {
          EXPECT_EQ(place, SkinnyPlace::at(items, place.item));
          EXPECT_GE(place.item - place.split, 0);
          EXPECT_LT(place.chunk_begin(items), place.chunk_end(items));
          EXPECT_LE(place.row(items) + place.rows(items), problem.groups * problem.out_dim);
          for (int chunk = place.chunk_begin(items); chunk < place.chunk_end(items); ++chunk) {
            ++visits[{place.group, place.row_in_group, place.token, chunk}];
          }
        }
      }
      EXPECT_EQ(items.item_begin(policy.blocks), policy.items());
      EXPECT_EQ(static_cast<std::int64_t>(visits.size()), std::int64_t{policy.row_tiles} * policy.token_tiles * chunks);
      for (const auto& [key, count] : visits) EXPECT_EQ(count, 1);
    }
  }
}

TEST(LinearPolicy, ManyTokensOfAWideProductTakeTiles) {
  EXPECT_FALSE(takes_tiles(e4m3(1024, 32768), 64, kH100));
  EXPECT_TRUE(takes_tiles(e4m3(1024, 32768), 65, kH100));
  EXPECT_FALSE(takes_tiles(e4m3(4096, 512), 128, kH100)) << "two blocks would leave the device idle";
  EXPECT_TRUE(takes_tiles(e4m3(4096, 512), 8192, kH100));
}

// tests/cuda/conformance_test.cpp runs the cases on four multiprocessors: small shapes must reach the tiles there.
TEST(LinearPolicy, CasesReachTheTilesOnFewMultiprocessors) {
  DeviceLimits few = kH100;
  few.num_multiprocessors = 4;
  std::map<LinearForm, int> reached;
  const std::vector<std::string> cases = harness::read_cases(FATHOM_CASES_DIR, "linear", "ci").value();
  for (const std::string& text : cases) {
    const harness::OpCase built = harness::make_case("linear", text).value();
    const auto& problem = built.problem_as<LinearProblem>();
    if (problem.weight_dtype == DType::f32 || problem.x_dtype == DType::f32) continue;
    reached[form_of(problem)] += takes_tiles(problem, built.arg("x").view.shape[0], few);
  }
  for (const LinearForm form : {LinearForm::codes, LinearForm::mixed, LinearForm::plain}) EXPECT_GE(reached[form], 1);
}

/// Every code, every boundary between codes, and their neighbours in f32.
TEST(LinearRound, IsTheCodec) {
  const auto expect_equal = [](float value) {
    const float expected = decode_e4m3(encode_e4m3(value));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(round_to_e4m3(value)), std::bit_cast<std::uint32_t>(expected)) << value;
  };
  for (int code = 0; code < 126; ++code) {
    const float low = decode_e4m3(static_cast<std::uint8_t>(code)), high = decode_e4m3(static_cast<std::uint8_t>(code + 1));
    for (const float value : {low, (low + high) / 2, high}) {
      for (const float near : {std::nextafter(value, 0.0f), value, std::nextafter(value, 1e9f)}) {
        expect_equal(near);
        expect_equal(-near);
      }
    }
  }
  for (const float value : {449.0f, 1e30f, HUGE_VALF, -HUGE_VALF, 1e-30f, 0x1p-149f, 0.0f, -0.0f}) expect_equal(value);
  EXPECT_TRUE(std::isnan(round_to_e4m3(std::nanf(""))));
}

}  // namespace
}  // namespace fathom
