// compress against the specification's worked example (13.1) and its rules on masks, rings, padding and rollback.
#include "fathom/compress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;

/// 13.1: r = 2, d_c = 2, overlap. The projections pick kvp and score out of x: x[t] = (kvp[t], score[t]).
class WorkedExample : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int kTokens = 6, kWidth = 4, kHidden = 8;
  WorkedExample() {
    problem = {.num_tokens = kTokens, .num_seqs = 1, .hidden_size = kHidden, .dim = 2, .rope_dim = 0, .ratio = 2, .overlap = 1,
               .numerics = Numerics::exact, .weight_dtype = DType::f32, .format = CacheFormat::kv_f32, .page_size = 1, .state_page_size = 2};
    for (int c = 0; c < kWidth; ++c) {
      wkv[c * kHidden + c] = 1;
      wgate[c * kHidden + kWidth + c] = 1;
    }
    for (int t = 0; t < kTokens; ++t) {
      positions[t] = t;
      slots[t] = t % 2 == 1 ? t / 2 : -1;
      state_slots[t] = t;
    }
    state.assign(3 * 2 * 2 * kWidth, NAN);
    entries.assign(3 * 2, NAN);
  }
  CompressArgs args(int first, int count) {
    CompressArgs a;
    a.x = view(x + first * kHidden, DType::f32, {count, kHidden});
    a.wkv = view(wkv, DType::f32, {kWidth, kHidden});
    a.wgate = view(wgate, DType::f32, {kWidth, kHidden});
    a.ape = view(ape, DType::f32, {2, kWidth});
    a.norm = view(norm, DType::f32, {2});
    a.rope_table = view(rope, DType::f32, {8, 0});
    a.positions = view(positions + first, DType::i32, {count});
    a.seq_ids = view(seqs, DType::i32, {count});
    a.slot_mapping = view(slots + first, DType::i64, {count});
    a.state_slot_mapping = view(state_slots + first, DType::i64, {count});
    a.state_block_table = view(table, DType::i32, {1, 3});
    a.state_cache = view(state.data(), DType::u8, {3, 2 * 2 * kWidth * 4});
    a.cache = view(entries.data(), DType::u8, {3, 8});
    return a;
  }
  /// Pooled values are seen through RMSNorm; with weights (1, 0.5) and eps 1e-6 entry 1 is printed in the text.
  static std::vector<double> normed(double a, double b) {
    const double s = 1 / std::sqrt((a * a + b * b) / 2 + 1e-6);
    return {a * s, 0.5 * b * s};
  }
  void expect_entries() const {
    const std::vector<double> expected[] = {normed(-0.001040, 2.755081), normed(1.194205, 0.556763), normed(2.404011, 0.628692)};
    for (int j = 0; j < 3; ++j) {
      EXPECT_NEAR(entries[2 * j], expected[j][0], 3e-6) << "entry " << j;
      EXPECT_NEAR(entries[2 * j + 1], expected[j][1], 3e-6) << "entry " << j;
    }
    EXPECT_NEAR(entries[2], 1.281755, 3e-6);
    EXPECT_NEAR(entries[3], 0.298790, 3e-6);
  }

  CompressProblem problem;
  float x[kTokens * kHidden] = {1, 2, 3, 4,  0.0f,  0.1f,  0.2f, -0.3f, 0,  1, -1, 2,  0.5f, 0.0f,  1.0f,  0.4f,
                                2, 0, 1, 1,  -0.2f, 0.3f,  0.0f, 0.6f,  -1, 3, 2,  -2, 0.1f, -0.4f, 0.7f,  0.2f,
                                4, 1, 0, 1,  0.3f,  0.3f,  -0.5f, 0.0f, 1, -1, 5,  0,  -0.6f, 0.2f, 0.4f,  0.9f};
  float wkv[kWidth * kHidden] = {}, wgate[kWidth * kHidden] = {};
  float ape[2 * kWidth] = {0.1f, 0, 0, 0.2f, -0.1f, 0.2f, 0.3f, 0};
  float norm[2] = {1, 0.5f}, rope[1] = {};
  std::int32_t positions[kTokens], seqs[kTokens] = {}, table[3] = {0, 1, 2};
  std::int64_t slots[kTokens], state_slots[kTokens];
  std::vector<float> state, entries;
};

TEST_P(WorkedExample, EntriesOfOnePrefill) {
  ASSERT_EQ(run_with(GetParam(), problem, args(0, kTokens)), "");
  expect_entries();
}

TEST_P(WorkedExample, EverySplitGivesTheSameBits) {
  ASSERT_EQ(run_with(GetParam(), problem, args(0, kTokens)), "");
  const std::vector<float> whole = entries, whole_state = state;
  for (int mask = 1; mask < 1 << (kTokens - 1); ++mask) {
    entries.assign(entries.size(), NAN);
    state.assign(state.size(), NAN);
    for (int first = 0; first < kTokens;) {
      int count = 1;
      while (first + count < kTokens && (mask >> (first + count - 1) & 1) == 0) ++count;
      ASSERT_EQ(run_with(GetParam(), problem, args(first, count)), "");
      first += count;
    }
    EXPECT_EQ(entries, whole) << "split " << mask;
    EXPECT_EQ(state, whole_state) << "split " << mask;
  }
}

TEST_P(WorkedExample, StateRowsHoldKvAndScoreWithApe) {
  ASSERT_EQ(run_with(GetParam(), problem, args(0, 5)), "");
  const float row2[] = {2, 0, 1, 1, -0.1f, 0.3f, 0.0f, 0.8f}, row4[] = {4, 1, 0, 1, 0.4f, 0.3f, -0.5f, 0.2f};
  for (int c = 0; c < 8; ++c) {
    EXPECT_NEAR(state[2 * 8 + c], row2[c], 1e-6);
    EXPECT_NEAR(state[4 * 8 + c], row4[c], 1e-6);
  }
}

TEST_P(WorkedExample, ARingOfStateRowsMayWrapWithinACall) {
  // Four state rows hold what any entry needs; tokens 0..5 wrap round them.
  for (int t = 0; t < kTokens; ++t) state_slots[t] = t % 4;
  table[2] = 0;  // positions 4, 5 lie where 0, 1 were
  ASSERT_EQ(run_with(GetParam(), problem, args(0, 3)), "");
  ASSERT_EQ(run_with(GetParam(), problem, args(3, 3)), "");
  expect_entries();
}

TEST_P(WorkedExample, ARejectedTokenLeavesNoTrace) {
  ASSERT_EQ(run_with(GetParam(), problem, args(0, kTokens)), "");
  const std::vector<float> whole = entries;
  entries.assign(entries.size(), NAN);
  state.assign(state.size(), NAN);
  ASSERT_EQ(run_with(GetParam(), problem, args(0, 3)), "");
  float right[3 * kHidden];
  std::copy_n(x + 3 * kHidden, 3 * kHidden, right);
  for (int i = 3 * kHidden; i < kTokens * kHidden; ++i) x[i] = 9.0f - static_cast<float>(i % 7);
  ASSERT_EQ(run_with(GetParam(), problem, args(3, 3)), "");  // drafts, all rejected
  std::copy_n(right, 3 * kHidden, x + 3 * kHidden);
  ASSERT_EQ(run_with(GetParam(), problem, args(3, 3)), "");
  EXPECT_EQ(entries, whole);
}

TEST_P(WorkedExample, PaddingAndHostileIndicesTouchNothing) {
  for (int t = 0; t < kTokens; ++t) positions[t] = t % 2 == 0 ? -1 : std::numeric_limits<std::int32_t>::max();
  ASSERT_EQ(run_with(GetParam(), problem, args(0, kTokens)), "");
  for (int t = 0; t < kTokens; ++t) {
    positions[t] = t;
    slots[t] = std::numeric_limits<std::int64_t>::max() - t;
    state_slots[t] = std::numeric_limits<std::int64_t>::min() + t;
    seqs[t] = 1 << 30;
  }
  table[0] = std::numeric_limits<std::int32_t>::max();
  ASSERT_EQ(run_with(GetParam(), problem, args(0, kTokens)), "");
  for (const float value : entries) EXPECT_TRUE(std::isnan(value));
  for (const float value : state) EXPECT_TRUE(std::isnan(value));
}

TEST_P(WorkedExample, OlderRowsBehindHostileTablesAreMasked) {
  // Token 3 alone closes entry 1 and needs rows 0..2, which no table leads to: only its own row is left to pool.
  for (const std::int32_t seq : {0, -1, 1, 1 << 30, std::numeric_limits<std::int32_t>::min()}) {
    for (const std::int32_t page : {-1, 3, std::numeric_limits<std::int32_t>::max()}) {
      if (seq == 0) {
        table[0] = table[1] = page;
      }
      std::fill_n(seqs, kTokens, seq);
      entries.assign(entries.size(), NAN);
      ASSERT_EQ(run_with(GetParam(), problem, args(3, 1)), "");
      const std::vector<double> alone = normed(2, -2);  // columns 2, 3 of token 3
      EXPECT_NEAR(entries[2], alone[0], 3e-6);
      EXPECT_NEAR(entries[3], alone[1], 3e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, WorkedExample, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
