// InstructionSets: every instruction set that this machine has, forced upon the CPU kernels one after the other, beside the
// definitions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>

#include "harness/case_file.h"
#include "harness/conformance.h"
#include "simd/words.h"
#include "support/cases.h"

namespace fathom::harness {
namespace {

class ForcedTarget {
 public:
  explicit ForcedTarget(const char* name) { EXPECT_TRUE(simd::force_target(name)) << name; }
  ForcedTarget(const ForcedTarget&) = delete;
  ForcedTarget& operator=(const ForcedTarget&) = delete;
  ~ForcedTarget() { simd::force_target(nullptr); }
};

TEST(InstructionSets, ForcingOneIsProven) {
  const std::string best = simd::target_name();
  const std::vector<const char*> names = simd::target_names();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.front(), best);
  for (const char* name : names) {
    const ForcedTarget forced(name);
    EXPECT_STREQ(simd::target_name(), name);
    EXPECT_FALSE(simd::force_target("AVX1024"));
    EXPECT_STREQ(simd::target_name(), name);
  }
  EXPECT_EQ(simd::target_name(), best);
  EXPECT_EQ(simd::target_names().size(), names.size());
}

struct Pair {
  std::string op;
  const char* target;
};
void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.op << " on " << pair.target; }

std::vector<Pair> all_pairs() {
  std::vector<Pair> pairs;
  for (const OpSpec* op : op_table()) {
    for (const char* target : simd::target_names()) pairs.push_back({op->name, target});
  }
  return pairs;
}

class InstructionSets : public testing::TestWithParam<Pair> {};

// The smoke cases; with FATHOM_DEEP=1 (./run test --deep) all cases of ci.txt.
TEST_P(InstructionSets, AgreesWithTheDefinition) {
  const auto& [op, target] = GetParam();
  const ForcedTarget forced(target);
  const char* deep = std::getenv("FATHOM_DEEP");
  const auto cases = read_cases(FATHOM_CASES_DIR, op, deep != nullptr && *deep == '1' ? "ci" : "smoke");
  ASSERT_TRUE(cases.ok() && !cases.value().empty()) << op;
  const Device device = Device::cpu(2).value();
  std::int64_t agreeing = 0;
  for (const Tally& tally : check_cases(op, cases.value(), device, {})) {
    for (const std::string& failure : tally.failures) ADD_FAILURE() << target << ": " << failure;
    agreeing += tally.agreeing;
  }
  EXPECT_GT(agreeing, 0) << op;
  EXPECT_STREQ(simd::target_name(), target);
  test::count_cases(agreeing);
}

INSTANTIATE_TEST_SUITE_P(All, InstructionSets, testing::ValuesIn(all_pairs()), [](const auto& tested) {
  return tested.param.op + "_" + tested.param.target;
});

}  // namespace
}  // namespace fathom::harness
