// q_form and out_form on the CPU: attend's own norm, rotation, turning back and codes give the bits of the passes that
// they replace; and what must be given with each form.
#include <gtest/gtest.h>

#include "support/attend_forms.h"
#include "support/op_run.h"

namespace fathom {
namespace {

constexpr const char* kCases[] = {
    "num_tokens=5 num_seqs=2 num_heads=4 window_width=24 seed=1",
    "num_tokens=9 num_seqs=3 num_heads=6 window_width=24 entries_rows=list entries_width=40 holes=1 seed=2",
    "num_tokens=3 num_heads=2 window_width=16 head_dim=96 value_dim=96 rope_dim=32 window_format=kv_bf16 strided=1 "
    "seed=3",
    "num_tokens=70 num_seqs=3 num_heads=1 window_width=9 head_dim=64 value_dim=64 rope_dim=16 window_format=kv_bf16 "
    "seed=4",
};

class AttendFormsOnTheCpu : public testing::TestWithParam<const char*> {};

TEST_P(AttendFormsOnTheCpu, GiveTheBitsOfTheirPasses) {
  for (const char* text : kCases) {
    SCOPED_TRACE(text);
    test::AttendForms forms(test::cpu(), text, GetParam(), GetParam());
    forms.raw_queries_change_nothing();
    forms.unrotated_results_are_outputs_own();
    forms.codes_are_those_of_the_quantiser();
  }
}

TEST_P(AttendFormsOnTheCpu, InF32) {
  test::AttendForms forms(
      test::cpu(), "num_tokens=4 num_heads=3 window_width=16 window_format=kv_f32 q_dtype=f32 out_dtype=f32 holes=1",
      GetParam(), GetParam());
  forms.raw_queries_change_nothing();
  forms.unrotated_results_are_outputs_own();
}

INSTANTIATE_TEST_SUITE_P(All, AttendFormsOnTheCpu, testing::Values("cpu", "reference"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(AttendForms, ProblemsThatMakeNoSenseAreRefused) {
  AttendProblem problem{.num_heads = 1};
  problem.out_dtype = DType::e4m3;
  EXPECT_EQ(test::plan_error(problem), "attend: out_dtype is e4m3, expected f32 or bf16");
  problem.out_form = OutForm::e4m3;
  EXPECT_EQ(test::plan_error(problem), "");
  problem.out_dtype = DType::bf16;
  EXPECT_EQ(test::plan_error(problem), "attend: out_dtype is bf16, expected e4m3 (out_form=e4m3)");
  problem.out_form = OutForm::unrotated;
  EXPECT_EQ(test::plan_error(problem), "");
  problem.rope_dim = 514;
  EXPECT_EQ(test::plan_error(problem), "attend: rope_dim is 514, expected an even number of at most 512");
  problem.rope_dim = 64;
  problem.head_dim = 576;
  problem.window_format = CacheFormat::kv_e4m3_f32;
  EXPECT_EQ(test::plan_error(problem), "attend: value_dim is 512, expected head_dim=576 (out_form=unrotated)");
  problem.out_form = OutForm::plain;
  problem.q_form = QForm::raw;
  EXPECT_EQ(test::plan_error(problem), "");
}

TEST(AttendForms, WhatAFormNeedsMustComeAndNothingElse) {
  const std::vector<std::pair<const char*, const char*>> slips = {
      {"rope_table", "attend: rope_table is missing, expected one with q_form=raw out_form=e4m3"},
      {"positions", "attend: positions is missing, expected one with q_form=raw out_form=e4m3"},
      {"out_scale", "attend: out_scale is missing, expected one with q_form=raw out_form=e4m3"}};
  const auto formed =
      harness::make_case("attend", "num_heads=2 window_width=8 q_form=raw out_form=e4m3 out_dtype=e4m3");
  const auto plain = harness::make_case("attend", "num_heads=2 window_width=8 out_dtype=bf16");
  ASSERT_TRUE(formed.ok() && plain.ok());
  const auto formed_on = harness::DeviceCase::create(formed.value(), test::cpu()),
             plain_on = harness::DeviceCase::create(plain.value(), test::cpu());
  ASSERT_TRUE(formed_on.ok() && plain_on.ok());
  const auto run = [](const harness::OpCase& built, const std::vector<TensorView>& views) {
    const auto plan = plan_problem(*built.op, built.problem.data(), test::cpu(), {});
    if (!plan.ok()) return std::string(plan.status().text());
    const auto workspace = harness::PlanWorkspace::create(plan.value());
    return std::string(run_op(plan.value(), views, workspace->get()).text());
  };
  EXPECT_EQ(run(formed.value(), formed_on->views()), "");
  EXPECT_EQ(run(plain.value(), plain_on->views()), "");
  for (const auto& [name, text] : slips) {
    std::vector<TensorView> views = formed_on->views();
    views[formed->index_of(name)] = {};
    EXPECT_EQ(run(formed.value(), views), text);
    views = plain_on->views();
    views[plain->index_of(name)] = formed_on->views()[formed->index_of(name)];
    EXPECT_EQ(run(plain.value(), views),
              std::string("attend: ") + name + " came, expected none with q_form=final out_form=plain");
  }
}

}  // namespace
}  // namespace fathom
