// The whole layer on a GPU beside the CPU, and the invariants that a pool in device memory must keep. Bits are compared
// where both sides took steps of equal sizes: another size may take another kernel.
#include "fathom/layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "harness/gpu.h"
#include "support/cuda.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

using test::Session;
using test::TinyLayer;

/// compress_ratio, numerics, and what weights are stored as: tensor cores refuse f32.
class CudaLayer : public testing::TestWithParam<std::tuple<int, Numerics, DType>> {
 protected:
  static constexpr std::int64_t kTokens = 50;
  TinyLayer tiny{std::get<0>(GetParam()), std::get<1>(GetParam()), 1, std::get<2>(GetParam())};

  Session session_on(const Device& device, TinyLayer& layer) const {
    return {layer, pool_options_for(layer.problem, 8, TinyLayer::kPositions, 8).value(), device};
  }
  Session session_on(const Device& device) { return session_on(device, tiny); }
  static int prefilled(Session& session, const std::vector<std::int64_t>& counts) {
    const int sequence = session.add();
    for (const std::int64_t count : counts) session.step({{sequence, 0, count}});
    return sequence;
  }
  /// Results of stream 0 after these steps and nothing else.
  std::map<std::int64_t, std::vector<float>> expected(const Device& device, const std::vector<std::int64_t>& counts) {
    Session session = session_on(device);
    prefilled(session, counts);
    return session.results[0];
  }
  void expect_near(std::map<std::int64_t, std::vector<float>>& got, std::map<std::int64_t, std::vector<float>>& wanted) const {
    const double bound = tiny.problem.numerics == Numerics::exact ? 1e-5 : 2e-2;
    double difference = 0, size = 0;
    ASSERT_EQ(got.size(), wanted.size());
    for (const auto& [t, row] : wanted) {
      for (std::size_t c = 0; c < row.size(); ++c) {
        difference += std::pow(got.at(t)[c] - row[c], 2);
        size += std::pow(row[c], 2);
      }
    }
    EXPECT_GT(size, 0);
    EXPECT_LE(std::sqrt(difference / size), bound);
  }
};

TEST_P(CudaLayer, AgreesWithTheCpuHoweverItIsSplit) {
  FATHOM_NEEDS_CUDA(gpu);
  for (const std::vector<std::int64_t>& counts : {std::vector<std::int64_t>{kTokens}, std::vector<std::int64_t>(kTokens, 1), {7, 1, 1, 1, 40}}) {
    auto wanted = expected(test::cpu(), counts), got = expected(gpu, counts);
    expect_near(got, wanted);
  }
}

TEST_P(CudaLayer, ItsStagesOneByOneAreTheLayer) {
  FATHOM_NEEDS_CUDA(gpu);
  Session staged = session_on(gpu);
  staged.stage_by_stage = true;
  prefilled(staged, {21, 1, 28});
  EXPECT_EQ(staged.results[0], expected(gpu, {21, 1, 28}));
}

// Raw queries and unrotated results pass from stage to stage, unless the caller looks at what attend gave.
TEST_P(CudaLayer, WhoAsksForAttnOutGetsTheSameBits) {
  FATHOM_NEEDS_CUDA(gpu);
  const LayerPlan plan = plan_layer(tiny.problem, gpu).value();
  bool is_fused = false;
  for (const LayerStage& stage : layer_stages(plan)) {
    if (std::string(stage.title) == "attend")
      is_fused = AttendPlan(stage.plan).problem().out_form == OutForm::unrotated;
  }
  EXPECT_TRUE(is_fused);
  for (const bool stage_by_stage : {false, true}) {
    Session shown = session_on(gpu);
    shown.with_attn_out = true;
    shown.stage_by_stage = stage_by_stage;
    prefilled(shown, {20, 1, 1, 28});
    EXPECT_EQ(shown.results[0], expected(gpu, {20, 1, 1, 28}));
  }
}

TEST_P(CudaLayer, PageSizesAndPageOrderDoNotMatter) {
  FATHOM_NEEDS_CUDA(gpu);
  const auto wanted = expected(gpu, {20, 1, 1, 28});
  for (const int page_size : {1, 3, 256}) {
    TinyLayer other(tiny.problem.compress_ratio, tiny.problem.numerics, 1, tiny.problem.wq_a_dtype);
    other.problem.window_page_size = page_size;
    other.problem.entries_page_size = page_size + 1;
    other.problem.index_page_size = page_size + 2;
    other.problem.state_page_size = page_size;
    other.problem.index_state_page_size = page_size + 3;
    PagePoolOptions options = pool_options_for(other.problem, 2, kTokens, 2).value();
    options.page_order_seed = 77;
    Session session(other, options, gpu);
    prefilled(session, {20, 1, 1, 28});
    EXPECT_EQ(session.results[0], wanted) << "page size " << page_size;
  }
}

TEST_P(CudaLayer, RejectedDraftsLeaveNoTrace) {
  FATHOM_NEEDS_CUDA(gpu);
  Session session = session_on(gpu);
  const int sequence = prefilled(session, {21});
  std::vector<std::int64_t> counts{21};
  for (std::int64_t at = 21; at < kTokens; at += counts.back()) {
    session.step({{sequence, 3, 6}});
    ASSERT_TRUE(session.pool.roll_back(sequence, 6).ok());
    counts.push_back(std::min<std::int64_t>(at % 3 + 1, kTokens - at));
    session.step({{sequence, 0, counts.back()}});
  }
  EXPECT_EQ(session.results[0], expected(gpu, counts));
}

TEST_P(CudaLayer, ForksShareAPastAndGoTheirOwnWay) {
  FATHOM_NEEDS_CUDA(gpu);
  Session plain = session_on(gpu);
  const int alone = prefilled(plain, {30});
  ASSERT_TRUE(plain.pool.roll_back(alone, 3).ok());
  for (const std::int64_t count : {1, 22}) plain.step({{alone, 0, count}});

  Session session = session_on(gpu);
  const int parent = prefilled(session, {30});
  const int child = session.pool.fork(parent, 27).value();
  session.step({{parent, 3, 20}});  // the parent leaves the stream, into pages it shared
  session.step({{child, 0, 1}});
  session.step({{parent, 3, 2}});
  session.step({{child, 0, 22}});
  EXPECT_EQ(session.results[0], plain.results[0]);
}

TEST_P(CudaLayer, SnapshotsGoRoundBetweenGpuAndCpu) {
  FATHOM_NEEDS_CUDA(gpu);
  Session session = session_on(gpu), other = session_on(gpu), on_cpu = session_on(test::cpu());
  const int sequence = prefilled(session, {23});
  const std::vector<std::byte> bytes = session.pool.snapshot(sequence).value();
  const int restored = other.pool.restore(bytes).value();
  EXPECT_EQ(other.pool.snapshot(restored).value(), bytes);
  const int on_the_cpu = on_cpu.pool.restore(bytes).value();
  EXPECT_EQ(on_cpu.pool.snapshot(on_the_cpu).value(), bytes);
  other.results = session.results;
  on_cpu.results = session.results;
  other.step({{restored, 0, 27}});
  on_cpu.step({{on_the_cpu, 0, 27}});
  auto wanted = expected(gpu, {23, 27});
  EXPECT_EQ(other.results[0], wanted);
  expect_near(on_cpu.results[0], wanted);
}

// A decode step is captured once, over the batch of the first, and replayed: the pool's arrays must stay where they
// are.
TEST_P(CudaLayer, AGraphOfADecodeStepServesTheStepsToCome) {
  FATHOM_NEEDS_CUDA(gpu);
  constexpr std::int64_t kPrefill = 20, kDecode = 300;
  tiny.problem.max_entries = 128;
  Session fresh = session_on(gpu), replayed = session_on(gpu);
  const int fresh_sequence = prefilled(fresh, {kPrefill}), sequence = prefilled(replayed, {kPrefill});

  const LayerPlan plan = plan_layer(tiny.problem, gpu).value();
  const auto workspace = harness::PlanWorkspace::create(plan).value();
  cli::DeviceCopies copies(gpu);
  LayerArgs args;
  args.rope_table = copies.of(tiny.rope_table).value();
  args.weights = copies.of(tiny.weights).value();
  args.caches = replayed.pool.caches(0);
  const TensorView first_x = tiny.hidden(0, 0, 1);
  args.x = copies.of(first_x).value();
  const auto out = cli::DeviceRows::create(gpu, tiny.problem.out_dtype, 1, 32).value();
  args.out = out.view(1, {32});
  std::optional<harness::GpuGraph> graph;
  for (std::int64_t i = 0; i < kDecode; ++i) {
    fresh.step({{fresh_sequence, 0, 1}});
    args.batch = replayed.pool.begin_step(std::vector<int>{sequence}, std::vector<std::int64_t>{1}).value();
    ASSERT_TRUE(
        copy_bytes(gpu, args.x.data, tiny.hidden(0, kPrefill + i, 1).data, bytes_of(args.x.dtype, args.x.numel()))
            .ok());
    ASSERT_TRUE(synchronize(gpu).ok());
    if (!graph) {
      auto captured = harness::GpuGraph::capture(
          gpu, [&](Stream stream, const auto&) { return layer(plan, args, workspace.get(), stream); });
      ASSERT_TRUE(captured.ok()) << captured.status().text();
      graph.emplace(std::move(captured).value());
    }
    ASSERT_TRUE(graph->replay().ok());
    std::vector<float> row(32);
    ASSERT_TRUE(out.read_floats(1, row.data()).ok());
    ASSERT_EQ(row, fresh.results[0].at(kPrefill + i)) << "decode step " << i;
    ASSERT_TRUE(replayed.pool.commit().ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaLayer,
                         testing::Combine(testing::Values(0, 4, 16), testing::Values(Numerics::exact, Numerics::served),
                                          testing::Values(DType::f32)));
INSTANTIATE_TEST_SUITE_P(Bf16Weights, CudaLayer,
                         testing::Combine(testing::Values(0, 4, 16), testing::Values(Numerics::served),
                                          testing::Values(DType::bf16)));

}  // namespace
}  // namespace fathom
