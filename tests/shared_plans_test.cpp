// SharedPlans: one plan for all. Eight threads run it at once, each in a workspace of its own; plans are made and
// dropped meanwhile; a child process goes on with its parent's plan.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "harness/case_file.h"
#include "harness/run.h"
#include "support/cases.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

constexpr int kThreads = 8, kRuns = 4;

class SharedPlans : public testing::TestWithParam<test::OpName> {};

TEST_P(SharedPlans, EightThreadsGetTheBitsOfOne) {
  const auto texts = harness::read_cases(FATHOM_CASES_DIR, GetParam().name, "smoke");
  ASSERT_TRUE(texts.ok());
  std::int64_t runs = 0;
  for (const std::string& text : texts.value()) {
    const auto built = harness::make_case(GetParam().name, text);
    ASSERT_TRUE(built.ok()) << built.status().text();
    const Device device = Device::cpu(2).value();
    const auto plan = plan_problem(*built->op, built->problem.data(), device);
    ASSERT_TRUE(plan.ok());
    const harness::WatchedRun alone = harness::run_case(built.value(), plan.value(), harness::kPoisons[0]);
    ASSERT_TRUE(alone.ok()) << alone.problem_text();
    std::atomic<int> wrong{0};
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] {
          for (int r = 0; r < kRuns; ++r) {
            // Every other thread takes a plan of its own, so that plans come and go beside the shared one.
            const auto own = plan_problem(*built->op, built->problem.data(), device);
            const harness::WatchedRun run =
                harness::run_case(built.value(), i % 2 == 0 ? plan.value() : own.value(), harness::kPoisons[r % 2]);
            if (!run.ok() || harness::first_difference(built.value(), alone, run) != nullptr) ++wrong;
          }
        });
      }
    }
    EXPECT_EQ(wrong, 0) << GetParam().name << " \"" << text << "\"";
    runs += kThreads * kRuns;
  }
  test::count_cases(runs);
}

TEST_P(SharedPlans, AChildProcessGoesOn) {
  if (kUnderSanitizer) GTEST_SKIP() << "sanitizers do not follow a fork of many threads";
  const auto texts = harness::read_cases(FATHOM_CASES_DIR, GetParam().name, "smoke");
  ASSERT_TRUE(texts.ok());
  const auto built = harness::make_case(GetParam().name, texts->front());
  ASSERT_TRUE(built.ok());
  const auto plan = plan_problem(*built->op, built->problem.data(), Device::cpu(2).value());
  ASSERT_TRUE(plan.ok());
  const harness::WatchedRun before = harness::run_case(built.value(), plan.value(), harness::kPoisons[0]);
  ASSERT_TRUE(before.ok()) << before.problem_text();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(60);
    const harness::WatchedRun after = harness::run_case(built.value(), plan.value(), harness::kPoisons[1]);
    ::_exit(after.ok() && harness::first_difference(built.value(), before, after) == nullptr ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the child ended with " << status;
}

INSTANTIATE_TEST_SUITE_P(All, SharedPlans, testing::ValuesIn(test::op_names()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace fathom
