// The whole layer: invariants that must hold whatever the numbers are (spec 10.3). Equalities are bitwise, because the CPU
// implementations sum every result in one fixed order.
#include "fathom/layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "support/tiny_layer.h"

namespace fathom {
namespace {

using test::Part;
using test::Session;
using test::TinyLayer;

/// Ratio and numerics.
class Layer : public testing::TestWithParam<std::tuple<int, Numerics>> {
 protected:
  static constexpr std::int64_t kTokens = 50;
  TinyLayer tiny{std::get<0>(GetParam()), std::get<1>(GetParam())};

  std::vector<float> prefill(Session& session, int stream, std::int64_t tokens = kTokens) {
    return session.step({{session.add(), stream, tokens}});
  }
  /// Results of a plain prefill, for comparison.
  std::map<std::int64_t, std::vector<float>> expected(int stream) {
    Session session(tiny);
    prefill(session, stream);
    return session.results[stream];
  }
  int ratio() const { return tiny.problem.compress_ratio; }
};

TEST_P(Layer, EverySplitIntoChunksGivesTheSameBits) {
  Session whole(tiny);
  prefill(whole, 0);
  for (const std::vector<std::int64_t>& chunks : {std::vector<std::int64_t>(kTokens, 1), {7, 1, 1, 1, 40}, {3, 20, 27}, {49, 1}}) {
    Session split(tiny);
    const int sequence = split.add();
    for (const std::int64_t count : chunks) split.step({{sequence, 0, count}});
    EXPECT_EQ(split.results[0], whole.results[0]);
    for (int cache = 1; cache <= (ratio() == 0 ? 0 : ratio() == 4 ? 2 : 1); ++cache) {
      EXPECT_EQ(split.rows(sequence, cache, kTokens / ratio()), whole.rows(0, cache, kTokens / ratio()));
    }
  }
}

TEST_P(Layer, PageSizesAndPageOrderDoNotMatter) {
  const auto reference = expected(0);
  for (const int page_size : {1, 2, 3, 16, 256}) {
    TinyLayer other(ratio(), tiny.problem.numerics);
    other.problem.window_page_size = page_size;
    other.problem.entries_page_size = page_size + 1;
    other.problem.index_page_size = page_size + 2;
    other.problem.state_page_size = page_size;
    other.problem.index_state_page_size = page_size + 3;
    PagePoolOptions options = pool_options_for(other.problem, 2, kTokens, 2).value();
    options.page_order_seed = 77;
    Session session(other, options);
    const int sequence = session.add();
    for (const std::int64_t count : {20, 1, 1, 28}) session.step({{sequence, 0, count}});
    EXPECT_EQ(session.results[0], reference) << "page size " << page_size;
  }
}

TEST_P(Layer, BatchCompositionDoesNotMatter) {
  const auto a = expected(0), b = expected(1), c = expected(2);
  Session session(tiny);
  const int first = session.add(), second = session.add(), third = session.add();
  session.step({{second, 1, 13}});
  session.step({{first, 0, 30}, {second, 1, 1}});
  session.step({{third, 2, 17}, {first, 0, 4}, {second, 1, 36}});  // prefill, several query tokens, chunk
  session.step({{first, 0, 16}, {third, 2, 33}});
  EXPECT_EQ(session.results[0], a);
  EXPECT_EQ(session.results[1], b);
  EXPECT_EQ(session.results[2], c);
}

TEST_P(Layer, ThreadCountDoesNotMatter) {
  const auto reference = expected(0);
  for (const int threads : {1, 3, 7}) {
    Session session(tiny, pool_options_for(tiny.problem, 1, kTokens).value(), "", threads);
    prefill(session, 0);
    EXPECT_EQ(session.results[0], reference) << threads << " threads";
  }
}

TEST_P(Layer, RejectedDraftsLeaveNoTrace) {
  const auto reference = expected(0);
  Session session(tiny);
  const int sequence = session.add();
  session.step({{sequence, 0, 21}});
  for (std::int64_t at = 21; at < kTokens;) {
    session.step({{sequence, 3, 6}});  // six tokens of another stream, all wrong
    ASSERT_TRUE(session.pool.roll_back(sequence, 6).ok());
    const std::int64_t kept = std::min<std::int64_t>(at % 3 + 1, kTokens - at);
    session.step({{sequence, 0, kept}});
    at += kept;
  }
  EXPECT_EQ(session.results[0], reference);
}

TEST_P(Layer, ForksShareAPastAndGoTheirOwnWay) {
  const auto reference = expected(0);
  Session session(tiny);
  const int parent = session.add();
  session.step({{parent, 0, 30}});
  const int child = session.pool.fork(parent, 27).value();
  session.step({{parent, 3, 20}});  // the parent leaves the stream, into pages it shared
  session.step({{child, 0, 1}});
  session.step({{child, 0, 22}, {parent, 3, 2}});
  EXPECT_EQ(session.results[0], reference);
}

TEST_P(Layer, SnapshotAndRestoreAreInvisible) {
  const auto reference = expected(0);
  Session session(tiny), other(tiny);
  const int sequence = session.add();
  session.step({{sequence, 0, 23}});
  const std::vector<std::byte> bytes = session.pool.snapshot(sequence).value();
  session.step({{sequence, 3, 9}});
  ASSERT_TRUE(session.pool.remove_sequence(sequence).ok());
  other.results = session.results;
  const int restored = other.pool.restore(bytes).value();
  other.step({{restored, 0, 27}});
  EXPECT_EQ(other.results[0], reference);
}

TEST_P(Layer, AnAbandonedStepLeavesNoTrace) {
  const auto reference = expected(0);
  Session session(tiny);
  const int sequence = session.add();
  session.step({{sequence, 0, 10}});
  session.run({{sequence, 3, 30}});
  session.pool.abandon();
  session.step({{sequence, 0, 40}});
  EXPECT_EQ(session.results[0], reference);
}

TEST_P(Layer, TheReferencesAgree) {
  const auto fast = expected(0);
  Session slow(tiny, pool_options_for(tiny.problem, 1, kTokens).value(),
               "project=reference compress=reference index_query=reference index=reference attend=reference output=reference");
  prefill(slow, 0);
  const double bound = tiny.problem.numerics == Numerics::exact ? 1e-5 : 2e-2;
  double difference = 0, size = 0;
  for (const auto& [t, row] : slow.results[0]) {
    for (int c = 0; c < 32; ++c) {
      difference += std::pow(row[c] - fast.at(t)[c], 2);
      size += std::pow(row[c], 2);
    }
  }
  EXPECT_LE(std::sqrt(difference / size), bound);
  EXPECT_GT(size, 0);
}

TEST_P(Layer, ItsStagesOneByOneAreTheLayer) {
  const auto reference = expected(0);
  Session staged(tiny);
  staged.stage_by_stage = true;
  const int sequence = staged.add();
  for (const std::int64_t count : {21, 1, 28}) staged.step({{sequence, 0, count}});
  EXPECT_EQ(staged.results[0], reference);
}

TEST_P(Layer, PaddingTokensWriteNothingAndGiveZero) {
  Session session(tiny);
  const int sequence = session.add();
  session.step({{sequence, 0, 9}});
  const std::int64_t entries = ratio() > 0 ? 9 / ratio() : 0;
  const auto before = entries > 0 ? session.rows(sequence, 1, entries) : std::vector<float>();
  auto batch = session.pool.begin_step(std::vector<int>{sequence}, std::vector<std::int64_t>{5});
  ASSERT_TRUE(batch.ok());
  std::vector<std::int32_t> padded(5, -1);
  LayerArgs args;
  args.x = tiny.hidden(0, 9, 5);
  args.rope_table = tiny.rope_table;
  args.weights = tiny.weights;
  args.caches = session.pool.caches(0);
  args.batch = batch.value();
  args.batch.positions = view(padded.data(), DType::i32, {5});
  std::vector<float> out(5 * 32, NAN);
  args.out = view(out.data(), tiny.problem.out_dtype, {5, 32});
  ASSERT_EQ(test::run_with("", tiny.problem, args), "");
  for (std::int64_t i = 0; i < 5 * 32; ++i) EXPECT_EQ(load_f32(args.out, i), 0);
  session.pool.abandon();
  if (entries > 0) {
    EXPECT_EQ(session.rows(sequence, 1, entries), before);
  }
  Session plain(tiny);
  prefill(plain, 0, 20);
  session.step({{sequence, 0, 11}});
  EXPECT_EQ(session.results[0], plain.results[0]);
}

TEST(LayerStages, AreThoseOfTheKindInOrder) {
  const auto titles = [](int ratio) {
    const LayerPlan plan = plan_layer(TinyLayer(ratio, Numerics::served).problem, test::cpu(), {"attend=reference"}).value();
    std::vector<std::string> names;
    for (const LayerStage& stage : layer_stages(plan)) {
      names.emplace_back(stage.title);
      const std::string name = stage.plan.implementation();
      EXPECT_EQ(name.substr(0, 3), names.back() == "attend" ? "ref" : "cpu") << names.back() << ": " << name;
    }
    return names;
  };
  using Titles = std::vector<std::string>;
  EXPECT_EQ(titles(0), (Titles{"project", "attend", "output"}));
  EXPECT_EQ(titles(16), (Titles{"project", "compress (entries)", "attend", "output"}));
  EXPECT_EQ(titles(4), (Titles{"project", "compress (entries)", "compress (index keys)", "index_query", "index", "attend", "output"}));
}

TEST(LayerStages, RunWithTheLayersChecks) {
  TinyLayer tiny(0, Numerics::exact);
  const LayerPlan plan = plan_layer(tiny.problem, test::cpu()).value();
  EXPECT_STREQ(run_layer_stage(plan, 3, {}, {}).text(), "layer: stage is 3, expected one of the plan's 3");
  EXPECT_STREQ(run_layer_stage(plan, 0, {}, {}).text(), "layer: x is missing");
  EXPECT_EQ(run_layer_stage({}, 0, {}, {}).code(), StatusCode::invalid_argument);
  EXPECT_TRUE(layer_stages({}).empty());
  // A plan of another op in a layer plan's clothes.
  const LayerPlan other(plan_linear({.in_dim = 1, .out_dim = 1}, test::cpu()).value());
  EXPECT_TRUE(layer_stages(other).empty());
  EXPECT_EQ(run_layer_stage(other, 0, {}, {}).code(), StatusCode::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Layer, testing::Combine(testing::Values(0, 4, 16), testing::Values(Numerics::exact, Numerics::served)));

TEST(LayerIdentities, BeforeTheFirstEntryALayerIsItsWindow) {
  // Same weights, same rotary table: without entries nothing but the window is left (10.3, 5).
  for (const int ratio : {4, 16}) {
    TinyLayer compressed(ratio, Numerics::served), window(0, Numerics::served);
    window.rope_table = compressed.rope_table;
    Session a(compressed), b(window);
    a.step({{a.add(), 0, 40}});
    b.step({{b.add(), 0, 40}});
    for (std::int64_t t = 0; t < ratio - 1; ++t) EXPECT_EQ(a.results[0][t], b.results[0][t]) << "ratio " << ratio << " token " << t;
    EXPECT_NE(a.results[0][ratio - 1], b.results[0][ratio - 1]) << "the closing token sees its entry";
  }
}

TEST(LayerIdentities, TopkBeyondTheVisibleEntriesChangesNothing) {
  TinyLayer wide(4, Numerics::served), wider(4, Numerics::served);
  wide.problem.index_topk = 12;
  wider.problem.index_topk = 64;
  Session a(wide), b(wider);
  a.step({{a.add(), 0, 48}});
  b.step({{b.add(), 0, 48}});
  EXPECT_EQ(a.results[0], b.results[0]);
}

TEST(LayerIdentities, ShiftingAllPositionsChangesOnlyRounding) {
  // Only differences of positions reach the output (10.3, 6): a window layer, by hand, at positions 0.. and 128...
  TinyLayer tiny(0, Numerics::exact);
  tiny.problem.window_page_size = 1;
  constexpr std::int64_t kCount = 20;
  std::vector<std::byte> pages(kCount * 2048);
  std::vector<float> results[2];
  for (const std::int32_t shift : {0, 128}) {
    std::vector<std::int32_t> positions, begin, end, table(static_cast<std::size_t>(shift), -1), seqs(kCount, 0);
    std::vector<std::int64_t> slots;
    for (std::int32_t t = 0; t < kCount; ++t) {
      positions.push_back(shift + t);
      begin.push_back(shift + std::max(0, t - 7));
      end.push_back(shift + t + 1);
      slots.push_back(t);
      table.push_back(t);
    }
    LayerArgs args;
    args.x = tiny.hidden(0, 0, kCount);
    args.rope_table = tiny.rope_table;
    args.weights = tiny.weights;
    args.caches.window = view(pages.data(), DType::u8, {kCount, 2048});
    args.batch.positions = view(positions.data(), DType::i32, {kCount});
    args.batch.seq_ids = view(seqs.data(), DType::i32, {kCount});
    args.batch.window_begin = view(begin.data(), DType::i32, {kCount});
    args.batch.window_end = view(end.data(), DType::i32, {kCount});
    args.batch.window_slots = view(slots.data(), DType::i64, {kCount});
    args.batch.window_table = view(table.data(), DType::i32, {1, static_cast<std::int64_t>(table.size())});
    std::vector<float>& out = results[shift / 128];
    out.assign(kCount * 32, NAN);
    args.out = view(out.data(), DType::f32, {kCount, 32});
    ASSERT_EQ(test::run_with("", tiny.problem, args), "");
  }
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < results[0].size(); ++i) {
    difference += std::pow(results[0][i] - results[1][i], 2);
    size += std::pow(results[0][i], 2);
  }
  EXPECT_GT(size, 0);
  EXPECT_LE(std::sqrt(difference / size), 3e-5);
}

}  // namespace
}  // namespace fathom
