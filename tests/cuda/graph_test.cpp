// CUDA graphs as a contract: one plan, captured once, serves changed lengths, tables and contents. And one plan serves
// several streams and host threads at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <thread>

#include "cuda/case_series.h"
#include "harness/compare.h"
#include "harness/conformance.h"
#include "harness/device_case.h"
#include "harness/gpu.h"
#include "harness/plan_workspace.h"
#include "support/cuda.h"

namespace fathom::harness {
namespace {

constexpr int kReplays = 100, kFewCases = 20, kSharedCases = 4;

/// Small, so that the definition keeps up with a hundred cases; `tokens` brings fewer than the plan has room for. In
/// those of a few cases several blocks share a sum, a row or a query.
struct Text {
  const char* op;
  const char* text;
  int cases = kReplays;
};
constexpr Text kTexts[] = {
    {"attend",
     "num_tokens=5 num_seqs=3 num_heads=16 window_width=40 entries_rows=list entries_width=70 context=300 outputs=1 "
     "sink=1"},
    {"attend",
     "num_tokens=9 num_seqs=3 tokens=4 num_heads=64 window_width=128 entries_rows=range entries_width=100 "
     "entries_page_size=2 context=90 outputs=1",
     kFewCases},
    {"merge_partials", "num_tokens=6 num_heads=3 num_partials=4 outputs=1"},
    {"linear", "num_tokens=3 in_dim=256 out_dim=128 weight_dtype=e4m3 activation_quant=e4m3_128"},
    {"linear", "num_tokens=80 tokens=70 in_dim=128 out_dim=64"},
    {"project", "num_tokens=5 hidden_size=128 num_heads=2 q_rank=128 weight_dtype=e4m3 outputs=1"},
    {"compress", "num_tokens=9 num_seqs=2 hidden_size=64 context=30"},
    {"index_query", "num_tokens=4 tokens=3 hidden_size=64 q_rank=64 index_heads=2 outputs=1"},
    {"index", "num_tokens=5 num_seqs=2 index_heads=4 topk=8 context=200 outputs=1"},
    {"select_topk", "num_tokens=3 num_scores=300 topk=8"},
    {"output", "num_tokens=3 tokens=2 hidden_size=128 num_heads=2 output_groups=2 output_rank=64 weight_dtype=e4m3"},
    {"layer",
     "num_tokens=6 num_seqs=2 hidden_size=64 num_heads=2 q_rank=32 output_rank=16 window=8 compress_ratio=4 "
     "index_heads=2 index_topk=4 context=40 outputs=1",
     kFewCases},
    {"layer",
     "num_tokens=4 tokens=3 num_seqs=2 hidden_size=64 num_heads=2 q_rank=32 output_rank=16 window=8 compress_ratio=128 "
     "context=300 outputs=1",
     kFewCases},
    {"linear", "num_tokens=2 in_dim=4096 out_dim=64 weight_dtype=e4m3 activation_quant=e4m3_128", kSharedCases},
    {"index", "index_heads=2 topk=8 context=40000", kSharedCases},
    {"select_topk", "num_scores=20000 topk=8", kSharedCases},
    {"attend", "num_heads=64 window_width=128 entries_rows=list entries_width=512 outputs=1", kSharedCases},
    {"attend", "num_tokens=10 num_heads=64 window_width=128 entries_rows=list entries_width=512 outputs=1",
     kSharedCases},
    {"attend", "num_tokens=20 num_heads=64 window_width=128 entries_rows=list entries_width=512 outputs=1",
     kSharedCases},
};

struct GraphCase {
  std::string op, text, implementation;
  int cases;
};
void PrintTo(const GraphCase& graph_case, std::ostream* out) { *out << graph_case.op << " \"" << graph_case.text << "\""; }

/// Every CUDA implementation of the texts' ops; the lists are known without a GPU.
std::vector<GraphCase> all_graph_cases() {
  std::vector<GraphCase> all;
  for (const auto& [op, text, cases] : kTexts) {
    const auto built = read_case(op, text);
    if (!built.ok()) continue;
    const auto list = candidates(*built->op, built->problem.data(), Device::cpu(1).value());
    if (!list.ok()) continue;
    for (const Candidate& candidate : list.value()) {
      if (candidate.device == DeviceKind::cuda) all.push_back({op, text, candidate.implementation, cases});
    }
  }
  return all;
}

std::string test_name(const testing::TestParamInfo<GraphCase>& info) {
  std::string name = info.param.op + "_" + info.param.implementation + "_" + std::to_string(info.index);
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

AnyPlan reference_of(const OpCase& built) {
  std::string all;
  for (const OpSpec* op : op_table()) {
    if (std::string_view(op->name) != "layer") all += std::string(op->name) + "=reference ";
  }
  return plan_problem(*built.op, built.problem.data(), Device::cpu(2).value(), {all}).value();
}

TEST(CaseSeries, KeepsWhatACaseSays) {
  for (const auto& [op, text, cases] : kTexts) {
    const std::vector<OpCase> series = case_series(op, text, 3);
    ASSERT_GE(series.size(), 2u) << op << " \"" << text << "\"";
    for (const OpCase& built : series) {
      const AnyPlan plan = plan_problem(*built.op, built.problem.data(), Device::cpu(2).value()).value();
      const WatchedRun run = run_case(built, plan, kPoisons[0]), reference = run_case(built, reference_of(built), kPoisons[1], true);
      ASSERT_TRUE(run.ok() && reference.ok()) << run.problem_text() << reference.problem_text();
      EXPECT_EQ(compare(built, run, reference).failure(), "") << op << " \"" << built.text << "\"";
    }
  }
}

class CudaGraph : public testing::TestWithParam<GraphCase> {
 protected:
  /// The forced plan; empty if the implementation refuses the problem.
  static AnyPlan plan_of(const OpCase& built, const Device& device) {
    const auto plan = plan_problem(*built.op, built.problem.data(), device, {GetParam().op + "=" + GetParam().implementation});
    if (plan.ok()) return plan.value();
    EXPECT_EQ(plan.status().code(), StatusCode::unsupported) << plan.status().text();
    return {};
  }
  static std::vector<OpCase> cases() { return case_series(GetParam().op, GetParam().text, GetParam().cases); }
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaGraph);

TEST_P(CudaGraph, OneCaptureServesChangedCases) {
  FATHOM_NEEDS_CUDA(device);
  const std::vector<OpCase> series = cases();
  const AnyPlan plan = plan_of(series.front(), device);
  if (!plan) GTEST_SKIP() << GetParam().implementation << " refuses the problem";
  DeviceCase arguments = DeviceCase::create(series.front(), device).value();
  const PlanWorkspace memory = PlanWorkspace::create(plan).value();
  const Workspace& workspace = memory.get();
  const auto graph = GpuGraph::capture(device, [&](Stream stream, const auto&) { return run_op(plan, arguments.views(), workspace, stream); });
  ASSERT_TRUE(graph.ok()) << graph.status().text();
  std::vector<std::byte> counters(static_cast<std::size_t>(workspace.counters.bytes));
  std::vector<WatchedRun> expected, references;
  for (const OpCase& built : series) {
    expected.push_back(run_case(built, plan, kPoisons[0]));
    ASSERT_TRUE(expected.back().ok()) << expected.back().problem_text();
    references.push_back(run_case(built, reference_of(built), kPoisons[1], true));
    ASSERT_TRUE(references.back().ok()) << references.back().problem_text();
  }
  for (int i = 0; i < kReplays; ++i) {
    const std::size_t which = static_cast<std::size_t>(i) % series.size();
    const OpCase& built = series[which];
    ASSERT_TRUE(fill_bytes(device, workspace.scratch.data, std::byte{0xff}, workspace.scratch.bytes).ok());
    ASSERT_TRUE(arguments.fill(built, kPoisons[i % 2]).ok());
    const auto replayed = graph->replay();
    ASSERT_TRUE(replayed.ok()) << replayed.status().text();
    const WatchedRun run = arguments.read(built).value();
    const char* different = first_difference(built, run, expected[which]);
    ASSERT_EQ(different, nullptr) << "replay " << i << " of \"" << built.text << "\": " << different << " is not what a run without a graph gives";
    ASSERT_EQ(compare(built, run, references[which]).failure(), "") << "replay " << i << " of \"" << built.text << "\"";
    ASSERT_TRUE(copy_bytes(device, counters.data(), workspace.counters.data, workspace.counters.bytes).ok());
    ASSERT_TRUE(synchronize(device).ok());
    ASSERT_TRUE(std::all_of(counters.begin(), counters.end(), [](std::byte byte) { return byte == std::byte{0}; }));
  }
}

TEST_P(CudaGraph, OnePlanServesStreamsAndThreads) {
  FATHOM_NEEDS_CUDA(device);
  constexpr int kThreads = 6, kRuns = 20;
  const std::vector<OpCase> series = case_series(GetParam().op, GetParam().text, 5);
  const AnyPlan plan = plan_of(series.front(), device);
  if (!plan) GTEST_SKIP() << GetParam().implementation << " refuses the problem";
  std::vector<WatchedRun> expected;
  for (const OpCase& built : series) expected.push_back(run_case(built, plan, kPoisons[0]));
  std::vector<std::string> failures(kThreads);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const auto run_all = [&]() -> Status {
        FATHOM_ASSIGN(const GpuStream stream, GpuStream::create(device));
        FATHOM_ASSIGN(DeviceCase arguments, DeviceCase::create(series.front(), device));
        FATHOM_ASSIGN(const PlanWorkspace workspace, PlanWorkspace::create(plan));
        for (int i = 0; i < kRuns; ++i) {
          const std::size_t which = static_cast<std::size_t>(thread + i) % series.size();
          FATHOM_TRY(arguments.fill(series[which], kPoisons[i % 2]));
          FATHOM_TRY(run_op(plan, arguments.views(), workspace.get(), stream.get()));
          FATHOM_TRY(synchronize(device, stream.get()));
          FATHOM_ASSIGN(const WatchedRun run, arguments.read(series[which]));
          if (const char* name = first_difference(series[which], run, expected[which])) {
            return Status::device_error("%s differs from a run alone", name);
          }
        }
        return {};
      };
      failures[static_cast<std::size_t>(thread)] = run_all().text();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) EXPECT_EQ(failure, "");
}

INSTANTIATE_TEST_SUITE_P(All, CudaGraph, testing::ValuesIn(all_graph_cases()), test_name);

}  // namespace
}  // namespace fathom::harness
