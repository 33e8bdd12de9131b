// The watch over a run catches every misdeed it is there for: implementations that commit them one at a time.
#include "harness/run.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/implementation.h"
#include "fathom/linear.h"

namespace fathom::harness {
namespace {

constexpr const char* kCase = "num_tokens=4 in_dim=16 out_dim=8 x_dtype=f32 weight_dtype=f32 out_dtype=f32";
constexpr const char* kStridedCase =
    "num_tokens=4 in_dim=16 out_dim=8 x_dtype=f32 weight_dtype=f32 out_dtype=f32 strided=1";

Status run_right(const LinearArgs& args) {
  for (std::int64_t t = 0; t < args.out.shape[0]; ++t) {
    for (std::int64_t n = 0; n < args.out.shape[1]; ++n) args.out.row<float>(t)[n] = static_cast<float>(t + n);
  }
  return {};
}

/// A plan of kCase whose run is `body`, with scratch and counters to misuse.
AnyPlan plan_with(const OpCase& built,
                  Status (*body)(const void* problem, const void* args, const RunContext& context)) {
  const auto device = Device::cpu(1);
  const auto plan = plan_problem(*built.op, built.problem.data(), device.value());
  EXPECT_TRUE(plan.ok()) << plan.status().text();
  auto data = std::make_shared<detail::PlanData>(*plan->data());
  static Implementation misdeed;
  misdeed = {"misdeed", DeviceKind::cpu, nullptr, nullptr, body};
  data->implementation = &misdeed;
  data->prepared.workspace = {256, 256, 256};
  return AnyPlan(std::move(data));
}

struct Watch : testing::Test {
  OpCase built = make_case("linear", kCase).value();
  OpCase strided = make_case("linear", kStridedCase).value();

  std::string fault(const OpCase& c, Status (*body)(const void*, const void*, const RunContext&)) {
    const AnyPlan plan = plan_with(c, body);
    const WatchedRun first = run_case(c, plan, kPoisons[0]);
    if (!first.ok()) return first.problem_text();
    const WatchedRun second = run_case(c, plan, kPoisons[1]);
    const char* name = first_difference(c, first, second);
    return name == nullptr ? "" : std::string(name) + " differs";
  }
};

const LinearArgs& of(const void* args) { return *static_cast<const LinearArgs*>(args); }

TEST_F(Watch, ASoundRunHasNoFault) {
  const auto sound = [](const void*, const void* args, const RunContext&) { return run_right(of(args)); };
  EXPECT_EQ(fault(built, sound), "");
  EXPECT_EQ(fault(strided, sound), "");
}

TEST_F(Watch, AnErrorIsTheRunsOwnText) {
  EXPECT_EQ(fault(built, [](const void*, const void*, const RunContext&) { return Status::device_error("it broke"); }),
            "it broke");
}

TEST_F(Watch, WritesPastAnOutput) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext&) {
                    static_cast<float*>(of(args).out.data)[4 * 8] = 0;
                    return run_right(of(args));
                  }),
            "wrote after out");
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext&) {
                    static_cast<std::byte*>(of(args).out.data)[-1] = std::byte{0};
                    return run_right(of(args));
                  }),
            "wrote before out");
}

TEST_F(Watch, AnElementLeftOutDiffersBetweenPoisons) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext&) {
                    const float kept = of(args).out.row<float>(3)[7];
                    const Status status = run_right(of(args));
                    of(args).out.row<float>(3)[7] = kept;
                    return status;
                  }),
            "out differs");
}

TEST_F(Watch, ReadsScratchNobodyWrote) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext& context) {
                    const Status status = run_right(of(args));
                    std::memcpy(of(args).out.data, context.workspace.scratch.data, 1);
                    return status;
                  }),
            "out differs");
}

TEST_F(Watch, ChangesAnInput) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext&) {
                    static_cast<float*>(of(args).weight.data)[5] += 1;
                    return run_right(of(args));
                  }),
            "changed its input weight");
}

TEST_F(Watch, WritesPastAnInput) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext&) {
                    static_cast<float*>(of(args).x.data)[4 * 16] = 1;
                    return run_right(of(args));
                  }),
            "wrote after x");
}

TEST_F(Watch, WritesBetweenRows) {
  EXPECT_EQ(fault(strided,
                  [](const void*, const void* args, const RunContext&) {
                    of(args).out.row<float>(1)[8] = 0;
                    return run_right(of(args));
                  }),
            "wrote between the rows of out");
}

TEST_F(Watch, LeavesCountersBehind) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext& context) {
                    static_cast<char*>(context.workspace.counters.data)[255] = 1;
                    return run_right(of(args));
                  }),
            "left counters that are not zero");
}

TEST_F(Watch, WritesPastTheWorkspace) {
  EXPECT_EQ(fault(built,
                  [](const void*, const void* args, const RunContext& context) {
                    static_cast<char*>(context.workspace.scratch.data)[256] = 1;
                    return run_right(of(args));
                  }),
            "wrote after the scratch workspace");
}

}  // namespace
}  // namespace fathom::harness
