// InstructionSets: every instruction set that this machine has, forced upon the CPU kernels one after the other, beside
// the definitions.
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

/// The smoke cases and every n-th case of ci.txt, others for each of the n instruction sets; with FATHOM_DEEP=1
/// (./run test --deep) all of ci.txt.
std::vector<std::string> cases_for(const std::string& op, const char* target) {
  const auto smoke = read_cases(FATHOM_CASES_DIR, op, "smoke"), all = read_cases(FATHOM_CASES_DIR, op, "ci");
  if (!smoke.ok() || !all.ok()) return {};
  const char* deep = std::getenv("FATHOM_DEEP");
  if (deep != nullptr && *deep == '1') return all.value();
  std::vector<std::string> cases = smoke.value();
  const std::vector<const char*> names = simd::target_names();
  for (std::size_t i = 0; i < all->size(); ++i) {
    if (std::string_view(names[i % names.size()]) == target) cases.push_back(all.value()[i]);
  }
  return cases;
}

TEST_P(InstructionSets, AgreesWithTheDefinition) {
  const auto& [op, target] = GetParam();
  const ForcedTarget forced(target);
  const std::vector<std::string> cases = cases_for(op, target);
  ASSERT_FALSE(cases.empty()) << op;
  const Device device = Device::cpu(2).value();
  std::int64_t agreeing = 0;
  for (const Tally& tally : check_cases(op, cases, device, {})) {
    for (const std::string& failure : tally.failures) ADD_FAILURE() << target << ": " << failure;
    agreeing += tally.agreeing;
  }
  EXPECT_GT(agreeing, 0) << op;
  EXPECT_STREQ(simd::target_name(), target);
  test::count_cases(agreeing);
}

INSTANTIATE_TEST_SUITE_P(All, InstructionSets, testing::ValuesIn(all_pairs()),
                         [](const auto& tested) { return tested.param.op + "_" + tested.param.target; });

}  // namespace
}  // namespace fathom::harness
