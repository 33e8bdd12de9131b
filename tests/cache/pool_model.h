// A pool beside a model of it that keeps every sequence whole. The "layers" here write numbers that say which token a
// row belongs to; before each commit every row that a step may read is compared with the model.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "fathom/pool.h"

namespace fathom {

inline LayerProblem small_problem(int ratio, int window = 6, int page_size = 4) {
  LayerProblem problem;
  problem.num_tokens = 64;
  problem.num_seqs = 8;
  problem.head_dim = 2;
  problem.index_dim = 2;
  problem.window = window;
  problem.compress_ratio = ratio;
  problem.window_format = problem.entries_format = CacheFormat::kv_f32;
  problem.index_format = CacheFormat::index_f32;
  problem.window_page_size = problem.entries_page_size = page_size;
  problem.index_page_size = page_size + 1;
  problem.state_page_size = 2;
  problem.index_state_page_size = 3;
  return problem;
}

inline constexpr int kAllCaches = 5;

inline PagePool pool_of(const LayerProblem& problem, PagePoolOptions options) {
  Result<PagePool> pool = PagePool::create(problem, options);
  if (!pool.ok()) ADD_FAILURE() << pool.status().text();
  return std::move(pool).value();
}

/// Everything of a pool that a caller can see: pages free, lengths, tables, and the bytes of every cache.
struct PoolState {
  std::vector<std::int64_t> numbers;
  std::vector<std::vector<std::int32_t>> tables;
  std::vector<std::vector<std::byte>> bytes;
  bool operator==(const PoolState&) const = default;
};

inline std::vector<TensorView> views_of(const LayerCaches& caches) {
  return {caches.window, caches.entries, caches.index_keys, caches.state, caches.index_state};
}

inline PoolState state_of(const PagePool& pool, int num_layers, int num_sequences) {
  PoolState state;
  for (int kind = 0; kind < kAllCaches; ++kind) state.numbers.push_back(pool.num_free_pages(kind));
  for (int s = 0; s < num_sequences; ++s) {
    const auto length = pool.length(s);
    state.numbers.push_back(length.ok() ? length.value() : -1);
    for (int kind = 0; kind < kAllCaches; ++kind) {
      const auto table = pool.block_table(s, kind);
      state.tables.push_back(table.ok() ? table.value() : std::vector<std::int32_t>{});
    }
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    for (const TensorView& pages : views_of(pool.caches(layer))) {
      const auto* data = static_cast<const std::byte*>(pages.data);
      state.bytes.emplace_back(data, data + pages.numel());
    }
  }
  return state;
}

class ModelledPool {
 public:
  ModelledPool(const LayerProblem& problem, const PagePoolOptions& options)
      : problem_(problem),
        num_layers_(options.num_layers),
        rollback_(options.rollback_tokens),
        pool_(pool_of(problem, options)) {}

  PagePool& pool() { return pool_; }
  const std::map<int, std::vector<int>>& tokens() const { return tokens_; }
  /// Fewest tokens that roll_back and fork must still reach.
  std::int64_t reachable(int sequence) const { return reachable_.at(sequence); }

  void add() { adopt(pool_.add_sequence(), {}, 0); }
  void remove(int sequence) {
    ASSERT_TRUE(pool_.remove_sequence(sequence).ok());
    tokens_.erase(sequence);
    reachable_.erase(sequence);
  }

  /// Begins a step, runs the pretended layers, and commits or abandons. Returns begin_step's status.
  Status step(const std::vector<int>& sequences, const std::vector<std::int64_t>& counts, bool commit = true) {
    const Result<Batch> begun = pool_.begin_step(sequences, counts);
    if (!begun.ok()) return begun.status();
    const Batch& batch = begun.value();
    std::vector<std::vector<int>> grown;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      grown.push_back(tokens_.at(sequences[i]));
      for (std::int64_t c = 0; c < counts[i]; ++c) grown[i].push_back(next_token_++);
    }
    for (int layer = 0; layer < num_layers_; ++layer) run_layer(batch, sequences, grown, layer);
    if (!commit) {
      pool_.abandon();
      return {};
    }
    EXPECT_TRUE(pool_.commit().ok());
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto length = static_cast<std::int64_t>(grown[i].size());
      tokens_[sequences[i]] = std::move(grown[i]);
      std::int64_t& low = reachable_[sequences[i]];
      low = std::max(low, length - rollback_);
    }
    return {};
  }

  Status roll_back(int sequence, std::int64_t count) {
    const Status status = pool_.roll_back(sequence, count);
    if (status.ok()) {
      std::vector<int>& tokens = tokens_[sequence];
      tokens.resize(tokens.size() - count);
      lower_reachable(sequence);
    }
    return status;
  }

  Status fork(int sequence, std::int64_t count) {
    const Result<int> child = pool_.fork(sequence, count);
    if (!child.ok()) return child.status();
    const std::vector<int>& parent = tokens_.at(sequence);
    adopt(child, {parent.begin(), parent.begin() + count}, std::max(reachable_.at(sequence), count - rollback_));
    lower_reachable(child.value());
    return {};
  }

  Status restore(const std::vector<std::byte>& snapshot, const std::vector<int>& tokens) {
    const Result<int> restored = pool_.restore(snapshot);
    if (!restored.ok()) return restored.status();
    adopt(restored, tokens, static_cast<std::int64_t>(tokens.size()));
    return {};
  }

 private:
  /// Going back further than promised lowers the promise to where the sequence now ends.
  void lower_reachable(int sequence) {
    std::int64_t& low = reachable_[sequence];
    low = std::min<std::int64_t>(low, static_cast<std::int64_t>(tokens_[sequence].size()));
  }
  void adopt(const Result<int>& number, std::vector<int> tokens, std::int64_t reachable) {
    ASSERT_TRUE(number.ok()) << number.status().text();
    ASSERT_EQ(tokens_.count(number.value()), 0u);
    tokens_[number.value()] = std::move(tokens);
    reachable_[number.value()] = std::max<std::int64_t>(reachable, 0);
  }

  bool overlaps() const { return problem_.compress_ratio == 4; }

  static float mark(int token, int layer, int cache) { return static_cast<float>(token * 16 + layer * 5 + cache); }
  static PagedCacheView paged(const TensorView& pages, CacheFormat format, int dim, int page_size) {
    return paged_cache("test", "cache", pages, row_layout(format, dim).value(), page_size).value();
  }
  static void put(const PagedCacheView& cache, std::int64_t slot, float value) {
    ASSERT_TRUE(cache.holds(slot));
    for (int c = 0; c < cache.layout.dim; ++c) std::memcpy(cache.row(slot) + 4 * c, &value, 4);
  }
  static void expect_row(const PagedCacheView& cache, const TensorView& table, int sequence, std::int64_t row,
                         float value, const char* name) {
    const std::int64_t slot = slot_through(table.row<std::int32_t>(sequence), table.shape[1], cache.page_size, row);
    ASSERT_TRUE(cache.holds(slot)) << name << " row " << row << " has slot " << slot;
    float first, last;
    std::memcpy(&first, cache.row(slot), 4);
    std::memcpy(&last, cache.row(slot) + 4 * (cache.layout.dim - 1), 4);
    ASSERT_EQ(first, value) << name << " row " << row;
    ASSERT_EQ(last, value) << name << " row " << row;
  }

  void run_layer(const Batch& batch, const std::vector<int>& sequences, const std::vector<std::vector<int>>& grown,
                 int layer) {
    const int ratio = problem_.compress_ratio, halves = overlaps() ? 4 : 2;
    const LayerCaches caches = pool_.caches(layer);
    const PagedCacheView window =
        paged(caches.window, problem_.window_format, problem_.head_dim, problem_.window_page_size);
    PagedCacheView entries, keys, state, index_state;
    ASSERT_EQ(caches.entries.is_absent(), ratio == 0);
    ASSERT_EQ(caches.index_keys.is_absent(), !overlaps());
    ASSERT_EQ(batch.entry_slots.is_absent(), ratio == 0);
    ASSERT_EQ(batch.index_state_table.is_absent(), !overlaps());
    if (ratio > 0) {
      entries = paged(caches.entries, problem_.entries_format, problem_.head_dim, problem_.entries_page_size);
      state = paged(caches.state, CacheFormat::state_f32, halves * problem_.head_dim, problem_.state_page_size);
    }
    if (overlaps()) {
      keys = paged(caches.index_keys, problem_.index_format, problem_.index_dim, problem_.index_page_size);
      index_state = paged(caches.index_state, CacheFormat::state_f32, halves * problem_.index_dim,
                          problem_.index_state_page_size);
    }

    // What project and compress write, and what compress reads from before the step.
    const std::int64_t num_tokens = batch.positions.shape[0];
    std::int64_t t = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto before = static_cast<std::int64_t>(tokens_.at(sequences[i]).size());
      const auto after = static_cast<std::int64_t>(grown[i].size());
      const int s = static_cast<int>(i);
      if (ratio > 0) {
        const std::int64_t open = std::max<std::int64_t>(before - before % ratio - (overlaps() ? ratio : 0), 0);
        for (std::int64_t row = open; row < before; ++row) {
          expect_row(state, batch.state_table, s, row, mark(grown[i][row], layer, 3), "state");
          if (overlaps())
            expect_row(index_state, batch.index_state_table, s, row, mark(grown[i][row], layer, 4), "index state");
        }
      }
      for (std::int64_t p = before; p < after; ++p, ++t) {
        const int token = grown[i][p];
        ASSERT_EQ(batch.positions.at<std::int32_t>(t), p);
        ASSERT_EQ(batch.seq_ids.at<std::int32_t>(t), s);
        ASSERT_EQ(batch.window_begin.at<std::int32_t>(t), std::max<std::int64_t>(0, p - problem_.window + 1));
        ASSERT_EQ(batch.window_end.at<std::int32_t>(t), p + 1);
        put(window, batch.window_slots.at<std::int64_t>(t), mark(token, layer, 0));
        if (ratio == 0) continue;
        ASSERT_EQ(batch.num_visible.at<std::int32_t>(t), (p + 1) / ratio);
        const bool closes = (p + 1) % ratio == 0;
        ASSERT_EQ(batch.entry_slots.at<std::int64_t>(t) >= 0, closes);
        if (closes) put(entries, batch.entry_slots.at<std::int64_t>(t), mark(token, layer, 1));
        const std::int64_t state_slot = batch.state_slots.at<std::int64_t>(t);
        if (state_slot >= 0) put(state, state_slot, mark(token, layer, 3));
        if (!overlaps()) continue;
        ASSERT_EQ(batch.index_slots.at<std::int64_t>(t) >= 0, closes);
        if (closes) put(keys, batch.index_slots.at<std::int64_t>(t), mark(token, layer, 2));
        const std::int64_t index_state_slot = batch.index_state_slots.at<std::int64_t>(t);
        ASSERT_EQ(index_state_slot >= 0, state_slot >= 0);
        if (index_state_slot >= 0) put(index_state, index_state_slot, mark(token, layer, 4));
      }
    }
    ASSERT_EQ(t, num_tokens);

    // What attend and index read.
    for (t = 0; t < num_tokens; ++t) {
      const int s = batch.seq_ids.at<std::int32_t>(t);
      for (int row = batch.window_begin.at<std::int32_t>(t); row < batch.window_end.at<std::int32_t>(t); ++row) {
        expect_row(window, batch.window_table, s, row, mark(grown[s][row], layer, 0), "window");
      }
      const bool last = t + 1 == num_tokens || batch.seq_ids.at<std::int32_t>(t + 1) != s;
      if (ratio == 0 || !last) continue;
      for (int j = 0; j < batch.num_visible.at<std::int32_t>(t); ++j) {
        const int token = grown[s][(j + 1) * ratio - 1];
        expect_row(entries, batch.entries_table, s, j, mark(token, layer, 1), "entry");
        if (overlaps()) expect_row(keys, batch.index_table, s, j, mark(token, layer, 2), "index key");
      }
    }
  }

  LayerProblem problem_;
  int num_layers_;
  std::int64_t rollback_;
  PagePool pool_;
  std::map<int, std::vector<int>> tokens_;
  std::map<int, std::int64_t> reachable_;
  int next_token_ = 1;
};

}  // namespace fathom
