// A case in one piece of memory is the case: run there, it gives what it gives in blocks of its own.
#include "harness/device_case.h"

#include <gtest/gtest.h>

#include "harness/compare.h"
#include "harness/plan_workspace.h"

namespace fathom::harness {
namespace {

constexpr std::pair<const char*, const char*> kCases[] = {
    {"attend", "num_tokens=3 num_heads=2 window_width=16 entries_rows=list entries_width=8 strided=1 outputs=1"},
    {"compress", "num_tokens=9 hidden_size=64 context=5 strided=1"},
    {"linear", "num_tokens=4 tokens=0 in_dim=64 out_dim=16"},
};

TEST(DeviceCase, RunsAsTheCaseDoes) {
  const Device device = Device::cpu(1).value();
  for (const auto& [op, text] : kCases) {
    const OpCase built = make_case(op, text).value();
    const AnyPlan plan = plan_problem(*built.op, built.problem.data(), device).value();
    const WatchedRun expected = run_case(built, plan, kPoisons[0]);
    ASSERT_TRUE(expected.ok()) << expected.problem_text();
    DeviceCase first = DeviceCase::create(built, device).value();
    const DeviceCase second = first.copy().value();
    const PlanWorkspace workspace = PlanWorkspace::create(plan).value();
    for (const DeviceCase* one : std::initializer_list<const DeviceCase*>{&first, &second}) {
      const Status status = run_op(plan, one->views(), workspace.get());
      ASSERT_TRUE(status.ok()) << status.text();
      EXPECT_EQ(first_difference(built, one->read(built).value(), expected), nullptr) << op;
    }
    // Filled again, it is as it was: caches without what the run wrote, outputs poisoned.
    ASSERT_TRUE(first.fill(built, kPoisons[1]).ok());
    const WatchedRun before = first.read(built).value();
    for (std::size_t i = 0; i < built.args.size(); ++i) {
      if (before.blocks[i].size() == 0) continue;
      const auto bytes = before.blocks[i].bytes();
      const bool same = is_inout(built.op->args[i].role)
                            ? std::ranges::equal(bytes, built.args[i].block.bytes())
                            : std::ranges::all_of(bytes, [](std::byte byte) { return byte == kPoisons[1]; });
      EXPECT_TRUE(same) << op << " " << built.op->args[i].name;
    }
  }
}

}  // namespace
}  // namespace fathom::harness
