// PagePool: creation, sequences, rollback, forks, and what they refuse.
#include "fathom/pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "cache/pool_model.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

PagePoolOptions options_of(const LayerProblem& problem, std::int64_t pages, int rollback = 0) {
  PagePoolOptions options;
  options.window_pages = pages;
  if (problem.compress_ratio > 0) options.entries_pages = options.state_pages = pages;
  if (problem.compress_ratio == 4) options.index_pages = options.index_state_pages = pages;
  options.rollback_tokens = rollback;
  return options;
}

void expect_refused(const Status& status, const char* part) {
  EXPECT_EQ(status.code(), StatusCode::invalid_argument) << part;
  EXPECT_NE(std::strstr(status.text(), part), nullptr) << status.text();
}

TEST(PagePool, HasTheCachesOfItsLayerKind) {
  for (const int ratio : {0, 4, 128}) {
    const PagePool pool = pool_of(small_problem(ratio), options_of(small_problem(ratio), 3));
    const std::vector<TensorView> views = views_of(pool.caches(0));
    const bool expected[] = {true, ratio > 0, ratio == 4, ratio > 0, ratio == 4};
    for (int kind = 0; kind < kAllCaches; ++kind) {
      EXPECT_EQ(!views[kind].is_absent(), expected[kind]) << ratio << " " << kind;
      EXPECT_EQ(pool.num_free_pages(kind), expected[kind] ? 3 : 0);
    }
    EXPECT_EQ(pool.problem(), small_problem(ratio));
    EXPECT_TRUE(pool.caches(1).window.is_absent());
    EXPECT_TRUE(pool.caches(-1).window.is_absent());
    EXPECT_EQ(pool.num_free_pages(-1), 0);
    EXPECT_EQ(pool.num_free_pages(5), 0);
  }
}

TEST(PagePool, CachesHaveTheModelsRowSizes) {
  LayerProblem problem = small_problem(4);
  problem.head_dim = 512;
  problem.index_dim = 128;
  problem.window_format = problem.entries_format = CacheFormat::kv_e4m3_ue8m0;
  problem.index_format = CacheFormat::index_e2m1_ue8m0;
  problem.window_page_size = problem.entries_page_size = problem.index_page_size = 64;
  problem.state_page_size = problem.index_state_page_size = 4;
  const PagePool csa = pool_of(problem, options_of(problem, 2));
  EXPECT_EQ(csa.caches(0).window.shape[1], 37440);
  EXPECT_EQ(csa.caches(0).entries.shape[1], 37440);
  EXPECT_EQ(csa.caches(0).index_keys.shape[1], 4352);
  EXPECT_EQ(csa.caches(0).state.shape[1], 4 * 2048 * 4);  // spec 3.6
  EXPECT_EQ(csa.caches(0).index_state.shape[1], 4 * 512 * 4);
  problem.compress_ratio = 128;
  problem.state_page_size = 8;
  EXPECT_EQ(pool_of(problem, options_of(problem, 2)).caches(0).state.shape[1], 8 * 1024 * 4);
}

TEST(PagePool, LayersHaveBytesOfTheirOwnThatStartAsPoison) {
  PagePoolOptions options = options_of(small_problem(0), 2);
  options.num_layers = 3;
  const PagePool pool = pool_of(small_problem(0), options);
  for (int layer = 0; layer < 3; ++layer) {
    const TensorView window = pool.caches(layer).window;
    auto* bytes = static_cast<std::byte*>(window.data);
    for (std::int64_t i = 0; i < window.numel(); ++i) ASSERT_EQ(bytes[i], std::byte{0xff});
    std::memset(bytes, layer, window.numel());
  }
  for (int layer = 0; layer < 3; ++layer)
    EXPECT_EQ(*static_cast<std::byte*>(pool.caches(layer).window.data), std::byte(layer));
}

TEST(PagePool, CreationRefusesImpossibleSizes) {
  const auto refused = [](LayerProblem problem, PagePoolOptions options, const char* part) {
    const Result<PagePool> pool = PagePool::create(problem, options);
    ASSERT_FALSE(pool.ok()) << part;
    expect_refused(pool.status(), part);
  };
  const LayerProblem good = small_problem(4);
  const PagePoolOptions options = options_of(good, 2);
  LayerProblem problem = good;
  problem.window = 0;
  refused(problem, options, "window is 0");
  problem = good;
  problem.compress_ratio = -4;
  refused(problem, options, "compress_ratio is -4");
  problem = good;
  problem.state_page_size = 0;
  refused(problem, options, "state cache has pages of 0 rows");
  problem = good;
  problem.index_page_size = 1 << 20;
  refused(problem, options, "index key cache has pages of 1048576 rows");
  problem = good;
  problem.window_format = CacheFormat::kv_e4m3_ue8m0;
  refused(problem, options, "dim is 2");
  problem = good;
  problem.index_dim = std::numeric_limits<int>::max();
  refused(problem, options, "dim is 2147483647");
  problem.index_dim = std::numeric_limits<int>::min();
  refused(problem, options, "dim is -2147483648");
  PagePoolOptions wrong = options;
  wrong.num_layers = 0;
  refused(good, wrong, "num_layers is 0");
  for (const int layers : {4097, std::numeric_limits<int>::max()}) {
    wrong.num_layers = layers;
    refused(good, wrong, "expected 1 to 4096");
  }
  wrong = options;
  wrong.rollback_tokens = -1;
  refused(good, wrong, "rollback_tokens is -1");
  wrong = options;
  wrong.sequence_tokens = -1;
  refused(good, wrong, "sequence_tokens is -1");
  wrong.sequence_tokens = kMaxTokens + 1;
  refused(good, wrong, "sequence_tokens is 16777217");
  wrong = options;
  wrong.entries_pages = -1;
  refused(good, wrong, "entries_pages is -1");
  wrong = options;
  wrong.window_pages = std::int64_t{1} << 31;
  refused(good, wrong, "window_pages is 2147483648");
  wrong.window_pages = std::numeric_limits<std::int32_t>::max() / 4 + 1;  // its slots would not fit i32
  refused(good, wrong, "window_pages is 536870912");
  refused(small_problem(0), options, "entries_pages is 2, expected 0 to 0");
  refused(small_problem(128), options, "index_pages is 2, expected 0 to 0");
}

TEST(PagePool, CreationRunsOutOfMemoryPolitely) {
  if (kUnderSanitizer) GTEST_SKIP() << "the sanitizer ends the program where operator new would throw";
  LayerProblem problem = small_problem(0);
  problem.head_dim = 1 << 20;
  PagePoolOptions options;
  options.window_pages = 500000000;  // 8 PiB
  const Result<PagePool> pool = PagePool::create(problem, options);
  ASSERT_FALSE(pool.ok());
  EXPECT_EQ(pool.status().code(), StatusCode::resource_exhausted);
}

TEST(PagePool, NumbersSequencesAndReusesNumbers) {
  PagePool pool = pool_of(small_problem(0), options_of(small_problem(0), 4));
  EXPECT_EQ(pool.add_sequence().value(), 0);
  EXPECT_EQ(pool.add_sequence().value(), 1);
  EXPECT_EQ(pool.length(1).value(), 0);
  EXPECT_TRUE(pool.remove_sequence(0).ok());
  expect_refused(pool.remove_sequence(0), "sequence 0 does not exist");
  EXPECT_EQ(pool.add_sequence().value(), 0);
  EXPECT_EQ(pool.add_sequence().value(), 2);
  for (const int unknown : {-1, 3, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    expect_refused(pool.length(unknown).status(), "does not exist");
    expect_refused(pool.remove_sequence(unknown), "does not exist");
    expect_refused(pool.roll_back(unknown, 0), "does not exist");
    expect_refused(pool.fork(unknown, 0).status(), "does not exist");
    expect_refused(pool.block_table(unknown, 0).status(), "does not exist");
    expect_refused(pool.snapshot(unknown).status(), "does not exist");
  }
  expect_refused(pool.block_table(0, 1).status(), "compress_ratio 0 do not have");
  expect_refused(pool.block_table(0, -1).status(), "cache is -1");
  expect_refused(pool.block_table(0, 5).status(), "cache is 5");
}

TEST(PagePool, NothingChangesWhileAStepIsOpen) {
  PagePool pool = pool_of(small_problem(0), options_of(small_problem(0), 4));
  const int sequence = pool.add_sequence().value();
  const int one[] = {sequence};
  const std::int64_t count[] = {2};
  ASSERT_TRUE(pool.begin_step(one, count).ok());
  expect_refused(pool.begin_step(one, count).status(), "a step is open");
  expect_refused(pool.add_sequence().status(), "a step is open");
  expect_refused(pool.remove_sequence(sequence), "a step is open");
  expect_refused(pool.roll_back(sequence, 0), "a step is open");
  expect_refused(pool.fork(sequence, 0).status(), "a step is open");
  expect_refused(pool.snapshot(sequence).status(), "a step is open");
  expect_refused(pool.restore({}).status(), "a step is open");
  EXPECT_EQ(pool.length(sequence).value(), 0);
  ASSERT_TRUE(pool.commit().ok());
  EXPECT_EQ(pool.length(sequence).value(), 2);
  expect_refused(pool.commit(), "no step is open");
  pool.abandon();  // without a step: nothing happens
  EXPECT_EQ(pool.length(sequence).value(), 2);
}

TEST(PagePool, MovesWithItsSequences) {
  PagePool pool = pool_of(small_problem(0), options_of(small_problem(0), 4));
  ASSERT_TRUE(pool.add_sequence().ok());
  PagePool moved = std::move(pool);
  EXPECT_EQ(moved.length(0).value(), 0);
}

TEST(PagePool, RefusesEveryCallOnceMovedFrom) {
  PagePool pool = pool_of(small_problem(0), options_of(small_problem(0), 4));
  ASSERT_TRUE(pool.add_sequence().ok());
  PagePool moved = std::move(pool);
  const int one[] = {0};
  const std::int64_t count[] = {1};
  expect_refused(pool.add_sequence().status(), "add_sequence: the pool was moved from");
  expect_refused(pool.remove_sequence(0), "remove_sequence: the pool was moved from");
  expect_refused(pool.length(0).status(), "length: the pool was moved from");
  expect_refused(pool.begin_step(one, count).status(), "begin_step: the pool was moved from");
  expect_refused(pool.commit(), "commit: the pool was moved from");
  pool.abandon();
  expect_refused(pool.roll_back(0, 0), "roll_back: the pool was moved from");
  expect_refused(pool.fork(0, 0).status(), "fork: the pool was moved from");
  expect_refused(pool.snapshot(0).status(), "snapshot: the pool was moved from");
  expect_refused(pool.restore({}).status(), "restore: the pool was moved from");
  expect_refused(pool.block_table(0, 0).status(), "block_table: the pool was moved from");
  EXPECT_EQ(pool.num_free_pages(0), 0);
  EXPECT_TRUE(pool.caches(0).window.is_absent());
  EXPECT_EQ(pool.problem(), LayerProblem());
  pool = std::move(moved);  // and takes calls again once another was moved into it
  EXPECT_EQ(pool.length(0).value(), 0);
}

TEST(PagePool, RollBackReachesRollbackTokensAndSaysWhatIsGone) {
  for (const int ratio : {0, 4, 16}) {
    const LayerProblem problem = small_problem(ratio);
    ModelledPool modelled(problem, options_of(problem, 40, 5));
    modelled.add();
    ASSERT_TRUE(modelled.step({0}, {50}).ok());
    const PoolState before = state_of(modelled.pool(), 1, 1);
    expect_refused(modelled.roll_back(0, 51), "tokens is 51, sequence 0 has 50");
    expect_refused(modelled.roll_back(0, -1), "tokens is -1");
    const Status gone = modelled.roll_back(0, 40);
    expect_refused(gone, "sequence 0 with 10 tokens needs window rows from 5");
    EXPECT_NE(std::strstr(gone.text(), "rollback_tokens is 5"), nullptr) << gone.text();
    EXPECT_EQ(state_of(modelled.pool(), 1, 1), before);
    ASSERT_TRUE(modelled.roll_back(0, 0).ok());
    EXPECT_EQ(state_of(modelled.pool(), 1, 1), before);
    ASSERT_TRUE(modelled.roll_back(0, 5).ok());
    EXPECT_EQ(modelled.pool().length(0).value(), 45);
    ASSERT_TRUE(modelled.step({0}, {9}).ok());
  }
}

TEST(PagePool, RollBackToNothingIsAlwaysThere) {
  const LayerProblem problem = small_problem(4);
  ModelledPool modelled(problem, options_of(problem, 40));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {50}).ok());
  ASSERT_TRUE(modelled.roll_back(0, 50).ok());
  for (int kind = 0; kind < kAllCaches; ++kind) EXPECT_EQ(modelled.pool().num_free_pages(kind), 40);
  ASSERT_TRUE(modelled.step({0}, {50}).ok());
}

TEST(PagePool, ForksShareAndCopyOnlyWhatIsWritten) {
  const LayerProblem problem = small_problem(4);  // pages: window 4, entries 4, keys 5, state 2, index state 3
  ModelledPool modelled(problem, options_of(problem, 40, 4));
  PagePool& pool = modelled.pool();
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {30}).ok());
  std::vector<std::int64_t> free_before;
  for (int kind = 0; kind < kAllCaches; ++kind) free_before.push_back(pool.num_free_pages(kind));
  ASSERT_TRUE(modelled.fork(0, 30).ok());
  for (int kind = 0; kind < kAllCaches; ++kind) {
    EXPECT_EQ(pool.num_free_pages(kind), free_before[kind]);
    EXPECT_EQ(pool.block_table(0, kind).value(), pool.block_table(1, kind).value());
  }
  ASSERT_TRUE(modelled.step({1}, {1}).ok());  // position 30: window block 7 is copied; state block 15 is new
  EXPECT_EQ(pool.num_free_pages(0), free_before[0] - 1);
  EXPECT_EQ(pool.num_free_pages(1), free_before[1]);  // no entry closes: no page of entries or keys is written
  EXPECT_EQ(pool.num_free_pages(2), free_before[2]);
  const std::vector<std::int32_t> parent = pool.block_table(0, 0).value(), child = pool.block_table(1, 0).value();
  ASSERT_EQ(parent.size(), child.size());
  EXPECT_NE(parent.back(), child.back());
  EXPECT_EQ(parent[parent.size() - 2], child[child.size() - 2]);
  ASSERT_TRUE(modelled.step({0, 1}, {3, 3}).ok());
  ASSERT_TRUE(modelled.fork(1, 33).ok());
  modelled.remove(0);
  modelled.remove(1);
  ASSERT_TRUE(modelled.step({2}, {8}).ok());
  modelled.remove(2);
  for (int kind = 0; kind < kAllCaches; ++kind) EXPECT_EQ(pool.num_free_pages(kind), 40);
}

TEST(PagePool, ForkRefusesWhatItCannotReach) {
  const LayerProblem problem = small_problem(16);
  ModelledPool modelled(problem, options_of(problem, 60, 2));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {60}).ok());
  const PoolState before = state_of(modelled.pool(), 1, 4);
  expect_refused(modelled.fork(0, 61), "tokens is 61, sequence 0 has 60");
  expect_refused(modelled.fork(0, -1), "tokens is -1");
  expect_refused(modelled.fork(0, 20), "were released");
  EXPECT_EQ(state_of(modelled.pool(), 1, 4), before);
  ASSERT_TRUE(modelled.fork(0, 0).ok());  // an empty sequence needs nothing
  ASSERT_TRUE(modelled.fork(0, 58).ok());
}

// Spec 9: at a multiple of 128 HCA needs no state rows, so a boundary there is reachable even where state rows are
// gone.
TEST(PagePool, AGroupBoundaryNeedsNoStateRowsWithoutOverlap) {
  const LayerProblem problem = small_problem(16, 1);
  ModelledPool modelled(problem, options_of(problem, 60));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {60}).ok());
  EXPECT_EQ(modelled.roll_back(0, 13).code(), StatusCode::invalid_argument);  // 47: needs rows 32..46
  ASSERT_TRUE(modelled.roll_back(0, 28).ok());                                // 32
  ASSERT_TRUE(modelled.step({0}, {20}).ok());
}

TEST(PoolOptions, CountPagesForTheLayerKind) {
  LayerProblem problem = small_problem(128, 128, 64);
  problem.index_page_size = 64;
  problem.state_page_size = 8;
  const PagePoolOptions hca = pool_options_for(problem, 1, 1024).value();
  EXPECT_EQ(hca.entries_pages, 1);  // 8 entries
  EXPECT_EQ(hca.index_pages, 0);
  EXPECT_EQ(hca.index_state_pages, 0);
  EXPECT_LE(hca.state_pages, 1024 / 8);
  problem.compress_ratio = 4;
  const PagePoolOptions csa = pool_options_for(problem, 3, 1 << 20, 2).value();
  EXPECT_EQ(csa.rollback_tokens, 2);
  EXPECT_EQ(csa.entries_pages, 3 * 4096 + 1);
  EXPECT_LE(csa.window_pages, 3 * 8);  // not the whole sequences
  EXPECT_LE(csa.state_pages, 3 * 16);
  problem.compress_ratio = 0;
  EXPECT_EQ(pool_options_for(problem, 1, 100).value().window_pages, 2);
  EXPECT_EQ(pool_options_for(problem, 1, 100).value().entries_pages, 0);
}

TEST(PoolOptions, AreEnoughWhereEverySequenceStraddlesPages) {
  LayerProblem problem = small_problem(0, 9, 8);
  problem.num_tokens = 16;
  ModelledPool modelled(problem, pool_options_for(problem, 8, 1000).value());
  std::vector<int> sequences;
  for (int s = 0; s < 8; ++s) {
    modelled.add();
    sequences.push_back(s);
    ASSERT_TRUE(modelled.step({s}, {15}).ok());
  }
  const Status status = modelled.step(sequences, std::vector<std::int64_t>(8, 2));  // rows 7..16: 3 pages for each
  ASSERT_TRUE(status.ok()) << status.text();
}

TEST(PoolOptions, RefuseImpossibleCounts) {
  const LayerProblem problem = small_problem(4);
  expect_refused(pool_options_for(problem, 0, 10).status(), "sequences is 0");
  expect_refused(pool_options_for(problem, 1, 0).status(), "tokens is 0");
  expect_refused(pool_options_for(problem, 1, kMaxTokens + 1).status(), "tokens is 16777217");
  expect_refused(pool_options_for(problem, 1, 10, -3).status(), "rollback_tokens is -3");
  LayerProblem broken = problem;
  broken.entries_page_size = -1;
  expect_refused(pool_options_for(broken, 1, 10).status(), "pages of -1 rows");
}

}  // namespace
}  // namespace fathom
