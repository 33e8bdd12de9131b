// The measuring words must notice what they promise to notice: a comparison that cannot fail proves nothing.
#include "cli/golden_compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fathom::cli {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(Measure, NaNIsNeverFine) {
  EXPECT_TRUE((Measure{"a", 1.0, 1.0, ""}).ok());
  EXPECT_FALSE((Measure{"a", 1.1, 1.0, ""}).ok());
  EXPECT_FALSE((Measure{"a", std::nan(""), kInfinity, ""}).ok());
}

TEST(RelativeL2, KnownValuesAndEdges) {
  EXPECT_DOUBLE_EQ(relative_l2(std::vector<float>{3, 4.5f}, std::vector<float>{3, 4}), 0.1);
  EXPECT_EQ(relative_l2({}, {}), 0.0);
  EXPECT_EQ(relative_l2(std::vector<float>{0}, std::vector<float>{0}), 0.0);
  EXPECT_TRUE(std::isinf(relative_l2(std::vector<float>{1}, std::vector<float>{0})));
  EXPECT_TRUE(std::isnan(relative_l2(std::vector<float>{kNaN}, std::vector<float>{1})));
  EXPECT_TRUE(std::isinf(relative_l2(std::vector<float>{1}, std::vector<float>{1, 2})));
}

TEST(RowErrors, FindsTheWorstRowAndLeavesOutUnmarkedOnes) {
  const std::vector<float> expected{1, 0, 0, 1, 1, 1}, got{1, 0.1f, 0, 1, 9, 9};
  const RowErrors errors = row_errors(got, expected, 2, {true, true, false});
  EXPECT_NEAR(errors.worst, 0.1, 1e-7);
  EXPECT_EQ(errors.worst_row, 0);
  EXPECT_NEAR(errors.all, 0.1 / std::sqrt(2.0), 1e-7);
  EXPECT_EQ(row_errors(got, expected, 2, {false, false, false}).all, 0.0);
}

TEST(RowErrors, ANaNRowIsTheWorstWhereverItStands) {
  for (const std::size_t bad : {0u, 1u, 2u}) {
    std::vector<float> got{1, 1.1f, 1};
    got[bad] = kNaN;
    const RowErrors errors = row_errors(got, std::vector<float>{1, 1, 1}, 1, {true, true, true});
    EXPECT_TRUE(std::isnan(errors.worst)) << bad;
    EXPECT_TRUE(std::isnan(errors.all)) << bad;
    EXPECT_EQ(errors.worst_row, static_cast<std::int64_t>(bad));
  }
}

struct PickCase {
  DumpTensor<std::int32_t> golden{{1, 2}, {1, 3}};
  DumpTensor<float> scores{{1, 5}, {0.1f, 1.0f, 0.5f, 0.501f, -kInfinity}};
  PickErrors with(std::vector<std::int32_t> picks, double least_gap = 0.01) const {
    return pick_errors({{1, 2}, std::move(picks)}, golden, scores, least_gap);
  }
};

TEST(PickErrors, OrderDoesNotMatter) {
  const PickErrors errors = PickCase().with({3, 1});
  EXPECT_TRUE(errors.agree[0]);
  EXPECT_EQ(errors.picks, 2);
  EXPECT_EQ(errors.differing, 0);
  EXPECT_EQ(errors.farthest_from_cut, 0.0);
}

TEST(PickErrors, ANearTieIsExcusedButCounted) {
  const PickErrors errors = PickCase().with({1, 2});
  EXPECT_FALSE(errors.agree[0]);
  EXPECT_EQ(errors.tokens, 1);
  EXPECT_EQ(errors.differing, 1);
  EXPECT_EQ(errors.wrong, 0);
  EXPECT_NEAR(errors.farthest_from_cut, 0.001, 1e-6);
}

TEST(PickErrors, AClearCutIsNotExcused) {
  EXPECT_EQ(PickCase().with({1, 2}, 1e-5).wrong, 1);
  const PickErrors errors = PickCase().with({0, 1});
  EXPECT_NEAR(errors.farthest_from_cut, 0.401, 1e-6);
}

TEST(PickErrors, InvisibleDoubledMissingAndOutOfRangePicksAreInfinitelyFar) {
  for (const std::vector<std::int32_t>& picks : {std::vector<std::int32_t>{1, 4}, {1, 1}, {1, -1}, {1, 99}, {-1, -1}}) {
    const PickErrors errors = PickCase().with(picks);
    EXPECT_TRUE(std::isinf(errors.farthest_from_cut)) << picks[0] << " " << picks[1];
    EXPECT_FALSE(errors.agree[0]);
  }
}

TEST(PickErrors, WhereEverythingVisibleIsPickedNothingMayBeMissing) {
  const DumpTensor<std::int32_t> golden{{1, 3}, {0, 1, -1}}, got{{1, 3}, {0, -1, -1}};
  const DumpTensor<float> scores{{1, 2}, {0.0f, 0.0f}};
  const PickErrors errors = pick_errors(got, golden, scores, 0.5);
  EXPECT_EQ(errors.wrong, 1);
  EXPECT_TRUE(std::isinf(errors.farthest_from_cut));
}

TEST(PickErrors, AllZeroScoresAreOneBigTie) {
  const DumpTensor<std::int32_t> golden{{1, 1}, {0}}, got{{1, 1}, {2}};
  const DumpTensor<float> scores{{1, 3}, {0.0f, 0.0f, 0.0f}};
  const PickErrors errors = pick_errors(got, golden, scores, 1e-5);
  EXPECT_EQ(errors.wrong, 0);
  EXPECT_EQ(errors.farthest_from_cut, 0.0);
}

/// A row of one tile: the scale is 1, since 448 is there, and 512 columns wide rows are not needed.
std::vector<float> tile(float value) {
  std::vector<float> row(64, 1.0f);
  row[0] = 300.0f * 1.28f;  // 384, an E4M3 number past half the range
  row[1] = value;
  return row;
}

TEST(E4m3Errors, OneStepIsAllowedTwoAreNot) {
  EXPECT_EQ(e4m3_errors(tile(10), tile(10), 64, 0, 64).differing, 0);
  CodeErrors errors = e4m3_errors(tile(11), tile(10), 64, 0, 64);  // numbers from 8 to 16 are 1 apart
  EXPECT_EQ(errors.differing, 1);
  EXPECT_EQ(errors.beyond_one_step, 0);
  EXPECT_EQ(errors.elements, 64);
  errors = e4m3_errors(tile(12), tile(10), 64, 0, 64);
  EXPECT_EQ(errors.beyond_one_step, 1);
}

TEST(E4m3Errors, SubnormalStepsAreThoseOfTheScale) {
  const float step = 0x1p-9f;
  EXPECT_EQ(e4m3_errors(tile(step), tile(0), 64, 0, 64).beyond_one_step, 0);
  EXPECT_EQ(e4m3_errors(tile(-step), tile(step), 64, 0, 64).beyond_one_step, 1);
}

TEST(E4m3Errors, NaNAndInfinityAreBeyondAnyStep) {
  EXPECT_EQ(e4m3_errors(tile(kNaN), tile(10), 64, 0, 64).beyond_one_step, 1);
  EXPECT_EQ(e4m3_errors(tile(kInfinity), tile(10), 64, 0, 64).beyond_one_step, 1);
}

TEST(ValueErrors, OnlyTheNamedColumnsCount) {
  const std::vector<float> got{1, 2, 3, 4}, expected{9, 2, 8, 4};
  EXPECT_EQ(value_errors(got, expected, 2, 1, 1).differing, 0);
  const CodeErrors errors = value_errors(got, expected, 2, 0, 2);
  EXPECT_EQ(errors.differing, 2);
  EXPECT_DOUBLE_EQ(errors.share(), 0.5);
  EXPECT_EQ(value_errors({}, {}, 2, 0, 2).share(), 0.0);
}

}  // namespace
}  // namespace fathom::cli
