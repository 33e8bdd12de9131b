// Where the dump puts state rows, and which tensors it shows.
#include "cli/layer_dump.h"

#include <gtest/gtest.h>

namespace fathom::cli {
namespace {

// After 10 tokens of a CSA layer the last full group is 4..7, the open one 8..9 (spec 3.5).
TEST(StateRow, OverlapKeepsTheLastFullGroupAboveTheOpenOne) {
  EXPECT_EQ(state_row(3, 10, 4, true), -1);
  EXPECT_EQ(state_row(4, 10, 4, true), 0);
  EXPECT_EQ(state_row(7, 10, 4, true), 3);
  EXPECT_EQ(state_row(8, 10, 4, true), 4);
  EXPECT_EQ(state_row(9, 10, 4, true), 5);
}

TEST(StateRow, AtAGroupBoundaryOnlyTheCarryIsLive) {
  EXPECT_EQ(state_row(3, 8, 4, true), -1);
  EXPECT_EQ(state_row(4, 8, 4, true), 0);
  EXPECT_EQ(state_row(7, 8, 4, true), 3);
}

TEST(StateRow, WithoutOverlapOnlyTheOpenGroupIsLive) {
  EXPECT_EQ(state_row(127, 130, 128, false), -1);
  EXPECT_EQ(state_row(128, 130, 128, false), 0);
  EXPECT_EQ(state_row(129, 130, 128, false), 1);
  EXPECT_EQ(state_row(127, 128, 128, false), -1);
}

TEST(StateRow, BeforeTheFirstGroupThereIsNoCarry) {
  EXPECT_EQ(state_row(0, 1, 4, true), 4);
  EXPECT_EQ(state_row(2, 3, 4, true), 6);
}

TEST(VisitTensors, SkipsWhatIsNotThere) {
  LayerDump dump;
  dump.core_out.resize({1, 2, 3});
  dump.topk_entries.resize({0, 4});
  std::vector<std::string> names;
  visit_tensors(dump, [&](std::string_view name, const auto&) { names.emplace_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"topk_entries", "core_out"}));
  EXPECT_EQ(dump.core_out.values.size(), 6u);
  EXPECT_TRUE(dump.topk_entries.values.empty());
}

}  // namespace
}  // namespace fathom::cli
