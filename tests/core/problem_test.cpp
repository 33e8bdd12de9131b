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
