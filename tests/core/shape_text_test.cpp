#include "core/shape_text.h"

#include <gtest/gtest.h>

#include "fathom/fathom.h"
#include "support/op_run.h"

namespace fathom {
namespace {

const detail::PlanData& data_of(const AnyPlan& plan) { return *plan.data(); }

TEST(ShapeText, ProductsAndTilesOfProblemFields) {
  auto plan = plan_linear({.num_tokens = 5, .in_dim = 130, .out_dim = 64, .groups = 3, .weight_dtype = DType::e4m3}, test::cpu());
  ASSERT_TRUE(plan.ok()) << plan.status().text();
  const auto& args = data_of(plan.value()).args;
  EXPECT_EQ(args[0].extents[0].kind, detail::ResolvedExtent::Kind::capacity);
  EXPECT_EQ(args[0].extents[0].value, 5);
  EXPECT_EQ(args[0].extents[1].value, 390);  // groups*in_dim
  EXPECT_EQ(args[2].extents[0].value, 2);    // ceil(3 * 64 / 128)
  EXPECT_EQ(args[2].extents[1].value, 2);    // ceil(130 / 128)
  EXPECT_EQ(args[1].dtypes, 1u << static_cast<int>(DType::e4m3));
}

TEST(ShapeText, NumericsDecideTheActivationType) {
  ProjectProblem problem{.hidden_size = 8, .num_heads = 1, .head_dim = 512, .q_rank = 4};
  auto served = plan_project(problem, test::cpu());
  problem.numerics = Numerics::exact;
  auto exact = plan_project(problem, test::cpu());
  ASSERT_TRUE(served.ok() && exact.ok());
  EXPECT_EQ(dtype_names(data_of(served.value()).args[0].dtypes), "bf16");
  EXPECT_EQ(dtype_names(data_of(exact.value()).args[0].dtypes), "f32");
}

TEST(ShapeText, EveryOpsContractResolves) {
  for (const char* problem : {"linear in_dim=8 out_dim=8", "project hidden_size=8 num_heads=1 q_rank=4", "compress hidden_size=8",
                              "index_query hidden_size=8 q_rank=4", "index", "select_topk num_scores=8", "attend num_heads=1",
                              "merge_partials num_heads=1", "output hidden_size=8 num_heads=1 output_rank=4",
                              "layer hidden_size=8 num_heads=1 q_rank=4 output_rank=4 compress_ratio=4"}) {
    const std::string text = problem;
    const std::string op = text.substr(0, text.find(' '));
    auto plan = plan_op(op, text.substr(op.size()), test::cpu());
    ASSERT_TRUE(plan.ok()) << plan.status().text();
    ASSERT_EQ(data_of(plan.value()).args.size(), find_op(op)->args.size());
    for (const ArgSpec& arg : find_op(op)->args) EXPECT_NE(std::string(arg.doc), "") << op << "." << arg.name;
  }
}

struct ArgReader : testing::Test {
  const OpSpec& op = *find_op("linear");
  LinearProblem problem{.num_tokens = 5, .in_dim = 300, .out_dim = 131, .groups = 3, .weight_dtype = DType::e4m3};

  std::vector<std::int64_t> shape(const char* text, const Extents& extents = {}) {
    const auto result = arg_shape(op, &problem, {0, Role::in, "x", text, "f32", ""}, extents);
    return result.ok() ? result.value() : std::vector<std::int64_t>{};
  }
  std::string refusal(const char* text) {
    return arg_shape(op, &problem, {0, Role::in, "x", text, "f32", ""}).status().text();
  }
};

TEST_F(ArgReader, ProductsAndQuotients) {
  EXPECT_EQ(shape("num_tokens groups*in_dim"), (std::vector<std::int64_t>{5, 900}));
  EXPECT_EQ(shape("groups*out_dim/128 in_dim/128"), (std::vector<std::int64_t>{4, 3}));
  EXPECT_EQ(shape(" pages  4*pages/3 7 ", {{"pages", 10}}), (std::vector<std::int64_t>{10, 14, 7}));
}

TEST_F(ArgReader, GivenExtentsPassBeforeTheProblems) {
  EXPECT_EQ(shape("num_tokens", {{"num_tokens", 2}}), (std::vector<std::int64_t>{2}));
  EXPECT_EQ(shape("num_tokens", {{"num_tokens", 0}}), (std::vector<std::int64_t>{0}));
}

TEST_F(ArgReader, WhatHasNoValueIsNamed) {
  EXPECT_EQ(refusal("num_tokens pages"), "linear: the extent \"pages\" of x has no value");
  for (const char* text : {"num_tokens+1", "*", "4*", "in_dim/", "in_dim/0", "in_dim/2*3", "-1"}) {
    EXPECT_EQ(refusal(text), "shape: \"" + std::string(text) + "\" is no extent, expected factor*factor/n");
  }
}

TEST_F(ArgReader, DtypesStandInTheOrderOfTheSpec) {
  EXPECT_EQ(arg_dtypes(op, &problem, {0, Role::in, "x", "num_tokens", "f32|$weight_dtype|i64", ""}).value(),
            (std::vector<DType>{DType::f32, DType::e4m3, DType::i64}));
}

}  // namespace
}  // namespace fathom
