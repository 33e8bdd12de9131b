// GuardPages: every argument of a case ends at a page that nobody may touch, then begins behind one. A read or write
// one byte past either end kills the process, whatever the value read is used for.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "harness/case_file.h"
#include "harness/plan_workspace.h"
#include "harness/run.h"
#include "support/cases.h"

namespace fathom {
namespace {

enum class Side { end, begin };

/// A copy of `bytes` at one side of its pages, a page without any rights on either side of these.
class WalledCopy {
 public:
  WalledCopy(std::span<const std::byte> bytes, Side side) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t inner = (bytes.size() + page - 1) / page * page;
    size_ = inner + 2 * page;
    pages_ = static_cast<std::byte*>(::mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(static_cast<void*>(pages_), MAP_FAILED);
    EXPECT_EQ(::mprotect(pages_ + page, inner, PROT_READ | PROT_WRITE), 0);
    data_ = pages_ + page + (side == Side::end ? inner - bytes.size() : 0);
    if (!bytes.empty()) std::memcpy(data_, bytes.data(), bytes.size());
  }
  WalledCopy(WalledCopy&& other) noexcept
      : pages_(std::exchange(other.pages_, nullptr)), data_(other.data_), size_(other.size_) {}
  WalledCopy& operator=(WalledCopy&&) = delete;
  ~WalledCopy() {
    if (pages_ != nullptr) ::munmap(pages_, size_);
  }
  std::byte* data() const { return data_; }

 private:
  std::byte* pages_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

class GuardPages : public testing::TestWithParam<test::OpName> {};

TEST_P(GuardPages, NothingPastAnArgumentIsTouched) {
  const auto texts = harness::read_cases(FATHOM_CASES_DIR, GetParam().name, "ci");
  ASSERT_TRUE(texts.ok());
  std::int64_t runs = 0;
  for (const std::string& text : texts.value()) {
    const auto built = harness::make_case(GetParam().name, text);
    ASSERT_TRUE(built.ok()) << built.status().text();
    const auto plan = plan_problem(*built->op, built->problem.data(), Device::cpu(2).value());
    ASSERT_TRUE(plan.ok());
    const harness::WatchedRun plain = harness::run_case(built.value(), plan.value(), harness::kPoisons[0]);
    ASSERT_TRUE(plain.ok()) << plain.problem_text();
    const WorkspaceSize size = plan->workspace_size();
    for (const Side side : {Side::end, Side::begin}) {
      std::vector<WalledCopy> copies;
      copies.reserve(built->args.size() + 3);
      std::vector<TensorView> views = plain.views;
      for (std::size_t i = 0; i < views.size(); ++i) {
        if (views[i].is_absent()) continue;
        const Role role = built->op->args[i].role;
        if (is_written(role) && !harness::is_inout(role)) {
          const std::vector<std::byte> unwritten(static_cast<std::size_t>(harness::span_bytes(views[i])),
                                                 std::byte{0x5a});
          copies.emplace_back(unwritten, side);
        } else {
          copies.emplace_back(built->args[i].block.bytes(), side);
        }
        views[i].data = copies.back().data();
      }
      Workspace workspace;
      const auto walled = [&](std::int64_t bytes) {
        const std::vector<std::byte> zeros(static_cast<std::size_t>(bytes));
        copies.emplace_back(zeros, side);
        return Buffer{copies.back().data(), bytes};
      };
      workspace = {walled(size.scratch), walled(size.counters), walled(size.schedule)};
      const Status status = run_op(plan.value(), views, workspace);
      ASSERT_TRUE(status.ok()) << text << ": " << status.text();
      for (std::size_t i = 0; i < views.size(); ++i) {
        if (views[i].is_absent() || !is_written(built->op->args[i].role)) continue;
        // The same bits as in ordinary memory: rows at odd addresses take other paths.
        bool equal = true;
        const auto* first = static_cast<const std::byte*>(plain.views[i].data);
        harness::for_each_row(plain.views[i], [&](const std::byte* row, std::int64_t count) {
          equal = equal && std::memcmp(row, static_cast<const std::byte*>(views[i].data) + (row - first),
                                       static_cast<std::size_t>(bytes_of(views[i].dtype, count))) == 0;
        });
        EXPECT_TRUE(equal) << GetParam().name << " \"" << text << "\": " << built->op->args[i].name
                           << " depends on where it lies";
      }
      ++runs;
    }
  }
  EXPECT_GT(runs, 30);
  test::count_cases(runs);
}

INSTANTIATE_TEST_SUITE_P(All, GuardPages, testing::ValuesIn(test::op_names()),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(GuardPagesDeathTest, AByteTooManyKills) {
  const std::vector<std::byte> bytes(100);
  EXPECT_DEATH(
      {
        const WalledCopy copy(bytes, Side::end);
        volatile auto byte = copy.data()[100];
        static_cast<void>(byte);
      },
      "");
  EXPECT_DEATH(
      {
        const WalledCopy copy(bytes, Side::begin);
        volatile auto byte = copy.data()[-1];
        static_cast<void>(byte);
      },
      "");
}

}  // namespace
}  // namespace fathom
