// index and select_topk on CUDA where the case files do not reach: rows of many segments, chunks of tokens, bytes that no
// quantiser writes.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "fathom/index.h"
#include "harness/compare.h"
#include "harness/conformance.h"
#include "harness/random.h"
#include "harness/run.h"
#include "support/cuda.h"

namespace fathom::harness {
namespace {

void all_agree(std::string_view op, const Device& device, const std::vector<std::string>& cases) {
  for (const Tally& tally : check_cases(op, cases, device)) {
    for (const std::string& failure : tally.failures) ADD_FAILURE() << failure;
    // The warpgroup's product has 64 columns, and reads FP4 keys: the rest is the other kernels'.
    const auto others = std::count_if(cases.begin(), cases.end(), [](const std::string& text) {
      return text.find("index_heads=128") != std::string::npos || text.find("index_e4m3_f32") != std::string::npos;
    });
    EXPECT_EQ(tally.refused, tally.implementation == "cuda:sm90" ? others : 0) << tally.implementation;
    EXPECT_EQ(tally.agreeing + tally.refused, static_cast<std::int64_t>(cases.size())) << tally.implementation;
  }
}

// One segment and just over, many; picks that outnumber a segment; ties and NaN across segments; rows that end early.
TEST(CudaSelectTopk, RowsOfManySegments) {
  FATHOM_NEEDS_CUDA(device);
  all_agree("select_topk", device,
            {"num_tokens=3 num_scores=2047 topk=100 seed=1", "num_tokens=3 num_scores=2049 topk=2048 seed=2",
             "num_tokens=3 num_scores=8192 topk=512 seed=3", "num_tokens=3 num_scores=8193 topk=512 seed=4",
             "num_tokens=3 num_scores=8193 topk=8193 seed=5", "num_tokens=2 num_scores=262144 topk=512 seed=6",
             "num_tokens=2 num_scores=262144 topk=1024 ties=1 seed=7", "num_tokens=5 num_scores=30000 topk=512 nans=1 seed=8",
             "num_tokens=5 num_scores=30000 topk=29000 nans=1 seed=9", "num_tokens=9 num_scores=100000 topk=1 hostile=1 seed=10",
             "num_tokens=9 num_scores=100001 topk=4096 holes=1 ties=1 seed=11", "num_tokens=1 num_scores=1048576 topk=4096 ties=1 seed=12",
             "num_tokens=2 num_scores=50001 topk=2000 strided=1 seed=13", "num_tokens=300 num_scores=9000 topk=7 seed=14",
             "num_tokens=1 num_scores=300000 topk=100000 seed=15", "num_tokens=1 num_scores=0 topk=3 seed=16"});
}

// Neighbouring tokens of one sequence and of several, entries beyond a segment, more tokens than a chunk of scratch holds,
// contexts that are picked whole.
TEST(CudaIndex, LongRowsAndManyTokens) {
  FATHOM_NEEDS_CUDA(device);
  std::vector<std::string> cases;
  for (const char* format : {"index_e4m3_f32", "index_e2m1_ue8m0"}) {
    for (const char* sizes :
         {"num_tokens=2 num_seqs=2 index_heads=8 topk=64 context=80000 max_entries=30000 outputs=1 seed=1",
          "num_tokens=2 num_seqs=2 index_heads=8 topk=64 context=80000 max_entries=30000 outputs=0 seed=2",
          "num_tokens=37 num_seqs=1 index_heads=8 topk=32 context=900 max_entries=4000 outputs=1 seed=3",
          "num_tokens=50 num_seqs=7 index_heads=20 topk=32 context=700 max_entries=4000 outputs=1 seed=4",
          "num_tokens=9 num_seqs=5 index_heads=128 topk=32 context=700 page_size=3 max_entries=4000 outputs=1 seed=5",
          "num_tokens=40 num_seqs=4 index_heads=8 topk=100 context=600 holes=1 max_entries=4000 outputs=0 seed=6",
          "num_tokens=40 num_seqs=4 index_heads=8 topk=10 context=600 hostile=1 max_entries=4000 strided=1 outputs=1 seed=7",
          "num_tokens=40 num_seqs=40 index_heads=64 topk=20 context=600 max_entries=4194304 outputs=1 seed=8"}) {
      cases.push_back(std::string(sizes) + " format=" + format);
    }
  }
  all_agree("index", device, cases);
}

// A kernel's limit of shared memory is one for the whole process: a plan that needs less must not take another's away.
TEST(CudaIndex, PlanningAnotherLeavesAPlanAsItIs) {
  FATHOM_NEEDS_CUDA(device);
  const OpCase large =
      make_case("index", "num_tokens=8 num_seqs=1 index_heads=64 topk=8 context=200 outputs=1").value();
  const OpCase small = make_case("index", "num_tokens=8 num_seqs=1 index_heads=8 topk=8 context=200").value();
  const auto plan_of = [&](const OpCase& built) {
    return std::move(plan_problem(*built.op, built.problem.data(), device, {"cuda:sm80"})).value();
  };
  const AnyPlan plan = plan_of(large);
  const WatchedRun expected = run_case(large, plan, kPoisons[0]);
  ASSERT_TRUE(expected.ok()) << expected.problem_text();
  plan_of(small);
  const auto again = [&] {
    const WatchedRun run = run_case(large, plan, kPoisons[1]);
    const char* different = run.ok() ? first_difference(large, run, expected) : nullptr;
    return run.ok() ? std::string(different == nullptr ? "" : different) : run.problem_text();
  };
  EXPECT_EQ(again(), "");

  std::atomic<bool> is_done = false;
  std::thread planner([&] {
    while (!is_done) plan_of(small), plan_of(large);
  });
  for (int i = 0; i < 30; ++i) EXPECT_EQ(again(), "");
  is_done = true;
  planner.join();
}

/// Codes of every kind, NaN among them, and scales that no quantiser gives. Sums stay inside f32, so that the order of
/// operations cannot show.
void spoil(OpCase& built) {
  Random random(99);
  const auto& problem = built.problem_as<IndexProblem>();
  const bool is_e4m3 = problem.format == CacheFormat::index_e4m3_f32;
  const TensorView& pages = built.arg("index_cache").view;
  const std::int64_t row_bytes = is_e4m3 ? problem.index_dim : problem.index_dim / 2;
  const std::uint8_t bytes[] = {0, 1, 60, 126, 127, 128, 129, 130, 150, 255};
  const float scales[] = {0.0f, 1.0f, -1.0f, -0.25f, 64.0f, 0x1p-100f, 0x1p60f, std::numeric_limits<float>::quiet_NaN()};
  for_each_row(pages, [&](std::byte* page, std::int64_t) {
    for (std::int64_t i = 0; i < problem.page_size * row_bytes; ++i) {
      const auto byte = static_cast<std::uint8_t>(random.bits() & 0xff);
      page[i] = static_cast<std::byte>(is_e4m3 && (byte & 0x7f) == 0x7f && !random.chance(0.05) ? 0x11 : byte);
    }
    std::byte* footer = page + problem.page_size * row_bytes;
    for (std::int64_t i = 0; i < problem.page_size; ++i) {
      if (is_e4m3) std::memcpy(footer + 4 * i, &scales[random.below(std::size(scales))], 4);
      for (int k = 0; !is_e4m3 && k < problem.index_dim / 32; ++k) {
        // Blocks that overflow f32 beside each other would differ by the order of sums; most rows are of one size.
        footer[problem.index_dim / 32 * i + k] = static_cast<std::byte>(bytes[(i + (random.chance(0.05) ? k : 0)) % std::size(bytes)]);
      }
    }
  });
  built.args[built.index_of("index_cache")].checksum = built.arg("index_cache").block.checksum();
}

class SpoiltKeys : public testing::TestWithParam<const char*> {};

TEST_P(SpoiltKeys, ScoresAreTheReferences) {
  FATHOM_NEEDS_CUDA(device);
  const std::string text = std::string("num_tokens=3 index_heads=16 topk=32 context=900 max_entries=400 page_size=32 outputs=1 seed=5 format=") + GetParam();
  auto built = make_case("index", text);
  ASSERT_TRUE(built.ok()) << built.status().text();
  spoil(built.value());
  const auto plan_on = [&](const Device& where, const char* implementation) {
    return plan_problem(*built->op, built->problem.data(), where, {implementation});
  };
  const auto reference = plan_on(Device::cpu(1).value(), "reference");
  ASSERT_TRUE(reference.ok());
  const WatchedRun expected = run_case(built.value(), reference.value(), kPoisons[0], true);
  ASSERT_TRUE(expected.ok()) << expected.problem_text();
  const TensorView& wanted = expected.views[built->index_of("scores")];
  for (const char* implementation : {"cuda:sm80", "cuda:simt"}) {
    const auto plan = plan_on(device, implementation);
    ASSERT_TRUE(plan.ok()) << plan.status().text();
    const WatchedRun run = run_case(built.value(), plan.value(), kPoisons[1]);
    ASSERT_TRUE(run.ok()) << run.problem_text();
    const TensorView& came = run.views[built->index_of("scores")];
    std::int64_t nans = 0;
    for (std::int64_t t = 0; t < wanted.shape[0]; ++t) {
      for (std::int64_t j = 0; j < wanted.shape[1]; ++j) {
        const float a = came.row<float>(t)[j], b = wanted.row<float>(t)[j];
        nans += std::isnan(b);
        ASSERT_TRUE(a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= 1e-3 * std::fabs(b) + 1e-4)
            << implementation << " token " << t << " entry " << j << ": " << a << ", expected " << b;
      }
    }
    EXPECT_GT(nans, 0) << "the case has lost what it is for";
  }
}
INSTANTIATE_TEST_SUITE_P(Formats, SpoiltKeys, testing::Values("index_e4m3_f32", "index_e2m1_ue8m0"),
                         [](const auto& format) { return std::string(format.param); });

}  // namespace
}  // namespace fathom::harness
