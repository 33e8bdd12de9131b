#include "fathom/core/problem.h"

#include <gtest/gtest.h>

#include <clocale>
#include <string>

#include "fathom/attend.h"
#include "fathom/layer.h"
#include "fathom/linear.h"

namespace fathom {
namespace {

TEST(ProblemText, PrintsWhatDiffersFromTheDefaultsAndReadsItBack) {
  AttendProblem problem;
  EXPECT_EQ(to_text(problem), "");
  problem.num_tokens = 3;
  problem.num_heads = 64;
  problem.softmax_scale = 0.5f;
  problem.entries_rows = RowsBy::list;
  problem.window_format = CacheFormat::kv_bf16;
  problem.q_dtype = DType::f32;
  const std::string text = to_text(problem);
  EXPECT_EQ(text, "num_tokens=3 num_heads=64 q_dtype=f32 softmax_scale=0.5 window_format=kv_bf16 entries_rows=list");
  auto read = problem_from<AttendProblem>(text);
  ASSERT_TRUE(read.ok()) << read.status().text();
  EXPECT_EQ(*read.operator->(), problem);
}

TEST(ProblemText, EveryOpReadsWhatItPrints) {
  for (const OpSpec* op : op_table()) {
    std::vector<std::byte> problem(op->problem->size), read(op->problem->size);
    std::memcpy(problem.data(), op->problem->defaults, problem.size());
    for (const ProblemField& field : op->problem->fields) {
      if (field.kind != FieldKind::integer && field.kind != FieldKind::capacity) continue;
      const auto most = static_cast<std::int32_t>(field.most);
      std::memcpy(problem.data() + field.offset, &most, sizeof(most));
    }
    ASSERT_TRUE(parse_problem(*op->problem, problem_text(*op->problem, problem.data()), read.data()).ok()) << op->name;
    EXPECT_EQ(problem_text(*op->problem, read.data()), problem_text(*op->problem, problem.data())) << op->name;
  }
}

TEST(ProblemText, AGroupIsNamedOnceAndItsExceptionsAfterIt) {
  const auto text_of = [](DType wq_a, DType wq_b, DType wkv) {
    const std::string text = to_text(ProjectProblem{.wq_a_dtype = wq_a, .wq_b_dtype = wq_b, .wkv_dtype = wkv});
    const auto read = problem_from<ProjectProblem>(text);
    EXPECT_TRUE(read.ok()) << read.status().text();
    EXPECT_EQ(read.value(), (ProjectProblem{.wq_a_dtype = wq_a, .wq_b_dtype = wq_b, .wkv_dtype = wkv})) << text;
    return text;
  };
  constexpr DType kF32 = DType::f32, kBf16 = DType::bf16, kE4m3 = DType::e4m3;
  EXPECT_EQ(text_of(kBf16, kBf16, kBf16), "");
  EXPECT_EQ(text_of(kE4m3, kE4m3, kE4m3), "weight_dtype=e4m3");
  EXPECT_EQ(text_of(kE4m3, kE4m3, kBf16), "weight_dtype=e4m3 wkv_dtype=bf16");
  EXPECT_EQ(text_of(kBf16, kE4m3, kE4m3), "weight_dtype=e4m3 wq_a_dtype=bf16");
  EXPECT_EQ(text_of(kBf16, kE4m3, kBf16), "wq_b_dtype=e4m3");
  EXPECT_EQ(text_of(kBf16, kE4m3, kF32), "wq_b_dtype=e4m3 wkv_dtype=f32");
  EXPECT_EQ(to_text(IndexQueryProblem{.wq_b_dtype = kE4m3}), "weight_dtype=e4m3");
}

TEST(ProblemText, AFieldsOwnNameGoesBeforeItsGroupsInAnyOrder) {
  for (const char* text : {"weight_dtype=e4m3 wkv_dtype=f32", "wkv_dtype=f32 weight_dtype=e4m3"}) {
    const ProjectProblem read = problem_from<ProjectProblem>(text).value();
    EXPECT_EQ(read.wq_a_dtype, DType::e4m3);
    EXPECT_EQ(read.wq_b_dtype, DType::e4m3);
    EXPECT_EQ(read.wkv_dtype, DType::f32);
  }
  ProjectProblem problem;
  const auto refused = [&](const char* text) { return std::string(parse_problem(ProjectProblem::spec(), text, &problem).text()); };
  EXPECT_EQ(refused("weight_dtype=f32 weight_dtype=f32"), "problem: weight_dtype is given twice");
  EXPECT_NE(refused("weight_dtype=f64").find("weight_dtype is \"f64\", expected one of f32"), std::string::npos);
  EXPECT_NE(refused("weight_type=f32").find("weight_dtype, "), std::string::npos);
  EXPECT_EQ(problem, ProjectProblem());
}

TEST(ProblemSpecs, GroupsAreDtypesOfOneDefaultSideBySide) {
  for (const OpSpec* op : op_table()) {
    for (const FieldGroup& group : field_groups(*op->problem)) {
      const ProblemField* last = nullptr;
      for (const ProblemField& field : op->problem->fields) {
        EXPECT_STRNE(field.name, group.name) << op->name;
        if (field.group == nullptr || std::string(field.group) != group.name) continue;
        EXPECT_EQ(field.kind, FieldKind::dtype);
        EXPECT_EQ(field_text(field, op->problem->defaults), "bf16");
        EXPECT_TRUE(last == nullptr || last + 1 == &field) << op->name << " " << field.name;
        last = &field;
      }
    }
  }
  EXPECT_EQ(field_groups(ProjectProblem::spec()).at(0).fields, "wq_a_dtype, wq_b_dtype, wkv_dtype");
  EXPECT_TRUE(field_groups(AttendProblem::spec()).empty());
}

struct Slip {
  const char* text;
  const char* sentence;
};
class BadText : public testing::TestWithParam<Slip> {};

TEST_P(BadText, IsRefusedAndChangesNothing) {
  LinearProblem problem{.num_tokens = 77};
  const Status status = parse_problem(LinearProblem::spec(), GetParam().text, &problem);
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_NE(std::string(status.text()).find(GetParam().sentence), std::string::npos) << status.text();
  EXPECT_EQ(problem.num_tokens, 77);
}

INSTANTIATE_TEST_SUITE_P(
    Slips, BadText,
    testing::Values(Slip{"num_tokens", "\"num_tokens\" is not a field"}, Slip{"tokens=3", "\"tokens\" is not a field"},
                    Slip{"num_tokens=3 num_tokens=4", "num_tokens is given twice"}, Slip{"num_tokens=-1", "expected an integer from 0"},
                    Slip{"num_tokens=3x", "num_tokens is \"3x\""}, Slip{"num_tokens=", "num_tokens is \"\""},
                    Slip{"num_tokens=99999999999999999999", "expected an integer"}, Slip{"in_dim=0", "expected an integer from 1"},
                    Slip{"x_dtype=f64", "expected one of f32, bf16"}, Slip{"activation_quant=e4m3", "expected one of none, e4m3_128"},
                    Slip{"=3", "\"\" is not a field"}, Slip{"in_dim=1.5", "in_dim is \"1.5\""}));

TEST(ProblemText, LongAndOddTextsAreRefused) {
  LinearProblem problem;
  EXPECT_FALSE(parse_problem(LinearProblem::spec(), std::string(5000, ' '), &problem).ok());
  EXPECT_FALSE(parse_problem(LinearProblem::spec(), std::string("in_dim=1\0", 9), &problem).ok());
  EXPECT_TRUE(parse_problem(LinearProblem::spec(), "  in_dim=1\t\nout_dim=2  ", &problem).ok());
  AttendProblem attend;
  EXPECT_FALSE(parse_problem(AttendProblem::spec(), "softmax_scale=inf", &attend).ok());
  EXPECT_FALSE(parse_problem(AttendProblem::spec(), "softmax_scale=nan", &attend).ok());
}

TEST(ProblemText, DoesNotDependOnTheLocale) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8"}) {
    if (std::setlocale(LC_ALL, name) != nullptr) break;  // where none is installed the test still holds
  }
  AttendProblem problem;
  problem.softmax_scale = 0.5f;
  EXPECT_EQ(to_text(problem), "softmax_scale=0.5");
  std::setlocale(LC_ALL, before.c_str());
}

TEST(CheckProblem, RealsHaveBoundsToo) {
  ProjectProblem problem{.hidden_size = 1, .num_heads = 1, .q_rank = 1, .norm_eps = -1};
  EXPECT_STREQ(check_problem(ProjectProblem::spec(), "project", &problem).text(), "project: norm_eps is -1, expected 0 to 1");
}

TEST(CheckProblem, EnumsOutsideTheirWordsAreRefused) {
  AttendProblem problem;
  problem.num_heads = 1;
  problem.entries_format = static_cast<CacheFormat>(200);
  EXPECT_STREQ(check_problem(AttendProblem::spec(), "attend", &problem).text(), "attend: entries_format holds 200, which names nothing");
}

}  // namespace
}  // namespace fathom
