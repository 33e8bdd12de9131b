// The selection against a sort: rows that no threshold likes, NaN and ties, any number kept.
#include "index/running_picks_cpu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "simd/loops.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

std::vector<std::int32_t> sorted_picks(const std::vector<float>& scores, std::int64_t topk) {
  std::vector<std::uint64_t> keys;
  for (std::size_t j = 0; j < scores.size(); ++j) keys.push_back(pick_key(scores[j], static_cast<std::uint32_t>(j)));
  std::sort(keys.rbegin(), keys.rend());
  std::vector<std::int32_t> picks;
  for (std::size_t k = 0; k < keys.size() && static_cast<std::int64_t>(k) < topk; ++k)
    picks.push_back(static_cast<std::int32_t>(picked_entry(keys[k])));
  std::sort(picks.begin(), picks.end());
  picks.resize(topk, -1);
  return picks;
}

std::vector<std::int32_t> running_picks(const std::vector<float>& scores, std::int64_t topk, std::int64_t block) {
  std::vector<std::uint64_t> keys(RunningPicks::room(topk)), words(set_words(static_cast<std::int64_t>(scores.size())));
  RunningPicks picks(keys.data(), topk);
  const auto count = static_cast<std::int64_t>(scores.size());
  for (std::int64_t j = 0; j < count; j += block) {
    picks.take(simd::best_loops().above, scores.data() + j, std::min(block, count - j), static_cast<std::int32_t>(j));
  }
  std::vector<std::int32_t> out(topk, 99);
  emit_ascending(keys.data(), picks.finish(), count, words.data(), topk, out.data());
  return out;
}

std::vector<std::pair<const char*, std::vector<float>>> rows() {
  constexpr int kCount = 9000;
  test::Random random(3);
  std::vector<float> drawn(kCount), rising(kCount), falling(kCount), equal(kCount, 0.5f), two(kCount), nan(kCount, NAN),
      mixed(kCount), tiny(kCount);
  for (int j = 0; j < kCount; ++j) {
    drawn[j] = random.next();
    rising[j] = static_cast<float>(j);
    falling[j] = static_cast<float>(-j);
    two[j] = j % 3 == 0 ? 1.0f : 0.0f;
    mixed[j] = j % 7 == 0    ? NAN
               : j % 5 == 0  ? -0.0f
               : j % 11 == 0 ? std::numeric_limits<float>::infinity()
                             : random.next();
    tiny[j] = static_cast<float>(random.below(4)) * 1e-45f;
  }
  std::vector<float> late = nan;
  late[8999] = -3;
  return {{"drawn", drawn},
          {"rising", rising},
          {"falling", falling},
          {"equal", equal},
          {"two values", two},
          {"all NaN", nan},
          {"one number among NaN", late},
          {"mixed", mixed},
          {"denormal", tiny},
          {"none", {}},
          {"one", {5}}};
}

TEST(RunningPicks, AgreeWithASort) {
  for (const auto& [name, scores] : rows()) {
    for (const std::int64_t topk : {1, 2, 100, 512, 4096, 10000}) {
      for (const std::int64_t block : {std::int64_t{100}, RunningPicks::kBlock}) {
        EXPECT_EQ(running_picks(scores, topk, block), sorted_picks(scores, topk))
            << name << ", " << topk << " of them, blocks of " << block;
      }
    }
  }
}

TEST(KeepBest, LeavesTheWorstOfTheBestLast) {
  test::Random random(4);
  for (const std::int64_t count : {1, 2, 3, 100, 2000}) {
    for (const std::uint64_t range : {std::uint64_t{3}, std::uint64_t{1} << 20, ~std::uint64_t{0}}) {
      for (const std::int64_t topk : {std::int64_t{1}, count / 2 + 1, count, count + 5}) {
        std::vector<std::uint64_t> keys(count);
        for (std::uint64_t& key : keys)
          key = static_cast<std::uint64_t>(random.below(1ll << 40)) * 0x9e3779b97f4a7c15u % range;
        std::vector<std::uint64_t> expected = keys;
        std::sort(expected.rbegin(), expected.rend());
        expected.resize(std::min(topk, count));
        ASSERT_EQ(keep_best(keys.data(), count, topk), std::min(topk, count));
        keys.resize(expected.size());
        EXPECT_TRUE(topk > count || keys.back() == expected.back()) << count << " " << range << " " << topk;
        std::sort(keys.rbegin(), keys.rend());
        EXPECT_EQ(keys, expected) << count << " " << range << " " << topk;
      }
    }
  }
}

}  // namespace
}  // namespace fathom
