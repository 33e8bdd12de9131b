// attend against the specification's worked example (13.2), its corner cases, and hostile arguments. Agreement of the
// implementations with each other is the conformance test's.
#include "fathom/attend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/op_run.h"

namespace fathom {
namespace {

using test::Bytes;
using test::run_with;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// 13.2: two window keys, two entries, K = V, scale 0.5, sink 0.75, as f32 rows of four elements.
class WorkedExample : public testing::TestWithParam<const char*> {
 protected:
  WorkedExample() {
    problem.num_heads = 1;
    problem.head_dim = problem.value_dim = 4;
    problem.q_dtype = problem.out_dtype = DType::f32;
    problem.softmax_scale = 0.5f;
    problem.window_rows = problem.entries_rows = RowsBy::list;
    problem.window_format = problem.entries_format = CacheFormat::kv_f32;
    problem.window_page_size = problem.entries_page_size = 2;
    problem.window_width = problem.entries_width = 2;
    args.q = view(q, DType::f32, {1, 1, 4});
    args.window.cache = view(window, DType::u8, {1, 32});
    args.window.indices = view(indices, DType::i32, {1, 2});
    args.entries.cache = view(entries, DType::u8, {1, 32});
    args.entries.indices = view(indices, DType::i32, {1, 2});
    args.attn_sink = view(&sink, DType::f32, {1});
    args.out = view(out, DType::f32, {1, 1, 4});
    args.lse = view(&lse, DType::f32, {1, 1});
    args.max_logits = view(&max_logit, DType::f32, {1, 1});
  }
  void expect_out(float a, float b, float c, float d) const {
    const float expected[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(out[i], expected[i], 1e-6) << "element " << i;
  }

  AttendProblem problem;
  AttendArgs args;
  float q[4] = {1, -0.5f, 2, 0.25f};
  float window[8] = {0.5f, 1, 1.5f, -1, 1, 0, -0.5f, 2};
  float entries[8] = {2, 1, 0.5f, 0, -1, 0.5f, 1, 4};
  std::int32_t indices[2] = {0, 1};
  float sink = 0.75f, out[4] = {}, lse = 0, max_logit = 0;
};

TEST_P(WorkedExample, JointSoftmaxWithSink) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.592162f, 0.652673f, 0.712301f, 0.619726f);
  EXPECT_NEAR(lse, 2.409493f, 1e-6);
  EXPECT_NEAR(max_logit, 1.375f, 1e-6);
}

TEST_P(WorkedExample, WithoutSink) {
  args.attn_sink = {};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.704812f, 0.776834f, 0.847805f, 0.737620f);
  EXPECT_NEAR(lse, 2.409493f, 1e-6) << "the sink is no part of lse";
}

TEST_P(WorkedExample, EachSetAlone) {
  args.attn_sink = {};
  problem.entries_rows = RowsBy::none;
  args.entries = {};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.622543f, 0.754915f, 1.009830f, -0.264745f);
  EXPECT_NEAR(lse, 1.656150f, 1e-6);
}

TEST_P(WorkedExample, SinkOfMinusInfinityDoesNothingAndOfPlusInfinityTakesAll) {
  sink = -kInfinity;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.704812f, 0.776834f, 0.847805f, 0.737620f);
  for (const float huge : {kInfinity, 3e38f, 1e4f}) {
    sink = huge;
    ASSERT_EQ(run_with(GetParam(), problem, args), "");
    expect_out(0, 0, 0, 0);
    EXPECT_NEAR(lse, 2.409493f, 1e-6);
  }
}

TEST_P(WorkedExample, QueryThatSeesNothingReturnsZero) {
  std::int32_t absent[] = {-1, std::numeric_limits<std::int32_t>::max()};
  args.window.indices = args.entries.indices = view(absent, DType::i32, {1, 2});
  std::fill_n(out, 4, NAN);
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0, 0, 0, 0);
  EXPECT_EQ(lse, -kInfinity);
  EXPECT_EQ(max_logit, -kInfinity);
}

TEST_P(WorkedExample, LengthCutsTheListAndAbsentRowsAreNeverRead) {
  std::int32_t first_only[] = {0, 1};
  std::int32_t length = 1;
  args.window.indices = view(first_only, DType::i32, {1, 2});
  args.window.lengths = view(&length, DType::i32, {1});
  window[4] = window[5] = window[6] = window[7] = NAN;  // the row behind the cut
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const std::vector<float> cut(out, out + 4);
  std::int32_t holes[] = {-7, 0};
  args.window.lengths = {};
  args.window.indices = view(holes, DType::i32, {1, 2});
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(std::isfinite(out[i]));
    EXPECT_EQ(out[i], cut[i]) << "a hole is no row";
  }
}

TEST_P(WorkedExample, HostileLengthsAndRangesStayInside) {
  for (const std::int32_t length : {std::numeric_limits<std::int32_t>::min(), -1, 0, 3, std::numeric_limits<std::int32_t>::max()}) {
    std::int32_t value = length;
    args.window.lengths = args.entries.lengths = view(&value, DType::i32, {1});
    ASSERT_EQ(run_with(GetParam(), problem, args), "");
    if (length > 0) {
      expect_out(0.592162f, 0.652673f, 0.712301f, 0.619726f);
    } else {
      expect_out(0, 0, 0, 0);
    }
  }
  problem.window_rows = RowsBy::range;
  std::int32_t table[] = {0}, seq = 0, begin = -5, end = std::numeric_limits<std::int32_t>::max();
  args.window = {args.window.cache, {}, {}, view(&begin, DType::i32, {1}), view(&end, DType::i32, {1}), view(table, DType::i32, {1, 1})};
  args.entries.lengths = {};
  args.seq_ids = view(&seq, DType::i32, {1});
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0.592162f, 0.652673f, 0.712301f, 0.619726f);
  seq = 1;  // no such sequence: no window rows
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_NEAR(lse, 1.773123f, 1e-6);
  table[0] = 1 << 30;  // no such page
  seq = 0;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_NEAR(lse, 1.773123f, 1e-6);
}

TEST_P(WorkedExample, AnInfiniteSinkTakesAllEvenOfValuesThatOverflow) {
  std::fill_n(q, 4, 0.0f);
  std::fill_n(window, 8, 3e38f);
  sink = kInfinity;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0, 0, 0, 0);
}

TEST_P(WorkedExample, RowsOfLogitMinusInfinityWeighNothing) {
  std::fill_n(q, 4, 10.0f);
  std::fill_n(window, 8, -3e38f);
  args.attn_sink = {};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const std::vector<float> with(out, out + 4);
  problem.window_rows = RowsBy::none;
  args.window = {};
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(with[i], out[i], 1e-6);
  std::fill_n(entries, 8, -3e38f);
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  expect_out(0, 0, 0, 0);
  EXPECT_EQ(lse, -kInfinity);
}

INSTANTIATE_TEST_SUITE_P(Cpu, WorkedExample, testing::Values("cpu", "reference"));

/// More rows than the CPU keeps logits for, so that the softmax is carried along.
class ManyRows : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int kCount = 5000;
  ManyRows() : rows(kCount), order(kCount) {
    problem.num_heads = 1;
    problem.head_dim = problem.value_dim = 1;
    problem.q_dtype = problem.out_dtype = DType::f32;
    problem.softmax_scale = 1;
    problem.window_rows = RowsBy::list;
    problem.window_format = CacheFormat::kv_f32;
    problem.window_page_size = kCount;
    problem.window_width = kCount;
    args.q = view(&q, DType::f32, {1, 1, 1});
    args.window.cache = view(rows.data(), DType::u8, {1, kCount * 4});
    args.window.indices = view(order.data(), DType::i32, {1, kCount});
    args.out = view(&out, DType::f32, {1, 1, 1});
    args.lse = view(&lse, DType::f32, {1, 1});
    for (int i = 0; i < kCount; ++i) order[i] = i;
  }
  AttendProblem problem;
  AttendArgs args;
  std::vector<float> rows;
  std::vector<std::int32_t> order;
  float q = 1, out = 0, lse = 0;
};

TEST_P(ManyRows, AgreeWithTheSumInAnyOrder) {
  double sum = 0, weighted = 0;
  for (int i = 0; i < kCount; ++i) {
    rows[i] = static_cast<float>((i * 37) % 101) * 0.25f - 10;
    sum += std::exp(rows[i]);
    weighted += std::exp(rows[i]) * rows[i];
  }
  for (const int step : {1, 4999, 1237}) {
    for (int i = 0; i < kCount; ++i) order[i] = static_cast<std::int32_t>(std::int64_t{i} * step % kCount);
    ASSERT_EQ(run_with(GetParam(), problem, args), "");
    EXPECT_NEAR(out, weighted / sum, 2e-4);
    EXPECT_NEAR(lse, std::log(sum), 1e-4);
  }
}

TEST_P(ManyRows, AFirstSpanThatWeighsNothingLeavesTheRestAlone) {
  q = 10;
  for (int i = 0; i < kCount; ++i) rows[i] = i < 4500 ? -3e38f : 1.0f;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  EXPECT_NEAR(out, 1, 1e-6);
  EXPECT_NEAR(lse, 10 + std::log(500.0), 1e-5);
}

TEST_P(ManyRows, ALaterSpanWithALargerLogitOutweighsTheFirst) {
  for (int i = 0; i < kCount; ++i) rows[i] = i < 4500 ? 1.0f : 5.0f;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const double first = 4500 * std::exp(1.0), later = 500 * std::exp(5.0);
  EXPECT_NEAR(out, (first + 5 * later) / (first + later), 1e-4);
  EXPECT_NEAR(lse, std::log(first + later), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Cpu, ManyRows, testing::Values("cpu", "reference"));

TEST(AttendChecks, EachSlipIsNamed) {
  AttendProblem problem;
  problem.num_heads = 2;
  problem.head_dim = 512;
  problem.value_dim = 600;
  EXPECT_EQ(test::plan_error(problem), "attend: value_dim is 600, expected at most head_dim=512");
  problem.value_dim = 512;
  problem.num_heads = 129;
  EXPECT_EQ(test::plan_error(problem), "attend: num_heads is 129, expected 1 to 128");
  problem.num_heads = 2;
  problem.q_dtype = DType::e4m3;
  EXPECT_EQ(test::plan_error(problem), "attend: q_dtype is e4m3, expected f32 or bf16");
  problem.q_dtype = DType::f32;
  problem.head_dim = 500;
  problem.value_dim = 500;
  EXPECT_NE(test::plan_error(problem), "") << "kv_e4m3_ue8m0 rows hold 512 elements";
}

TEST(AttendChecks, ArgumentsMustFitTheKindOfTheSet) {
  AttendProblem problem;
  problem.num_heads = 1;
  problem.head_dim = problem.value_dim = 4;
  problem.window_rows = RowsBy::list;
  problem.window_format = CacheFormat::kv_f32;
  problem.window_page_size = 1;
  problem.window_width = 1;
  problem.q_dtype = problem.out_dtype = DType::f32;
  float q[4] = {}, rows[4] = {}, out[4] = {7, 7, 7, 7};
  std::int32_t index = 0;
  AttendArgs args;
  args.q = view(q, DType::f32, {1, 1, 4});
  args.out = view(out, DType::f32, {1, 1, 4});
  args.window.cache = view(rows, DType::u8, {1, 16});
  EXPECT_EQ(run_with("cpu", problem, args), "attend: window.indices is missing, window_rows=list needs it");
  args.window.indices = view(&index, DType::i32, {1, 1});
  args.window.end = view(&index, DType::i32, {1});
  EXPECT_EQ(run_with("cpu", problem, args), "attend: window.end came with window_rows=list, expected none");
  args.window.end = {};
  args.entries.cache = view(rows, DType::u8, {1, 16});
  EXPECT_EQ(run_with("cpu", problem, args), "attend: entries.cache came with entries_rows=none, expected none");
  args.entries.cache = {};
  args.q.shape[2] = 3;
  EXPECT_EQ(run_with("cpu", problem, args), "attend: q has shape [1, 1, 3], expected [num_tokens=1 (at most 1), num_heads=1, head_dim=4]");
  args.q.shape[2] = 4;
  args.q.dtype = DType::bf16;
  EXPECT_EQ(run_with("cpu", problem, args), "attend: q has dtype bf16, expected f32");
  args.q.dtype = DType::f32;
  args.window.cache.shape[1] = 15;
  EXPECT_NE(run_with("cpu", problem, args), "") << "a page of one row takes 16 bytes";
  for (const float value : out) EXPECT_EQ(value, 7) << "a refused call writes nothing";
  args.window.cache.shape[1] = 16;
  EXPECT_EQ(run_with("cpu", problem, args), "");
}

}  // namespace
}  // namespace fathom
