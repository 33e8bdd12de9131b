// attend with split=fixed: the bits of a query are its own, whatever stands beside it in the batch, whatever the plan
// was made for, on however many multiprocessors. With split=balanced they are not, which shows that the test can fail.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "fathom/attend.h"
#include "harness/device_case.h"
#include "harness/plan_workspace.h"
#include "support/cuda.h"
#include "support/cut_run.h"

namespace fathom {
namespace {

using harness::OpCase;
using harness::WatchedRun;
using test::Piece;

constexpr int kQueries = 64;

class AttendSplit : public testing::TestWithParam<const char*> {
 protected:
  /// The pieces of the case, each in a call of its own. Plans are made for `capacity` queries, 0: as many as the piece
  /// has.
  static Result<WatchedRun> run(const OpCase& built, const Device& device, const AttendProblem& problem,
                                const std::vector<Piece>& pieces, int capacity) {
    FATHOM_ASSIGN(const harness::DeviceCase arguments, harness::DeviceCase::create(built, device));
    for (const Piece& piece : pieces) {
      AttendProblem planned = problem;
      planned.num_tokens = capacity > 0 ? capacity : static_cast<int>(piece.count);
      FATHOM_ASSIGN(const AttendPlan plan, plan_attend(planned, device, {GetParam()}));
      FATHOM_ASSIGN(const harness::PlanWorkspace workspace, harness::PlanWorkspace::create(plan));
      FATHOM_TRY(run_op(plan, test::views_of_piece(built, arguments.views(), piece), workspace.get()));
      FATHOM_TRY(synchronize(device));
    }
    return arguments.read(built);
  }

  /// Pieces of `count` queries, the last one first.
  static std::vector<Piece> pieces_of(std::int64_t count) {
    std::vector<Piece> pieces;
    for (std::int64_t first = 0; first < kQueries; first += count)
      pieces.push_back({first, std::min<std::int64_t>(count, kQueries - first)});
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }

  /// Names of the runs that differ from the whole batch in one call.
  static std::vector<std::string> differing(const Device& device, const char* text, Split split) {
    const auto built = harness::make_case("attend", std::string("num_tokens=64 outputs=1 sink=1 seed=3 ") + text);
    EXPECT_TRUE(built.ok()) << built.status().text();
    if (!built.ok()) return {"no case"};
    AttendProblem problem = built->problem_as<AttendProblem>();
    problem.split = split;
    AttendProblem wide = problem;  // ranges say their own ends
    if (wide.entries_rows == RowsBy::range) wide.entries_width = 8192;
    const Device small = device.limited_to({.num_multiprocessors = 4});
    const struct {
      const char* name;
      const Device& device;
      const AttendProblem& problem;
      std::int64_t queries;
      int capacity;
    } runs[] = {{"alone", device, problem, 1, 0},
                {"alone, planned for many", device, problem, 1, kQueries},
                {"in sevens", device, problem, 7, 0},
                {"in one, planned for thousands", device, problem, kQueries, 5000},
                {"on four processors", small, problem, kQueries, 0},
                {"alone on four processors", small, problem, 1, 0},
                {"planned for more rows", device, wide, 7, 0}};
    const auto whole = run(built.value(), device, problem, {{0, kQueries}}, 0);
    EXPECT_TRUE(whole.ok()) << whole.status().text();
    if (!whole.ok()) return {"no run"};
    std::vector<std::string> names;
    for (const auto& way : runs) {
      const auto got = run(built.value(), way.device, way.problem, pieces_of(way.queries), way.capacity);
      EXPECT_TRUE(got.ok()) << got.status().text();
      if (!got.ok()) return {"no run"};
      const char* name = harness::first_difference(built.value(), whole.value(), got.value());
      if (name != nullptr) names.push_back(std::string(way.name) + ": " + name);
    }
    return names;
  }

  static bool is_here(const Device& device) { return plan_attend({.num_heads = 1}, device, {GetParam()}).ok(); }
};

constexpr const char* kShapes[] = {
    "num_heads=64 window_width=128 entries_rows=list entries_width=512 context=4000",
    "num_heads=128 window_width=128 entries_rows=list entries_width=1024 context=4000",
    "num_heads=64 num_seqs=9 window_width=128 entries_rows=range entries_width=2500 context=4000",
    "num_heads=8 num_seqs=3 window_width=128 entries_rows=range entries_width=300 holes=1",
    "num_heads=20 window_rows=list window_width=250 holes=1 context=900",
};

TEST_P(AttendSplit, FixedBitsAreTheQuerysOwn) {
  FATHOM_NEEDS_CUDA(device);
  if (!is_here(device)) GTEST_SKIP() << GetParam() << " is for another GPU";
  for (const char* shape : kShapes)
    EXPECT_EQ(differing(device, shape, Split::fixed), std::vector<std::string>{}) << shape;
}

TEST_P(AttendSplit, BalancedBitsAreNot) {
  FATHOM_NEEDS_CUDA(device);
  if (!is_here(device)) GTEST_SKIP() << GetParam() << " is for another GPU";
  if (std::string(GetParam()) == "cuda:simt") GTEST_SKIP() << "cuda:simt never cuts a query";
  EXPECT_NE(differing(device, kShapes[0], Split::balanced), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(All, AttendSplit, testing::Values("cuda:sm90", "cuda:sm80", "cuda:simt"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

}  // namespace
}  // namespace fathom
