// select_topk's rule: largest first, ties to the smaller column, NaN last; lengths are clamped.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "fathom/index.h"
#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SelectTopk : public testing::TestWithParam<const char*> {
 protected:
  std::vector<std::int32_t> picks(std::vector<float> scores, int topk, std::int32_t length = std::numeric_limits<std::int32_t>::max()) {
    std::vector<std::int32_t> out(topk, 99);
    SelectTopkArgs args{view(scores.data(), DType::f32, {1, static_cast<std::int64_t>(scores.size())}), view(&length, DType::i32, {1}),
                        view(out.data(), DType::i32, {1, topk})};
    const SelectTopkProblem problem{.num_scores = static_cast<std::int32_t>(scores.size()), .topk = topk};
    EXPECT_EQ(run_with(GetParam(), problem, args), "");
    return out;
  }
  using Picks = std::vector<std::int32_t>;
};

TEST_P(SelectTopk, TiesGoToTheSmallerColumn) {
  EXPECT_EQ(picks({0, 0, 0, 0, 0}, 3), (Picks{0, 1, 2}));
  EXPECT_EQ(picks({0, -0.0f, 1, -0.0f, 0}, 3), (Picks{0, 1, 2})) << "-0 and 0 tie";
  EXPECT_EQ(picks({1, 5, 5, 5, 9}, 2), (Picks{1, 4}));
}
TEST_P(SelectTopk, NanRanksBelowEverything) {
  EXPECT_EQ(picks({NAN, -kInfinity, -NAN, 1}, 2), (Picks{1, 3}));
  EXPECT_EQ(picks({NAN, -kInfinity, -NAN, 1}, 3), (Picks{0, 1, 3}));
  EXPECT_EQ(picks({NAN, NAN}, 1), (Picks{0}));
}
TEST_P(SelectTopk, LengthsAreClamped) {
  EXPECT_EQ(picks({3, 2, 1}, 2, 1), (Picks{0, -1}));
  EXPECT_EQ(picks({3, 2, 1}, 2, 0), (Picks{-1, -1}));
  EXPECT_EQ(picks({3, 2, 1}, 2, std::numeric_limits<std::int32_t>::min()), (Picks{-1, -1}));
  EXPECT_EQ(picks({3, 2, 1}, 4), (Picks{0, 1, 2, -1}));
}
TEST_P(SelectTopk, ExtremesOfTheNumberLine) {
  EXPECT_EQ(picks({-kInfinity, kInfinity, -1e-45f, 1e-45f, 3.4e38f}, 3), (Picks{1, 3, 4}));
}

INSTANTIATE_TEST_SUITE_P(Cpu, SelectTopk, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
