// What a verdict says: agreement needs something beside the reference.
#include "harness/conformance.h"

#include <gtest/gtest.h>

namespace fathom::harness {
namespace {

constexpr const char* kCase = "num_tokens=2 num_scores=9 topk=3";
constexpr const char* kLayerCase = "num_tokens=3 hidden_size=64 num_heads=2 q_rank=32 output_rank=16 window=8";

const Device& device() {
  static const Device cpu = Device::cpu(1).value();
  return cpu;
}

TEST(CheckCase, AReferenceIsSoundButAgreesWithNobody) {
  const auto all = check_case("select_topk", kCase, device());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].outcome, Outcome::agrees) << all[0].text;
  EXPECT_EQ(all[1].implementation, "reference");
  EXPECT_EQ(all[1].outcome, Outcome::sound) << all[1].text;
  const auto forced = check_case("select_topk", kCase, device(), {{"select_topk", "reference"}});
  ASSERT_EQ(forced.size(), 1u);
  EXPECT_EQ(forced[0].outcome, Outcome::sound) << forced[0].text;
}

TEST(CheckCase, AnImplementationThatIsNotThereFails) {
  const auto unknown = check_case("select_topk", kCase, device(), {{"select_topk", "no_such"}});
  ASSERT_EQ(unknown.size(), 1u);
  EXPECT_EQ(unknown[0].outcome, Outcome::fails);
  EXPECT_EQ(unknown[0].text, "select_topk has no implementation \"no_such\"");
  const auto composed = check_case("layer", kLayerCase, device(), {{"layer", "reference"}});
  ASSERT_EQ(composed.size(), 1u);
  EXPECT_EQ(composed[0].outcome, Outcome::fails);
  EXPECT_EQ(composed[0].text, "layer has no implementation \"reference\"");
}

TEST(CheckCases, SoundRunsAreNotCountedAsCompared) {
  const auto tallies = check_cases("select_topk", {kCase, kCase}, device());
  ASSERT_EQ(tallies.size(), 2u);
  EXPECT_EQ(tallies[0].compared(), 2);
  EXPECT_EQ(tallies[1].implementation, "reference");
  EXPECT_EQ(tallies[1].compared(), 0);
  EXPECT_EQ(tallies[1].sound, 2);
  EXPECT_TRUE(tallies[0].ok() && tallies[1].ok());
}

TEST(ForceText, JoinsPairs) {
  EXPECT_EQ(force_text({}), "");
  EXPECT_EQ(force_text({{"linear", "cpu"}, {"attend", "reference"}}), "attend=reference linear=cpu");
}

TEST(ImplementationsOf, NamesOnlyWhatCanBeForced) {
  EXPECT_EQ(implementations_of("select_topk", kCase, device()).value(), (std::vector<std::string>{"cpu", "reference"}));
  EXPECT_EQ(implementations_of("layer", kLayerCase, device()).value(), (std::vector<std::string>{"stages"}));
}

}  // namespace
}  // namespace fathom::harness
