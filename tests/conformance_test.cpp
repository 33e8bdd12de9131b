// Every implementation of every op agrees with the reference on every line of cases/<op>/ci.txt.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <set>

#include "harness/case_file.h"
#include "harness/conformance.h"
#include "support/cases.h"

namespace fathom::harness {
namespace {

const Device& device() {
  static const Device cpu = Device::cpu(2).value();
  return cpu;
}

std::vector<std::string> cases_of(const char* op, const char* set) {
  const auto cases = read_cases(FATHOM_CASES_DIR, op, set);
  return cases.ok() ? cases.value() : std::vector<std::string>{};
}

struct Pair {
  std::string op;
  std::string implementation;
  std::string lacking;  ///< what of this machine, if anything
};
void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.op << " " << pair.implementation; }

/// Every op with each CPU implementation that its list names, those included that this machine lacks, so that what is skipped is
/// counted. An op without cases gives one pair that fails.
std::vector<Pair> all_pairs() {
  std::vector<Pair> pairs;
  for (const OpSpec* op : op_table()) {
    const std::vector<std::string> cases = cases_of(op->name, "ci");
    const auto built = cases.empty() ? Result<OpCase>(Status::invalid("no cases")) : read_case(op->name, cases.front());
    const auto list = built.ok() ? candidates(*op, built->problem.data(), device()) : built.status();
    if (!list.ok()) pairs.push_back({op->name, "none", ""});
    for (const Candidate& candidate : list.ok() ? list.value() : std::vector<Candidate>{}) {
      if (candidate.device != DeviceKind::cpu) continue;
      pairs.push_back({op->name, candidate.implementation, candidate.runs_here ? "" : candidate.reason});
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

class Conformance : public testing::TestWithParam<Pair> {};

TEST_P(Conformance, AgreesWithTheReference) {
  const auto& [op, implementation, lacking] = GetParam();
  if (!lacking.empty()) GTEST_SKIP() << op << " " << implementation << " " << lacking;
  const std::vector<std::string> cases = cases_of(op.c_str(), "ci");
  ASSERT_FALSE(cases.empty()) << "cases/" << op << "/ci.txt is missing or empty";
  const std::vector<Tally> tallies = check_cases(op, cases, device(), {{op, implementation}});
  std::int64_t agreeing = 0, sound = 0, refused = 0;
  for (const Tally& tally : tallies) {
    for (const std::string& failure : tally.failures) ADD_FAILURE() << failure;
    if (tally.implementation != implementation) continue;
    agreeing += tally.agreeing;
    sound += tally.sound;
    refused += tally.refused;
  }
  std::printf("%s %s: %lld cases agree, %lld sound, %lld refused\n", op.c_str(), implementation.c_str(),
              static_cast<long long>(agreeing), static_cast<long long>(sound), static_cast<long long>(refused));
  test::count_cases(agreeing + sound);
  EXPECT_GT(agreeing + sound, 0) << op << ": " << implementation << " refuses every case";
}

INSTANTIATE_TEST_SUITE_P(All, Conformance, testing::ValuesIn(all_pairs()), test_name);

// The reference is the definition and stays: without it, and without something beside it, nothing would be compared.
TEST(ConformanceList, EveryOpHasAReferenceAndSomethingToHoldAgainstIt) {
  std::set<std::string> seen;
  for (const OpSpec* op : op_table()) {
    const std::vector<std::string> cases = cases_of(op->name, "ci");
    ASSERT_FALSE(cases.empty()) << op->name;
    const std::vector<Verdict> verdicts = check_case(op->name, cases.front(), device());
    ASSERT_GE(verdicts.size(), 2u) << op->name;
    EXPECT_EQ(verdicts.front().outcome, Outcome::agrees) << op->name << ": " << verdicts.front().text;
    EXPECT_EQ(verdicts.back().implementation, "reference") << op->name;
    EXPECT_EQ(verdicts.back().outcome, Outcome::sound) << op->name << ": " << verdicts.back().text;
    seen.insert(op->name);
  }
  EXPECT_EQ(seen.size(), op_table().size());
}

// Work is split by sizes alone: how many threads share it must not show in any bit.
TEST(Determinism, ThreadsDoNotShow) {
  const auto one = Device::cpu(1), three = Device::cpu(3);
  for (const OpSpec* op : op_table()) {
    for (const std::string& text : cases_of(op->name, "ci")) {
      const auto built = make_case(op->name, text);
      ASSERT_TRUE(built.ok()) << built.status().text();
      const auto alone = plan_problem(*op, built->problem.data(), one.value()),
                 shared = plan_problem(*op, built->problem.data(), three.value());
      ASSERT_TRUE(alone.ok() && shared.ok());
      const char* name = first_difference(built.value(), run_case(built.value(), alone.value(), kPoisons[0]),
                                          run_case(built.value(), shared.value(), kPoisons[0]));
      EXPECT_EQ(name, nullptr) << op->name << " \"" << text << "\": " << name << " depends on the number of threads";
    }
  }
}

// Rows apart are the same numbers: only the strides of the case change.
TEST(Determinism, StridesDoNotShow) {
  for (const char* op : {"linear", "attend", "output", "merge_partials", "select_topk"}) {
    for (const std::string& text : cases_of(op, "smoke")) {
      const auto packed = make_case(op, text), apart = make_case(op, text + " strided=1");
      ASSERT_TRUE(packed.ok() && apart.ok());
      const auto plan = plan_problem(*packed->op, packed->problem.data(), device());
      ASSERT_TRUE(plan.ok());
      const WatchedRun a = run_case(packed.value(), plan.value(), kPoisons[0]),
                       b = run_case(apart.value(), plan.value(), kPoisons[0]);
      ASSERT_TRUE(a.ok() && b.ok()) << a.problem_text() << b.problem_text();
      for (std::size_t i = 0; i < packed->args.size(); ++i) {
        if (!is_written(packed->op->args[i].role) || a.views[i].is_absent() || b.views[i].is_absent()) continue;
        std::vector<std::string> came, expected;
        const auto collect = [&](const TensorView& view, std::vector<std::string>& rows) {
          for_each_row(view, [&](const std::byte* row, std::int64_t count) {
            rows.emplace_back(reinterpret_cast<const char*>(row),
                              static_cast<std::size_t>(bytes_of(view.dtype, count)));
          });
        };
        collect(a.views[i], expected);
        collect(b.views[i], came);
        EXPECT_TRUE(came == expected) << op << " \"" << text << "\": " << packed->op->args[i].name
                                      << " depends on the strides";
      }
    }
  }
}

}  // namespace
}  // namespace fathom::harness
