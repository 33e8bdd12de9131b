// Planning, selection and argument checks, on linear because it is the smallest op.
#include "fathom/core/plan.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "fathom/linear.h"
#include "support/op_run.h"

namespace fathom {
namespace {

using test::cpu;

class LinearCall : public testing::Test {
 protected:
  LinearCall() {
    problem = {.num_tokens = 3, .in_dim = 2, .out_dim = 2, .x_dtype = DType::f32, .weight_dtype = DType::f32, .out_dtype = DType::f32};
    args = {view(x, DType::f32, {3, 2}), view(weight, DType::f32, {2, 2}), {}, view(out, DType::f32, {3, 2})};
  }
  std::string run() { return test::run_with("cpu", problem, args); }
  void expect_untouched() const {
    for (const float value : out) EXPECT_EQ(value, -7);
  }
  LinearProblem problem;
  LinearArgs args;
  float x[6] = {1, 2, 3, 4, 5, 6}, weight[4] = {1, 0, 1, 1}, out[6] = {-7, -7, -7, -7, -7, -7};
};

TEST_F(LinearCall, Computes) {
  ASSERT_EQ(run(), "");
  const float expected[] = {1, 3, 3, 7, 5, 11};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i], expected[i]);
}

TEST_F(LinearCall, ARunMayBringFewerTokensThanThePlan) {
  problem.num_tokens = 100;
  ASSERT_EQ(run(), "");
  args.x.shape[0] = args.out.shape[0] = 0;
  EXPECT_EQ(run(), "");
  args.x.shape[0] = 2;
  EXPECT_EQ(run(), "linear: out has shape [0, 2], expected [num_tokens=2 (at most 100), groups*out_dim=2]");
}

TEST_F(LinearCall, EverySlipIsNamedAndNothingIsWritten) {
  const LinearArgs good = args;
  const auto refused = [&](const char* sentence) {
    EXPECT_EQ(run(), sentence);
    expect_untouched();
    args = good;
  };
  args.x = {};
  refused("linear: x is missing");
  args.x.rank = 1;
  refused("linear: x has shape [3], expected [num_tokens (at most 3), groups*in_dim=2]");
  args.x.shape[0] = -1;
  refused("linear: x has shape [-1, 2], expected [num_tokens (at most 3), groups*in_dim=2]");
  args.x.shape[0] = 4;
  refused("linear: x has shape [4, 2], expected [num_tokens=4 (at most 3), groups*in_dim=2]");
  args.weight.shape[1] = 3;
  refused("linear: weight has shape [2, 3], expected [groups*out_dim=2, in_dim=2]");
  args.weight.dtype = DType::bf16;
  refused("linear: weight has dtype bf16, expected f32");
  args.weight.dtype = static_cast<DType>(99);
  refused("linear: weight has dtype ?, expected f32");
  args.weight.device = DeviceKind::cuda;
  refused("linear: weight is on cuda:0, expected cpu:0");
  args.weight.data = nullptr;
  refused("linear: weight has no data");
  args.weight.data = reinterpret_cast<std::byte*>(weight) + 1;
  refused("linear: weight is not aligned to its 4-byte elements");
  args.x.strides[1] = 2;
  refused("linear: x has last stride 2, expected 1");
  args.x.strides[0] = -2;
  refused("linear: x has strides that are negative or overflow");
  args.x.strides[0] = std::int64_t{1} << 62;
  refused("linear: x has strides that are negative or overflow");
  args.out.strides[0] = 0;
  refused("linear: out is written but its stride 0 in dimension 0 folds elements onto each other");
  args.out.strides[0] = 1;
  refused("linear: out is written but its stride 1 in dimension 1 folds elements onto each other");
  args.weight.data = nullptr;
  args.weight.strides[0] = 0;
  refused("linear: weight has no data");
  args.weight_scale = view(weight, DType::ue8m0, {1, 1});
  refused("linear: weight_scale came with f32 weights, expected none");
}

TEST_F(LinearCall, AQuantisedWeightNeedsItsScale) {
  problem.weight_dtype = DType::e4m3;
  args.weight = view(weight, DType::e4m3, {2, 2});
  EXPECT_EQ(run(), "linear: weight_scale is missing, e4m3 weights need it");
}

TEST_F(LinearCall, StridesButTheLastAreFree) {
  float wide[9] = {1, 2, -1, 3, 4, -1, 5, 6, -1}, spread[12] = {};
  args.x = view(wide, DType::f32, {3, 2});
  args.x.strides[0] = 3;
  args.out = view(spread, DType::f32, {3, 2});
  args.out.strides[0] = 4;
  ASSERT_EQ(run(), "");
  const float expected[12] = {1, 3, 0, 0, 3, 7, 0, 0, 5, 11, 0, 0};
  for (int i = 0; i < 12; ++i) EXPECT_EQ(spread[i], expected[i]);
}

TEST_F(LinearCall, AWorkspaceTooSmallOrAskewIsRefused) {
  auto plan = plan_linear(problem, cpu(), {"cpu"});
  ASSERT_TRUE(plan.ok());
  const WorkspaceSize size = plan->workspace_size();
  ASSERT_GT(size.scratch, 0);
  test::Bytes memory(size.total() + 1);
  Workspace workspace = carve_workspace(memory.data(), size);
  workspace.scratch.bytes -= kWorkspaceAlignment;
  EXPECT_EQ(linear(plan.value(), args, workspace).code(), StatusCode::insufficient_workspace);
  EXPECT_EQ(linear(plan.value(), args, {}).code(), StatusCode::insufficient_workspace);
  workspace = carve_workspace(static_cast<std::byte*>(memory.data()) + 1, size);
  EXPECT_STREQ(linear(plan.value(), args, workspace).text(), "linear: workspace.scratch is not aligned to 256 bytes");
  expect_untouched();
}

TEST_F(LinearCall, AnEmptyPlanOrOneOfAnotherOpIsRefused) {
  EXPECT_EQ(linear(LinearPlan(), args, {}).code(), StatusCode::invalid_argument);
  EXPECT_EQ(run_op(AnyPlan(), {}, {}).code(), StatusCode::invalid_argument);
  auto other = plan_op("select_topk", "num_scores=4", cpu());
  ASSERT_TRUE(other.ok());
  EXPECT_STREQ(linear(LinearPlan(other.value()), args, {}).text(), "linear: the plan is empty or of another op");
}

TEST_F(LinearCall, ForcingAnImplementation) {
  for (const char* forced : {"reference", "cpu", "linear=reference", "attend=cpu linear=reference", "attend=cpu,linear=cpu"}) {
    EXPECT_EQ(test::run_with(forced, problem, args), "") << forced;
  }
  for (const char* slip : {"lineer=reference", "linear=", "=x", "linear:reference attend=cpu", "attend=cpu linear"}) {
    EXPECT_EQ(plan_linear(problem, cpu(), {slip}).status().code(), StatusCode::invalid_argument) << slip;
  }
  EXPECT_STREQ(plan_linear(problem, cpu(), {"linear=reference"}).value().implementation(), "reference");
  EXPECT_STREQ(plan_linear(problem, cpu(), {"attend=reference"}).value().implementation(), plan_linear(problem, cpu()).value().implementation());
  EXPECT_EQ(plan_linear(problem, cpu(), {"cuda:sm80"}).status().code(), StatusCode::unsupported);
  EXPECT_STREQ(plan_linear(problem, cpu(), {"fast"}).status().text(), "linear: there is no implementation \"fast\" on cpu; there are cpu:amx, cpu:avx512bf16, cpu:avx512, cpu:avx2, cpu, reference");
}

TEST(PlanOp, NamesWhatItDoesNotKnow) {
  EXPECT_STREQ(plan_op("atend", "", cpu()).status().text(), "plan: there is no op \"atend\"");
  EXPECT_EQ(plan_op("linear", "in_dim=4", cpu()).status().code(), StatusCode::invalid_argument) << "out_dim is 0";
}

TEST(Candidates, EveryImplementationAnswers) {
  const LinearProblem problem{.in_dim = 1, .out_dim = 1};
  auto list = candidates(*find_op("linear"), &problem, cpu());
  ASSERT_TRUE(list.ok());
  ASSERT_GE(list->size(), 2u);  // builds with CUDA list its implementations first
  EXPECT_STREQ((list->end() - 2)->implementation, "cpu");
  EXPECT_STREQ(list->back().implementation, "reference");
  for (const Candidate& candidate : list.value()) {
    EXPECT_EQ(candidate.runs_here, candidate.reason.empty()) << candidate.implementation;
    EXPECT_EQ(candidate.reason == "needs a cuda device", candidate.device == DeviceKind::cuda) << candidate.implementation;
  }
}

TEST_F(LinearCall, OnePlanServesManyThreads) {
  auto plan = plan_linear(problem, cpu());
  ASSERT_TRUE(plan.ok());
  std::vector<std::thread> threads;
  std::vector<int> wrong(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int repeat = 0; repeat < 50; ++repeat) {
        float own[6] = {};
        LinearArgs own_args = args;
        own_args.out = view(own, DType::f32, {3, 2});
        test::Bytes memory(plan->workspace_size().total());
        if (!linear(plan.value(), own_args, carve_workspace(memory.data(), plan->workspace_size())).ok() || own[5] != 11) ++wrong[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) EXPECT_EQ(count, 0);
}

TEST(Parts, ArePlansOfTheOpsThatARunRuns) {
  const ProjectProblem problem{.hidden_size = 8, .num_heads = 1, .q_rank = 4};
  const AnyPlan plan = plan_project(problem, test::cpu(), {"project=cpu linear=reference"}).value();
  ASSERT_EQ(plan.parts().size(), 3u);
  for (const AnyPlan& part : plan.parts()) {
    EXPECT_STREQ(part.op().name, "linear");
    EXPECT_STREQ(part.implementation(), "reference");
    EXPECT_TRUE(part.parts().empty());
  }
  EXPECT_TRUE(plan_project(problem, test::cpu(), {"reference"}).value().parts().empty()) << "the definition runs no op";
}

}  // namespace
}  // namespace fathom
