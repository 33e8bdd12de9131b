// Steps: the exact bookkeeping of small cases, which rows are kept, and running out of pages at every count.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "cache/page_pool_impl.h"
#include "cache/pool_model.h"

namespace fathom {
namespace {

template <class T>
std::vector<T> values_of(const TensorView& tensor) {
  const T* first = static_cast<const T*>(tensor.data);
  return {first, first + tensor.numel()};
}
using Ints = std::vector<std::int32_t>;
using Slots = std::vector<std::int64_t>;

PagePoolOptions all_pages(const LayerProblem& problem, std::int64_t pages) {
  PagePoolOptions options;
  options.window_pages = pages;
  if (problem.compress_ratio > 0) options.entries_pages = options.state_pages = pages;
  if (problem.compress_ratio == 4) options.index_pages = options.index_state_pages = pages;
  return options;
}

Result<Batch> begin(PagePool& pool, const std::vector<int>& sequences, const std::vector<std::int64_t>& counts) {
  return pool.begin_step(sequences, counts);
}

TEST(PagePoolStep, BookkeepingOfTwoSequences) {
  LayerProblem problem =
      small_problem(4, 3, 4);  // window 3; pages: window and entries 4, keys 5, state 2, index state 3
  PagePool pool = pool_of(problem, all_pages(problem, 20));
  ASSERT_TRUE(pool.add_sequence().ok() && pool.add_sequence().ok());
  ASSERT_TRUE(begin(pool, {1}, {3}).ok());
  ASSERT_TRUE(pool.commit().ok());
  const Result<Batch> begun = begin(pool, {1, 0}, {2, 5});
  ASSERT_TRUE(begun.ok());
  const Batch& batch = begun.value();
  EXPECT_EQ(values_of<std::int32_t>(batch.positions), (Ints{3, 4, 0, 1, 2, 3, 4}));
  EXPECT_EQ(values_of<std::int32_t>(batch.seq_ids), (Ints{0, 0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(values_of<std::int32_t>(batch.window_begin), (Ints{1, 2, 0, 0, 0, 1, 2}));
  EXPECT_EQ(values_of<std::int32_t>(batch.window_end), (Ints{4, 5, 1, 2, 3, 4, 5}));
  EXPECT_EQ(values_of<std::int32_t>(batch.num_visible), (Ints{1, 1, 0, 0, 0, 1, 1}));
  EXPECT_EQ(values_of<std::int32_t>(batch.window_table), (Ints{0, 1, 2, 3}));
  EXPECT_EQ(values_of<std::int64_t>(batch.window_slots), (Slots{3, 4, 8, 9, 10, 11, 12}));
  EXPECT_EQ(values_of<std::int64_t>(batch.entry_slots), (Slots{0, -1, -1, -1, -1, 4, -1}));
  EXPECT_EQ(values_of<std::int64_t>(batch.index_slots), (Slots{0, -1, -1, -1, -1, 5, -1}));
  EXPECT_EQ(values_of<std::int32_t>(batch.entries_table), (Ints{0, 1}));
  EXPECT_EQ(values_of<std::int64_t>(batch.state_slots), (Slots{3, 4, 6, 7, 8, 9, 10}));
  EXPECT_EQ(values_of<std::int32_t>(batch.state_table), (Ints{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(values_of<std::int64_t>(batch.index_state_slots), (Slots{3, 4, 6, 7, 8, 9, 10}));
  EXPECT_EQ(batch.index_state_table.shape[0], 2);
  EXPECT_EQ(batch.window_slots.dtype, DType::i64);
  EXPECT_EQ(batch.window_table.dtype, DType::i32);
}

TEST(PagePoolStep, TablesArePaddedToTheLongestSequence) {
  LayerProblem problem = small_problem(0, 3, 2);
  PagePool pool = pool_of(problem, all_pages(problem, 20));
  ASSERT_TRUE(pool.add_sequence().ok() && pool.add_sequence().ok());
  const Result<Batch> begun = begin(pool, {0, 1}, {1, 5});
  ASSERT_TRUE(begun.ok());
  EXPECT_EQ(values_of<std::int32_t>(begun->window_table), (Ints{0, -1, -1, 1, 2, 3}));
  EXPECT_TRUE(begun->num_visible.is_absent() && begun->entries_table.is_absent() && begun->state_slots.is_absent());
}

TEST(PagePoolStep, ASequenceWithoutEntriesStillHasATable) {
  LayerProblem problem = small_problem(16);
  PagePool pool = pool_of(problem, all_pages(problem, 20));
  ASSERT_TRUE(pool.add_sequence().ok());
  const Result<Batch> begun = begin(pool, {0}, {1});
  ASSERT_TRUE(begun.ok());
  EXPECT_EQ(values_of<std::int32_t>(begun->entries_table), (Ints{-1}));
}

// What a captured graph reads must not change its shape.
TEST(PagePoolStep, TablesKeepOneWidthForAsManyTokensAsWereAskedFor) {
  for (const int ratio : {0, 4, 16}) {
    LayerProblem problem = small_problem(ratio);
    PagePoolOptions options = pool_options_for(problem, 1, 400).value();
    options.sequence_tokens = 360;
    PagePool pool = pool_of(problem, options);
    ASSERT_TRUE(pool.add_sequence().ok());
    const auto widths_of = [&](std::int64_t count) {
      const Batch batch = begin(pool, {0}, {count}).value();
      EXPECT_TRUE(pool.commit().ok());
      std::vector<std::int64_t> widths;
      for (const TensorView& table :
           {batch.window_table, batch.entries_table, batch.index_table, batch.state_table, batch.index_state_table}) {
        widths.insert(widths.end(), {table.is_absent() ? 0 : table.shape[1], table.strides[0]});
      }
      return widths;
    };
    const std::vector<std::int64_t> widths = widths_of(59);
    EXPECT_EQ(widths[0], 90);  // 360 tokens in pages of 4
    for (int i = 0; i < 301; ++i) ASSERT_EQ(widths_of(1), widths) << i;
    EXPECT_EQ(widths_of(4)[0], 91) << "a longer sequence than was asked for";
  }
}

TEST(PagePoolStep, AShorterSequenceLeavesNoPagesOfALongerOne) {
  LayerProblem problem = small_problem(0, 3, 2);
  PagePool pool = pool_of(problem, all_pages(problem, 20));
  ASSERT_TRUE(pool.add_sequence().ok() && pool.add_sequence().ok());
  EXPECT_EQ(values_of<std::int32_t>(begin(pool, {0, 1}, {5, 3})->window_table), (Ints{0, 1, 2, 3, 4, -1}));
  pool.abandon();
  EXPECT_EQ(values_of<std::int32_t>(begin(pool, {1, 0}, {5, 1})->window_table), (Ints{0, 1, 2, 3, -1, -1}));
  pool.abandon();
  EXPECT_EQ(values_of<std::int32_t>(begin(pool, {1}, {1})->window_table), (Ints{0, -1, -1}));
}

// Spec 9: CSA keeps state rows from 4 * (n div 4) - 4, HCA from n - n mod 128, the window n - (W - 1).
TEST(PagePoolStep, RetentionRulesOfTheSpecification) {
  const RowRules csa{128, 4, 0}, hca{128, 128, 0};
  for (std::int64_t n = 0; n < 1000; ++n) {
    EXPECT_EQ(csa.first_needed(kState, n), std::max<std::int64_t>(4 * (n / 4) - 4, 0));
    EXPECT_EQ(hca.first_needed(kState, n), n - n % 128);
    EXPECT_EQ(hca.first_needed(kWindow, n), std::max<std::int64_t>(n - 127, 0));
    EXPECT_EQ(csa.first_needed(kEntries, n), 0);
    const RowRules drafts{128, 4, 5};
    EXPECT_EQ(drafts.first_retained(kIndexState, n), csa.first_needed(kIndexState, std::max<std::int64_t>(n - 5, 0)));
    EXPECT_LE(n - drafts.first_retained(kState, n), drafts.most_retained(kState));
    EXPECT_LE(n - drafts.first_retained(kWindow, n), drafts.most_retained(kWindow));
    EXPECT_LE(n - hca.first_retained(kState, n), hca.most_retained(kState));
  }
}

TEST(PagePoolStep, ALongPrefillWritesOnlyTheStateThatStays) {
  for (const int ratio : {4, 16}) {
    for (const int rollback : {0, 3}) {
      LayerProblem problem = small_problem(ratio);
      PagePoolOptions options = all_pages(problem, 60);
      options.rollback_tokens = rollback;
      options.state_pages = 20;  // 40 rows, though the prefill has 100
      PagePool pool = pool_of(problem, options);
      ASSERT_TRUE(pool.add_sequence().ok());
      const Result<Batch> begun = begin(pool, {0}, {100});
      ASSERT_TRUE(begun.ok()) << begun.status().text();
      const int back = 100 - rollback, first = back - back % ratio - (ratio == 4 ? 4 : 0);
      const std::vector<std::int64_t> slots = values_of<std::int64_t>(begun->state_slots);
      for (int p = 0; p < 100; ++p) EXPECT_EQ(slots[p] >= 0, p >= first) << ratio << " " << p;
      EXPECT_EQ(20 - pool.num_free_pages(kState), (100 + 1) / 2 - first / 2);
      for (const std::int64_t slot : values_of<std::int64_t>(begun->window_slots)) EXPECT_GE(slot, 0);
    }
  }
}

TEST(PagePoolStep, DecodingHoldsAFixedNumberOfPages) {
  LayerProblem problem = small_problem(4, 6, 4);
  ModelledPool modelled(problem, [&] {
    PagePoolOptions options = all_pages(problem, 200);
    options.window_pages = 3;  // 5 older rows and the new one touch 3 pages of 4 at most
    options.state_pages = 6, options.index_state_pages = 5;
    return options;
  }());
  modelled.add();
  for (int p = 0; p < 500; ++p) {
    const Status status = modelled.step({0}, {1});
    ASSERT_TRUE(status.ok()) << p << ": " << status.text();
  }
  const Ints table = modelled.pool().block_table(0, kWindow).value();
  ASSERT_EQ(table.size(), 125u);
  for (int block = 0; block < 123; ++block) EXPECT_EQ(table[block], -1);  // rows before 495 are not needed: block 123
  EXPECT_GE(table[123], 0);
}

TEST(PagePoolStep, FreedPagesArePoison) {
  LayerProblem problem = small_problem(0, 2, 2);
  ModelledPool modelled(problem, all_pages(problem, 40));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {20}).ok());
  const Ints table = modelled.pool().block_table(0, kWindow).value();
  const TensorView window = modelled.pool().caches(0).window;
  for (std::int32_t page = 0; page < 40; ++page) {
    const bool held = std::find(table.begin(), table.end(), page) != table.end();
    EXPECT_EQ(*window.row<std::byte>(page) == std::byte{0xff}, !held) << page;
  }
}

TEST(PagePoolStep, AbandonForgetsEverything) {
  for (const int ratio : {0, 4, 16}) {
    ModelledPool modelled(small_problem(ratio), all_pages(small_problem(ratio), 60));
    modelled.add();
    modelled.add();
    ASSERT_TRUE(modelled.step({0, 1}, {18, 5}).ok());
    ASSERT_TRUE(modelled.fork(0, 18).ok());
    PoolState before = state_of(modelled.pool(), 1, 3);
    ASSERT_TRUE(modelled.step({0, 1, 2}, {30, 2, 1}, false).ok());
    PoolState after = state_of(modelled.pool(), 1, 3);
    EXPECT_EQ(after.tables, before.tables);
    EXPECT_EQ(after.numbers, before.numbers);
    // The same step again takes the same pages as if it had not been tried.
    ASSERT_TRUE(modelled.step({2}, {1}).ok());
    const Ints first = modelled.pool().block_table(2, kWindow).value();
    ModelledPool again(small_problem(ratio), all_pages(small_problem(ratio), 60));
    again.add();
    again.add();
    ASSERT_TRUE(again.step({0, 1}, {18, 5}).ok());
    ASSERT_TRUE(again.fork(0, 18).ok());
    ASSERT_TRUE(again.step({2}, {1}).ok());
    EXPECT_EQ(again.pool().block_table(2, kWindow).value(), first);
  }
}

// A shared page survives an abandoned step even if both sides wrote into their copies (the second one must not write
// into the original although the first has already copied it).
TEST(PagePoolStep, AbandonKeepsPagesThatBothSidesWrote) {
  LayerProblem problem = small_problem(0, 6, 4);
  ModelledPool modelled(problem, all_pages(problem, 20));
  modelled.add();
  ASSERT_TRUE(modelled.step({0}, {7}).ok());
  ASSERT_TRUE(modelled.fork(0, 7).ok());
  ASSERT_TRUE(modelled.roll_back(1, 0).ok());
  ASSERT_TRUE(modelled.roll_back(0, 1).ok());  // now 0 writes a row of the shared page that 1 still reads
  ASSERT_TRUE(modelled.step({1, 0}, {1, 1}, false).ok());
  ASSERT_TRUE(modelled.step({1}, {1}).ok());  // reads all of its window
  ASSERT_TRUE(modelled.step({0}, {2}).ok());
}

TEST(PagePoolStep, ExhaustionAtEveryPageCountChangesNothing) {
  const LayerProblem problem = small_problem(4);
  const auto prepared = [](ModelledPool& modelled) {
    modelled.add();
    modelled.add();
    const Status first = modelled.step({0, 1}, {9, 3});
    if (!first.ok()) return false;
    return modelled.fork(0, 9).ok();
  };
  const std::vector<int> sequences = {2, 1, 0};
  const std::vector<std::int64_t> counts = {7, 20, 3};
  std::int64_t PagePoolOptions::*const fields[kAllCaches] = {
      &PagePoolOptions::window_pages, &PagePoolOptions::entries_pages, &PagePoolOptions::index_pages,
      &PagePoolOptions::state_pages, &PagePoolOptions::index_state_pages};
  for (int kind = 0; kind < kAllCaches; ++kind) {
    int refused = 0, taken = 0;
    std::int64_t least = 0;
    for (std::int64_t pages = 0; pages < 30; ++pages) {
      PagePoolOptions options = all_pages(problem, 30);
      options.*fields[kind] = pages;
      ModelledPool modelled(problem, options);
      if (!prepared(modelled)) continue;
      const PoolState before = state_of(modelled.pool(), 1, 3);
      const std::int64_t free = modelled.pool().num_free_pages(kind);
      const Status status = modelled.step(sequences, counts);
      if (status.ok()) {
        ++taken;
        if (least == 0) least = free;
        EXPECT_GE(free, least);
        continue;
      }
      ++refused;
      EXPECT_EQ(taken, 0) << "fewer pages did, " << pages << " did not";
      EXPECT_EQ(status.code(), StatusCode::resource_exhausted);
      EXPECT_NE(std::strstr(status.text(), kCacheNames[kind]), nullptr) << status.text();
      const std::string numbers = std::to_string(free) + " of " + std::to_string(pages) + " are free";
      EXPECT_NE(std::strstr(status.text(), numbers.c_str()), nullptr) << status.text();
      EXPECT_EQ(state_of(modelled.pool(), 1, 3), before);
      EXPECT_FALSE(modelled.pool().commit().ok()) << "a failed begin_step leaves no step open";
      modelled.remove(1);
      modelled.remove(2);
      EXPECT_EQ(modelled.step({0}, {1}).ok(), true) << "pages freed serve a smaller step";
    }
    EXPECT_GT(refused, 0) << kind;
    EXPECT_GT(taken, 0) << kind;
  }
}

TEST(PagePoolStep, TheMessageSaysHowManyPagesAreNeeded) {
  const LayerProblem problem = small_problem(0, 6, 4);
  PagePool pool = pool_of(problem, all_pages(problem, 2));
  ASSERT_TRUE(pool.add_sequence().ok());
  const Result<Batch> begun = begin(pool, {0}, {13});
  ASSERT_FALSE(begun.ok());
  EXPECT_STREQ(begun.status().text(), "begin_step: the window cache needs 4 pages, 2 of 2 are free");
}

TEST(PagePoolStep, PageOrderChangesPagesAndNothingElse) {
  const LayerProblem problem = small_problem(4);
  PagePoolOptions options = all_pages(problem, 50);
  ModelledPool plain(problem, options);
  options.page_order_seed = 11;
  ModelledPool permuted(problem, options);
  for (ModelledPool* modelled : {&plain, &permuted}) {
    modelled->add();
    ASSERT_TRUE(modelled->step({0}, {40}).ok());
    ASSERT_TRUE(modelled->step({0}, {1}).ok());
  }
  EXPECT_NE(plain.pool().block_table(0, kEntries).value(), permuted.pool().block_table(0, kEntries).value());
}

TEST(PagePoolStep, RefusesImpossibleSteps) {
  LayerProblem problem = small_problem(4);
  problem.max_entries = 3;
  PagePool pool = pool_of(problem, all_pages(problem, 50));
  ASSERT_TRUE(pool.add_sequence().ok() && pool.add_sequence().ok());
  const PoolState before = state_of(pool, 1, 2);
  const auto refused = [&](const std::vector<int>& sequences, const std::vector<std::int64_t>& counts,
                           const char* part) {
    const Result<Batch> begun = begin(pool, sequences, counts);
    ASSERT_FALSE(begun.ok()) << part;
    EXPECT_EQ(begun.status().code(), StatusCode::invalid_argument);
    EXPECT_NE(std::strstr(begun.status().text(), part), nullptr) << begun.status().text();
    EXPECT_EQ(state_of(pool, 1, 2), before);
  };
  constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
  refused({}, {}, "0 sequences");
  refused({0, 1}, {1}, "2 sequences and 1 counts");
  refused({0}, {0}, "counts[0] is 0");
  refused({0, 1}, {1, -1}, "counts[1] is -1");
  refused({0}, {kFar}, "counts[0] is 9223372036854775807");
  refused({0, 1}, {kMaxTokens, 1}, "entries");
  refused({0, 1, 0}, {1, 1, 1}, "sequence 0 is named twice");
  refused({2}, {1}, "sequence 2 does not exist");
  refused({0}, {16}, "sequence 0 would have 4 entries, max_entries is 3");
  ASSERT_TRUE(begin(pool, {0}, {15}).ok());
}

TEST(PagePoolStep, StopsAtTheLargestLength) {
  LayerProblem problem = small_problem(0, 1, 65536);  // a window of 1 needs no older rows: a snapshot is its headers
  PagePool pool = pool_of(problem, all_pages(problem, 2));
  ASSERT_TRUE(pool.add_sequence().ok());
  std::vector<std::byte> snapshot = pool.snapshot(0).value();
  const std::int64_t length = kMaxTokens - 2;
  std::memcpy(snapshot.data() + 16, &length, 8);                    // the header's length
  std::memcpy(snapshot.data() + snapshot.size() - 16, &length, 8);  // the window section's first row
  const Result<int> sequence = pool.restore(snapshot);
  ASSERT_TRUE(sequence.ok()) << sequence.status().text();
  ASSERT_EQ(pool.length(sequence.value()).value(), length);
  const Result<Batch> past = begin(pool, {sequence.value()}, {3});
  ASSERT_FALSE(past.ok());
  EXPECT_NE(std::strstr(past.status().text(), "would pass 16777216"), nullptr) << past.status().text();
  const Result<Batch> last = begin(pool, {sequence.value()}, {2});
  ASSERT_TRUE(last.ok()) << last.status().text();
  EXPECT_EQ(values_of<std::int32_t>(last->window_end), (Ints{16777215, 16777216}));
  EXPECT_EQ(values_of<std::int64_t>(last->window_slots), (Slots{65534, 65535}));
  ASSERT_TRUE(pool.commit().ok());
}

}  // namespace
}  // namespace fathom
