// Snapshots: equal to never having left, in pools of other page sizes too; and every kind of damage is refused.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "cache/pool_model.h"

namespace fathom {
namespace {

PagePoolOptions pages_for(const LayerProblem& problem, int num_layers = 1, int rollback = 0) {
  PagePoolOptions options = pool_options_for(problem, 4, 200, rollback).value();
  options.num_layers = num_layers;
  return options;
}

void expect_refused(const Status& status, const char* part) {
  EXPECT_EQ(status.code(), StatusCode::invalid_argument) << part;
  EXPECT_NE(std::strstr(status.text(), part), nullptr) << status.text();
}

TEST(PagePoolSnapshot, IsTheSameHereThereAndAgain) {
  for (const int ratio : {0, 4, 16}) {
    for (const int rollback : {0, 5}) {
      const LayerProblem problem = small_problem(ratio);
      LayerProblem other_pages = problem;
      other_pages.window_page_size = 1;
      other_pages.entries_page_size = 7;
      other_pages.state_page_size = 3;
      ModelledPool modelled(problem, pages_for(problem, 2, rollback)),
          moved(other_pages, pages_for(other_pages, 2, rollback));
      modelled.add();
      ASSERT_TRUE(modelled.step({0}, {45}).ok());
      const std::vector<std::byte> snapshot = modelled.pool().snapshot(0).value();
      ASSERT_TRUE(modelled.restore(snapshot, modelled.tokens().at(0)).ok());
      ASSERT_TRUE(moved.restore(snapshot, modelled.tokens().at(0)).ok());
      EXPECT_EQ(modelled.pool().snapshot(1).value(), snapshot);
      EXPECT_EQ(moved.pool().snapshot(0).value(), snapshot);
      ASSERT_TRUE(moved.roll_back(0, rollback).ok());  // the rows that rolling back needs travel along
      ASSERT_TRUE(modelled.step({1, 0}, {10, 1}).ok());
      ASSERT_TRUE(moved.step({0}, {20}).ok());
    }
  }
}

TEST(PagePoolSnapshot, HoldsOnlyWhatLaterStepsNeed) {
  LayerProblem problem = small_problem(16, 6, 4);
  ModelledPool modelled(problem, pages_for(problem));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {36}).ok());
  const std::size_t rows = 5 * 8 + 2 * 8 + 4 * 16;  // window 5 x 2 floats, entries 2 x 2, state rows 32..35 x 4
  EXPECT_EQ(modelled.pool().snapshot(0).value().size(), 56 + 3 * 64 + rows);
}

TEST(PagePoolSnapshot, OlderRowsTravelAlongButForksTakeOnlyTheirOwn) {
  const LayerProblem problem = small_problem(0, 6, 1);
  ModelledPool far_back(problem, pages_for(problem, 1, 8)), near(problem, pages_for(problem));
  far_back.add();
  ASSERT_TRUE(far_back.step({0}, {45}).ok());
  ASSERT_TRUE(near.restore(far_back.pool().snapshot(0).value(), far_back.tokens().at(0)).ok());
  ASSERT_TRUE(near.fork(0, 45).ok());
  const std::vector<std::int32_t> parent = near.pool().block_table(0, 0).value();
  const std::vector<std::int32_t> child = near.pool().block_table(1, 0).value();
  for (int row = 0; row < 45; ++row) {
    EXPECT_EQ(parent[row] >= 0, row >= 45 - 8 - 5) << row;
    EXPECT_EQ(child[row], row >= 45 - 5 ? parent[row] : -1) << row;
  }
  EXPECT_EQ(near.roll_back(1, 1).code(), StatusCode::invalid_argument);
  EXPECT_TRUE(near.roll_back(0, 8).ok());
}

TEST(PagePoolSnapshot, OfAnEmptySequence) {
  const LayerProblem problem = small_problem(4);
  ModelledPool modelled(problem, pages_for(problem));
  modelled.add();
  const std::vector<std::byte> snapshot = modelled.pool().snapshot(0).value();
  ASSERT_TRUE(modelled.restore(snapshot, {}).ok());
  ASSERT_TRUE(modelled.step({1}, {30}).ok());
}

TEST(PagePoolSnapshot, RestoreRunsOutOfPagesAndChangesNothing) {
  const LayerProblem problem = small_problem(4);
  ModelledPool modelled(problem, pages_for(problem));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {45}).ok());
  const std::vector<std::byte> snapshot = modelled.pool().snapshot(0).value();
  PagePoolOptions options = pages_for(problem);
  options.state_pages = 2;  // rows 40..44 in pages of 2 need 3
  ModelledPool small(problem, options);
  const PoolState before = state_of(small.pool(), 1, 1);
  const Status status = small.restore(snapshot, {});
  EXPECT_EQ(status.code(), StatusCode::resource_exhausted);
  EXPECT_NE(std::strstr(status.text(), "state cache needs 3 pages, 2 of 2 are free"), nullptr) << status.text();
  EXPECT_EQ(state_of(small.pool(), 1, 1), before);
}

// Offsets as docs/guide/caches.md states them.
class Damaged : public testing::Test {
 protected:
  static constexpr int kVersion = 8, kLength = 16, kLayers = 24, kWindow = 32, kRatio = 40, kCaches = 48,
                       kSections = 56;
  static constexpr int kFormat = 0, kKind = 24, kDim = 32, kRowBytes = 40, kFirstRow = 48, kNumRows = 56;

  Damaged() : problem_(small_problem(4)), modelled_(problem_, pages_for(problem_)) {
    modelled_.add();
    EXPECT_TRUE(modelled_.step({0}, {45}).ok());
    snapshot_ = modelled_.pool().snapshot(0).value();
    before_ = state_of(modelled_.pool(), 1, 4);
  }
  void expect_restore_refused(const std::vector<std::byte>& bytes, const char* part) {
    const Result<int> restored = modelled_.pool().restore(bytes);
    ASSERT_FALSE(restored.ok()) << part;
    expect_refused(restored.status(), part);
    EXPECT_EQ(state_of(modelled_.pool(), 1, 4), before_);
  }
  std::vector<std::byte> with(int offset, std::int64_t value) const {
    std::vector<std::byte> bytes = snapshot_;
    std::memcpy(bytes.data() + offset, &value, sizeof(value));
    return bytes;
  }
  static int section(int index, int field) { return kSections + 64 * index + field; }

  LayerProblem problem_;
  ModelledPool modelled_;
  std::vector<std::byte> snapshot_;
  PoolState before_;
};

TEST_F(Damaged, EveryTruncationIsRefused) {
  for (std::size_t size = 0; size < snapshot_.size(); ++size) {
    const Result<int> restored = modelled_.pool().restore(std::span(snapshot_).first(size));
    ASSERT_EQ(restored.status().code(), StatusCode::invalid_argument) << size;
  }
  expect_restore_refused({snapshot_.begin(), snapshot_.end() - 1}, "ends inside its index state rows");
  std::vector<std::byte> longer = snapshot_;
  longer.push_back(std::byte{0});
  expect_restore_refused(longer, "1 bytes follow");
  expect_restore_refused({}, "has 0 bytes");
}

TEST_F(Damaged, EveryHeaderFieldIsChecked) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max(),
                         kLeast = std::numeric_limits<std::int64_t>::min();
  expect_restore_refused(with(0, 0), "do not begin as a snapshot");
  expect_restore_refused(with(kVersion, 2), "version is 2, expected 1");
  expect_restore_refused(with(kLayers, 2), "num_layers is 2, expected 1");
  expect_restore_refused(with(kWindow, 5), "window is 5, expected 6");
  expect_restore_refused(with(kRatio, 16), "compress_ratio is 16, expected 4");
  expect_restore_refused(with(kCaches, 4), "number of caches is 4, expected 5");
  expect_restore_refused(with(kLength, -1), "length is -1");
  expect_restore_refused(with(kLength, kMost), "length is 9223372036854775807");
  expect_restore_refused(with(kLength, kMaxTokens + 1), "length is 16777217, expected 0 to 16777216");
  expect_restore_refused(with(kLength, 46), "window rows");
  for (int index = 0; index < 5; ++index) {
    expect_restore_refused(with(section(index, kFormat), 0), "rows of");
    expect_restore_refused(with(section(index, kKind), 7), "rows of");
    expect_restore_refused(with(section(index, kDim), 3), "with dim 3");
    expect_restore_refused(with(section(index, kRowBytes), kMost), "rows of");
    expect_restore_refused(with(section(index, kNumRows), kMost), "9223372036854775807");
    expect_restore_refused(with(section(index, kNumRows), -1), "holds -1");
    expect_restore_refused(with(section(index, kFirstRow), -1), "begin at -1");
    expect_restore_refused(with(section(index, kFirstRow), kLeast), "begin at");
    expect_restore_refused(with(section(index, kFirstRow), 1000), "begin at 1000");
  }
  LayerProblem fewer = problem_;
  fewer.max_entries = 10;  // the snapshot has 11
  ModelledPool limited(fewer, pages_for(fewer));
  expect_refused(limited.pool().restore(snapshot_).status(), "max_entries is 10");
}

TEST_F(Damaged, RandomBytesNeverBreakThePool) {
  std::mt19937 random(5);
  int taken = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::byte> bytes = snapshot_;
    const std::size_t end = round % 3 == 0 ? bytes.size() : 56 + 5 * 64;  // mostly the headers
    for (int flips = 1 + round % 4; flips > 0; --flips) bytes[random() % end] = static_cast<std::byte>(random());
    const Result<int> restored = modelled_.pool().restore(bytes);
    if (restored.ok()) {
      ++taken;
      ASSERT_TRUE(modelled_.pool().remove_sequence(restored.value()).ok());
    }
    ASSERT_TRUE(modelled_.pool().snapshot(0).ok());
  }
  EXPECT_GT(taken, 0);  // damage inside rows cannot be seen
  EXPECT_EQ(modelled_.pool().snapshot(0).value(), snapshot_);
}

TEST_F(Damaged, AnotherFormatIsRefused) {
  LayerProblem halves = problem_;
  halves.window_format = CacheFormat::kv_bf16;
  ModelledPool other(halves, pages_for(halves));
  expect_refused(other.pool().restore(snapshot_).status(), "window rows of kv_f32 with dim 2, expected 5 of kv_bf16");
}

}  // namespace
}  // namespace fathom
