// Random programs of steps, forks, rollbacks, abandoned steps, snapshots and removals, against the model.
#include <gtest/gtest.h>

#include <random>

#include "cache/pool_model.h"

namespace fathom {
namespace {

struct Setting {
  int ratio, window, page_size, state_page_size, rollback;
  std::uint64_t page_order_seed;
};

class PagePoolPrograms : public testing::TestWithParam<Setting> {};

int pick(std::mt19937& random, int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); }

TEST_P(PagePoolPrograms, AgreeWithTheModel) {
  constexpr int kMostSequences = 4, kMostTokens = 180, kLayers = 2;
  const Setting setting = GetParam();
  LayerProblem problem = small_problem(setting.ratio, setting.window, setting.page_size);
  problem.state_page_size = setting.state_page_size;
  problem.index_state_page_size = setting.state_page_size + 1;
  // The pages that pool_options_for counts must always do, so no step may ever fail.
  Result<PagePoolOptions> options = pool_options_for(problem, kMostSequences, kMostTokens, setting.rollback);
  ASSERT_TRUE(options.ok());
  options->num_layers = kLayers;
  options->page_order_seed = setting.page_order_seed;
  LayerProblem other_problem = problem;  // snapshots move to pages of another size
  other_problem.window_page_size = 3, other_problem.entries_page_size = 1, other_problem.state_page_size = 5;
  int refused_rollbacks = 0, deep_rollbacks = 0, forks = 0, restores = 0;

  for (int program = 0; program < 60; ++program) {
    std::mt19937 random(program * 1000 + setting.ratio);
    ModelledPool modelled(problem, options.value());
    PagePool& pool = modelled.pool();
    std::vector<std::int64_t> all_free;
    for (int kind = 0; kind < kAllCaches; ++kind) all_free.push_back(pool.num_free_pages(kind));
    for (int action = 0; action < 120; ++action) {
      SCOPED_TRACE("program " + std::to_string(program) + " action " + std::to_string(action));
      std::vector<int> alive;
      for (const auto& [number, tokens] : modelled.tokens()) alive.push_back(number);
      const bool room = static_cast<int>(alive.size()) < kMostSequences;
      if (alive.empty()) {
        modelled.add();
        continue;
      }
      std::shuffle(alive.begin(), alive.end(), random);
      const int chosen = alive[0];
      const auto length = static_cast<std::int64_t>(modelled.tokens().at(chosen).size());
      switch (pick(random, 0, 9)) {
        case 0:
          if (room) modelled.add();
          break;
        case 1: {
          const std::int64_t least = modelled.reachable(chosen);
          std::int64_t target = pick(random, static_cast<int>(least), static_cast<int>(length));
          if (pick(random, 0, 1) == 0) target = pick(random, 0, static_cast<int>(std::min(length, least)));
          const PoolState before = state_of(pool, kLayers, 8);
          const Status status = modelled.roll_back(chosen, length - target);
          if (target >= least) {
            ASSERT_TRUE(status.ok()) << status.text();
          }
          if (status.ok()) {
            deep_rollbacks += target < least;
          } else {
            ++refused_rollbacks;
            ASSERT_EQ(status.code(), StatusCode::invalid_argument);
            ASSERT_EQ(state_of(pool, kLayers, 8), before);
          }
          break;
        }
        case 2: {
          if (!room) break;
          const auto least = static_cast<int>(modelled.reachable(chosen));
          const int target = pick(random, std::max(0, least - pick(random, 0, 9)), static_cast<int>(length));
          const Status status = modelled.fork(chosen, target);
          if (target >= least) {
            ASSERT_TRUE(status.ok()) << status.text();
          }
          ++forks;
          break;
        }
        case 3:
          if (pick(random, 0, 3) == 0) modelled.remove(chosen);
          break;
        case 4: {
          const Result<std::vector<std::byte>> snapshot = pool.snapshot(chosen);
          ASSERT_TRUE(snapshot.ok()) << snapshot.status().text();
          PagePoolOptions enough = pool_options_for(other_problem, 2, kMostTokens + 64, setting.rollback).value();
          enough.num_layers = kLayers;
          enough.rollback_tokens = 0;  // there, older rows come along than that pool would have kept
          ModelledPool other(other_problem, enough);
          ASSERT_TRUE(other.restore(snapshot.value(), modelled.tokens().at(chosen)).ok());
          const bool forked = other.fork(0, std::max<std::int64_t>(length - pick(random, 0, 3), 0)).ok();
          const int last = forked ? 1 : 0;
          (void)other.roll_back(last, pick(random, 0, 12));
          ASSERT_TRUE(other.step({last}, {pick(random, 1, 40)}).ok());
          if (forked) {
            ASSERT_TRUE(other.step({0}, {1}).ok());
          }
          if (!room) break;
          ASSERT_TRUE(modelled.restore(snapshot.value(), modelled.tokens().at(chosen)).ok());
          ++restores;
          break;
        }
        default: {
          const bool commit = pick(random, 0, 4) > 0;
          alive.resize(pick(random, 1, static_cast<int>(alive.size())));
          std::vector<int> sequences;
          std::vector<std::int64_t> counts;
          std::int64_t tokens_left = problem.num_tokens;
          for (const int sequence : alive) {
            const auto tokens = static_cast<std::int64_t>(modelled.tokens().at(sequence).size());
            const std::int64_t most = std::min(tokens_left, kMostTokens - tokens);
            if (most < 1) continue;
            const bool decode = pick(random, 0, 2) > 0;
            counts.push_back(pick(random, 1, static_cast<int>(decode ? std::min<std::int64_t>(most, 3) : most)));
            sequences.push_back(sequence);
            tokens_left -= counts.back();
          }
          if (sequences.empty()) break;
          std::vector<std::int64_t> free_before;
          for (int kind = 0; kind < kAllCaches; ++kind) free_before.push_back(pool.num_free_pages(kind));
          const Status status = modelled.step(sequences, counts, commit);
          ASSERT_TRUE(status.ok()) << status.text();
          if (!commit) {
            for (int kind = 0; kind < kAllCaches; ++kind) ASSERT_EQ(pool.num_free_pages(kind), free_before[kind]);
          }
        }
      }
      if (testing::Test::HasFatalFailure()) return;
    }
    while (!modelled.tokens().empty()) modelled.remove(modelled.tokens().begin()->first);
    for (int kind = 0; kind < kAllCaches; ++kind)
      EXPECT_EQ(pool.num_free_pages(kind), all_free[kind]) << "leak in cache " << kind;
  }
  EXPECT_GT(forks, 20);  // the programs must have gone where they were meant to
  EXPECT_GT(restores, 20);
  EXPECT_EQ(refused_rollbacks > 0, setting.window > 1);  // a window of 1 needs no older row: nothing is out of reach
  EXPECT_GT(deep_rollbacks, 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, PagePoolPrograms,
                         testing::Values(Setting{0, 6, 4, 1, 0, 0}, Setting{0, 1, 1, 1, 3, 5},
                                         Setting{4, 6, 4, 2, 0, 0}, Setting{4, 6, 4, 11, 1, 0},
                                         Setting{4, 9, 2, 7, 5, 3}, Setting{16, 6, 4, 1, 0, 1},
                                         Setting{16, 20, 8, 40, 7, 0}),
                         [](const auto& tested) {
                           const Setting& s = tested.param;
                           return "ratio" + std::to_string(s.ratio) + "_window" + std::to_string(s.window) + "_page" +
                                  std::to_string(s.page_size) + "_rollback" + std::to_string(s.rollback);
                         });

}  // namespace
}  // namespace fathom
