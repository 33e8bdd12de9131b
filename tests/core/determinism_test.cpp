// Determinism: every word of core/determinism.h that promises something about an implementation of this machine, proven
// on the case files; and the table itself.
#include "core/determinism.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "fathom/core/plan.h"
#include "harness/case_file.h"
#include "harness/conformance.h"
#include "support/cases.h"
#include "support/cut_run.h"

namespace fathom {
namespace {

std::vector<std::string> cases_of(const char* op, const char* set) {
  const auto cases = harness::read_cases(FATHOM_CASES_DIR, op, set);
  return cases.ok() ? cases.value() : std::vector<std::string>();
}

std::vector<Determinism> rows_of_the_cpu() {
  std::vector<Determinism> rows;
  for (const Determinism& row : determinism_table()) {
    if (row.device == DeviceKind::cpu) rows.push_back(row);
  }
  return rows;
}

class DeterminismWords : public testing::TestWithParam<Determinism> {};

/// What the row's implementation says to the case.
Candidate answer_of(const Determinism& row, const harness::OpCase& built) {
  const auto list = candidates(*built.op, built.problem.data(), Device::cpu(1).value());
  for (const Candidate& candidate : list.ok() ? list.value() : std::vector<Candidate>()) {
    if (std::string(candidate.implementation) == row.implementation) return candidate;
  }
  ADD_FAILURE() << row.op << " has no implementation " << row.implementation;
  return {};
}
/// Empty: the row's implementation runs on this machine.
std::string lacking(const Determinism& row) {
  const auto built = harness::read_case(row.op, cases_of(row.op, "smoke").front());
  const Candidate answer = built.ok() ? answer_of(row, built.value()) : Candidate();
  return answer.runs_here ? "" : answer.reason;
}

/// The definition of a layer takes the definitions of all its ops; every other row takes what is best.
AnyPlan plan_of(const Determinism& row, const harness::OpCase& built, int threads) {
  auto plan = plan_problem(*built.op, built.problem.data(), Device::cpu(threads).value(), {row.implementation});
  EXPECT_TRUE(plan.ok()) << plan.status().text();
  return plan.ok() ? plan.value() : AnyPlan();
}

TEST_P(DeterminismWords, RepeatabilityIsAsSaid) {
  const Determinism& row = GetParam();
  if (row.repeatability != Word::supported) GTEST_SKIP() << row.op << " " << row.implementation << " promises nothing";
  if (const std::string lack = lacking(row); !lack.empty()) GTEST_SKIP() << row.op << " " << row.implementation << " " << lack;
  std::int64_t runs = 0;
  for (const std::string& text : cases_of(row.op, "smoke")) {
    const auto built = harness::make_case(row.op, text);
    ASSERT_TRUE(built.ok()) << built.status().text();
    if (!answer_of(row, built.value()).reason.empty()) continue;
    const harness::WatchedRun first =
        harness::run_case(built.value(), plan_of(row, built.value(), 2), harness::kPoisons[0]);
    ASSERT_TRUE(first.ok()) << first.problem_text();
    for (int i = 0; i < 20; ++i, ++runs) {
      const AnyPlan plan = plan_of(row, built.value(), 1 + i % 4);
      const harness::WatchedRun again = harness::run_case(built.value(), plan, harness::kPoisons[i % 2]);
      ASSERT_TRUE(again.ok()) << again.problem_text();
      const char* name = harness::first_difference(built.value(), first, again);
      ASSERT_EQ(name, nullptr) << row.op << " \"" << text << "\": " << name << " differs in run " << i << " with "
                               << 1 + i % 4 << " threads";
    }
  }
  EXPECT_GE(runs, 40);
  test::count_cases(runs);
}

/// Pieces that may be called apart: tokens of one sequence stay together where an op carries something from token to
/// token.
std::vector<test::Piece> pieces_of(const harness::OpCase& built, std::int64_t tokens) {
  std::vector<test::Piece> pieces;
  const bool carries = std::string(built.op->name) == "compress" || std::string(built.op->name) == "layer";
  const TensorView seq_ids = carries ? built.arg("seq_ids").view : TensorView{};
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool together = carries && t > 0 && seq_ids.at<std::int32_t>(t) == seq_ids.at<std::int32_t>(t - 1);
    if (together) {
      ++pieces.back().count;
    } else {
      pieces.push_back({t, 1});
    }
  }
  return pieces;
}

TEST_P(DeterminismWords, BatchInvarianceIsAsSaid) {
  const Determinism& row = GetParam();
  if (row.batch_invariance != Word::supported)
    GTEST_SKIP() << row.op << " " << row.implementation << " promises nothing";
  if (const std::string lack = lacking(row); !lack.empty()) GTEST_SKIP() << row.op << " " << row.implementation << " " << lack;
  std::int64_t compared = 0;
  for (const std::string& text : cases_of(row.op, "ci")) {
    // Two tokens that write one slot are ordered by the step they stand in.
    if (text.find("hostile=") != std::string::npos) continue;
    const auto built = harness::make_case(row.op, text);
    ASSERT_TRUE(built.ok()) << built.status().text();
    if (!answer_of(row, built.value()).reason.empty()) continue;
    const std::int64_t tokens = test::tokens_of(built.value());
    const std::int64_t most = std::string(row.implementation) == "reference" ? 16 : 64;  // definitions are slow
    if (tokens < 2 || tokens > most) continue;
    const AnyPlan plan = plan_of(row, built.value(), 2);
    std::vector<test::Piece> apart = pieces_of(built.value(), tokens);
    if (apart.size() < 2) continue;
    const harness::WatchedRun whole = test::run_pieces(built.value(), plan, {{0, tokens}});
    ASSERT_TRUE(whole.status.ok()) << whole.status.text();
    // Halves, and then the last piece first: neither company nor order may show.
    const std::int64_t middle = apart[apart.size() / 2].first;
    const std::vector<test::Piece> halves = {{0, middle}, {middle, tokens - middle}};
    std::reverse(apart.begin(), apart.end());
    for (const auto* pieces : {&halves, static_cast<const std::vector<test::Piece>*>(&apart)}) {
      const harness::WatchedRun cut = test::run_pieces(built.value(), plan, *pieces);
      ASSERT_TRUE(cut.status.ok()) << cut.status.text();
      const char* name = harness::first_difference(built.value(), whole, cut);
      EXPECT_EQ(name, nullptr) << row.op << " \"" << text << "\": " << name << " depends on the rest of the step ("
                               << pieces->size() << " pieces)";
      ++compared;
    }
  }
  EXPECT_GE(compared, 8) << row.op << " " << row.implementation;
  test::count_cases(compared);
}

INSTANTIATE_TEST_SUITE_P(Cpu, DeterminismWords, testing::ValuesIn(rows_of_the_cpu()), [](const auto& tested) {
  std::string name = std::string(tested.param.op) + "_" + tested.param.implementation;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
});

// A row for each implementation of this build's lists, and none for the CPU that is not there. Which kernels a build
// has for other devices depends on its targets.
TEST(DeterminismTable, IsTheListsOfTheOps) {
  std::set<std::string> listed, told, rows;
  for (const OpSpec* op : op_table()) {
    const auto built = harness::read_case(op->name, cases_of(op->name, "smoke").front());
    ASSERT_TRUE(built.ok());
    const auto list = candidates(*op, built->problem.data(), Device::cpu(1).value());
    ASSERT_TRUE(list.ok());
    for (const Candidate& candidate : list.value()) {
      listed.insert(std::string(op->name) + " " + candidate.implementation + " " + name_of(candidate.device));
    }
  }
  for (const Determinism& row : determinism_table()) {
    const std::string name = std::string(row.op) + " " + row.implementation + " " + name_of(row.device);
    EXPECT_TRUE(row.device != DeviceKind::cpu || *row.condition == 0) << name << ": DeterminismWords runs every case";
    told.insert(name);
    EXPECT_TRUE(rows.insert(name + " " + row.condition).second) << name << " " << row.condition << " stands twice";
    EXPECT_TRUE(row.device != DeviceKind::cpu || listed.contains(name)) << name << " is no implementation";
  }
  for (const std::string& name : listed)
    EXPECT_TRUE(told.contains(name)) << name << " has no words in src/core/determinism.cpp";
}

TEST(DeterminismTable, WordsAreTheFiveOfCudnn) {
  EXPECT_STREQ(name_of(Word::supported), "Supported");
  EXPECT_STREQ(name_of(Word::replay_only), "Replay only");
  EXPECT_STREQ(name_of(Word::not_guaranteed), "Not guaranteed");
  EXPECT_STREQ(name_of(Word::unverified), "Unverified");
  EXPECT_STREQ(name_of(Word::unsupported), "Unsupported");
}

}  // namespace
}  // namespace fathom
