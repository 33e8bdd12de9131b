// Every CUDA implementation of every op agrees with the reference on every line of cases/<op>/ci.txt.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "harness/case_file.h"
#include "harness/conformance.h"
#include "harness/device_case.h"
#include "harness/plan_workspace.h"
#include "support/cuda.h"

namespace fathom::harness {
namespace {

struct Pair {
  std::string op;
  std::string implementation;
};
void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.op << " " << pair.implementation; }

/// Every CUDA implementation in the lists: they are known without a GPU, so that what is skipped is counted.
std::vector<Pair> all_pairs() {
  std::vector<Pair> pairs;
  for (const OpSpec* op : op_table()) {
    const auto cases = read_cases(FATHOM_CASES_DIR, op->name, "ci");
    if (!cases.ok() || cases->empty()) continue;  // conformance_test.cpp fails then
    const auto built = make_case(op->name, cases->front());
    if (!built.ok()) continue;
    const auto all = candidates(*op, built->problem.data(), Device::cpu(1).value());
    if (!all.ok()) continue;
    for (const Candidate& candidate : all.value()) {
      if (candidate.device == DeviceKind::cuda) pairs.push_back({op->name, candidate.implementation});
    }
  }
  return pairs;
}

std::string test_name(const testing::TestParamInfo<Pair>& info) {
  std::string name = info.param.op + "_" + info.param.implementation;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

class CudaConformance : public testing::TestWithParam<Pair> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaConformance);

std::vector<std::string> cases_of(const Pair& pair, const char* set) {
  const auto cases = read_cases(FATHOM_CASES_DIR, pair.op, set);
  EXPECT_TRUE(cases.ok()) << cases.status().text();
  return cases.ok() ? cases.value() : std::vector<std::string>{};
}

/// What compute-sanitizer watches. attend's cuda:simt lets no two blocks share a query: the cases with many heads,
/// which are there for that, would tell nothing of it and take racecheck minutes.
std::vector<std::string> smoke_cases_of(const Pair& pair) {
  std::vector<std::string> cases = cases_of(pair, "smoke");
  if (pair.op == "attend" && pair.implementation == "cuda:simt") {
    std::erase_if(cases, [](const std::string& text) { return text.find("num_heads=64") != std::string::npos; });
  }
  return cases;
}

/// What a list of cases is to an implementation.
enum class Takes { some, none, any };
void agrees(const Device& device, const Pair& pair, const std::vector<std::string>& cases, Takes takes) {
  ASSERT_FALSE(cases.empty());
  std::int64_t agreeing = 0, refused = 0;
  for (const Tally& tally : check_cases(pair.op, cases, device, {{pair.op, pair.implementation}})) {
    for (const std::string& failure : tally.failures) ADD_FAILURE() << failure;
    if (tally.implementation != pair.implementation) continue;
    agreeing += tally.agreeing;
    refused += tally.refused;
  }
  std::printf("%s %s: %lld cases agree, %lld refused\n", pair.op.c_str(), pair.implementation.c_str(),
              static_cast<long long>(agreeing), static_cast<long long>(refused));
  if (takes == Takes::some) {
    EXPECT_GT(agreeing, 0) << pair.op << ": " << pair.implementation << " refuses every case";
  }
  if (takes == Takes::none) {
    EXPECT_EQ(agreeing, 0) << pair.op << ": " << pair.implementation;
    EXPECT_GT(refused, 0) << pair.op << ": " << pair.implementation;
  }
}

TEST_P(CudaConformance, AgreesWithTheReference) {
  FATHOM_NEEDS_CUDA(device);
  agrees(device, GetParam(), cases_of(GetParam(), "ci"), Takes::some);
}

// The smallest shared memory of all targets (sm_86, sm_89, sm_120): the same code, with their tiles. Hopper's own
// kernels refuse.
TEST_P(CudaConformance, AgreesWithinTheSmallestTargetsLimits) {
  FATHOM_NEEDS_CUDA(device);
  const std::string& name = GetParam().implementation;
  const bool is_hopper_only = name == "cuda:sm90" || name == "cuda:hopper";
  agrees(device.limited_to({.compute_capability = 86, .shared_bytes_per_block = 99 * 1024}), GetParam(),
         cases_of(GetParam(), "ci"), is_hopper_only ? Takes::none : Takes::some);
}

// A GPU of four multiprocessors: small shapes fill it, so products take the tiles that need work enough, and rows are
// shared and scored by other numbers of blocks.
TEST_P(CudaConformance, AgreesOnFewMultiprocessors) {
  FATHOM_NEEDS_CUDA(device);
  agrees(device.limited_to({.num_multiprocessors = 4}), GetParam(), cases_of(GetParam(), "ci"), Takes::some);
}

// For compute-sanitizer (scripts/gpu_test.sh).
TEST_P(CudaConformance, AgreesOnTheSmokeCases) {
  FATHOM_NEEDS_CUDA(device);
  agrees(device, GetParam(), smoke_cases_of(GetParam()), Takes::any);
}

// Outputs and scratch as memory came, for initcheck: poison would be bytes that somebody wrote.
TEST_P(CudaConformance, RunsTheSmokeCasesInUnwrittenMemory) {
  FATHOM_NEEDS_CUDA(device);
  const std::vector<std::string> cases = smoke_cases_of(GetParam());
  ASSERT_FALSE(cases.empty());
  for (const std::string& text : cases) {
    const auto status = [&]() -> Status {
      FATHOM_ASSIGN(const OpCase built, make_case(GetParam().op, text));
      const auto plan =
          plan_problem(*built.op, built.problem.data(), device, {GetParam().op + "=" + GetParam().implementation});
      if (plan.status().code() == StatusCode::unsupported) return {};
      FATHOM_TRY(plan.status());
      FATHOM_ASSIGN(const DeviceCase arguments, DeviceCase::create(built, device, std::nullopt));
      FATHOM_ASSIGN(const PlanWorkspace workspace, PlanWorkspace::create(plan.value()));
      FATHOM_TRY(run_op(plan.value(), arguments.views(), workspace.get()));
      return synchronize(device);
    }();
    EXPECT_TRUE(status.ok()) << status.text() << " \"" << text << "\"";
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaConformance, testing::ValuesIn(all_pairs()), test_name);

}  // namespace
}  // namespace fathom::harness
