// index_query: what the key format asks of queries and weights (spec 4.1, 4.3).
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fathom/config.h"
#include "fathom/index.h"
#include "support/op_run.h"

namespace fathom {
namespace {

using test::run_with;

/// One token, two heads of 32 elements; the latent picks the query out of wq_b.
class IndexQuery : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int kHeads = 2, kDim = 32;
  IndexQuery() : wq_b(kHeads * kDim), q(kHeads * kDim), packed(kHeads * kDim) {
    problem = {.hidden_size = 1, .q_rank = 1, .index_heads = kHeads, .index_dim = kDim, .rope_dim = 0, .numerics = Numerics::exact,
               .wq_b_dtype = DType::f32, .weights_proj_dtype = DType::f32, .format = CacheFormat::index_f32};
    for (int i = 0; i < kHeads * kDim; ++i) wq_b[i] = std::sin(static_cast<float>(i + 1));
    args.x = view(&x, DType::f32, {1, 1});
    args.q_latent = view(&latent, DType::f32, {1, 1});
    args.wq_b = view(wq_b.data(), DType::f32, {kHeads * kDim, 1});
    args.weights_proj = view(proj, DType::f32, {kHeads, 1});
    args.rope_table = view(proj, DType::f32, {1, 0});
    args.positions = view(&position, DType::i32, {1});
    args.q = view(q.data(), DType::f32, {1, kHeads, kDim});
    args.weights = view(weights, DType::f32, {1, kHeads});
  }
  IndexQueryProblem problem;
  IndexQueryArgs args;
  float x = 2, latent = 1, proj[2] = {0.5f, -1.5f}, weights[2] = {};
  std::int32_t position = 0;
  std::vector<float> wq_b, q;
  std::vector<std::uint8_t> packed;
  std::uint8_t scales[kHeads] = {};
};

TEST_P(IndexQuery, TheHadamardRotationIsItsOwnInverse) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const std::vector<float> once = q;
  EXPECT_GT(std::fabs(once[0] - wq_b[0]), 1e-3f);
  const std::vector<float> original = wq_b;
  wq_b = once;
  args.wq_b.data = wq_b.data();
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (std::size_t i = 0; i < q.size(); ++i) EXPECT_NEAR(q[i], original[i], 1e-6);
}

TEST_P(IndexQuery, WeightsCarryTheScoreScale) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const float factor = 1 / std::sqrt(static_cast<float>(kHeads * kDim));
  EXPECT_NEAR(weights[0], 2 * 0.5f * factor, 1e-7);
  EXPECT_NEAR(weights[1], 2 * -1.5f * factor, 1e-7);
}

TEST_P(IndexQuery, TheFp8FormFoldsItsScaleIntoTheWeight) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const std::vector<float> plain = q;
  const float plain_weight = weights[0];
  problem.format = CacheFormat::index_e4m3_f32;
  args.q = view(packed.data(), DType::e4m3, {1, kHeads, kDim});
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  float largest = 0;
  for (int i = 0; i < kDim; ++i) largest = std::max(largest, std::fabs(plain[i]));
  const float scale = std::exp2(std::ceil(std::log2(largest / 448)));
  EXPECT_FLOAT_EQ(weights[0], plain_weight * scale);
}

TEST_P(IndexQuery, TheFp4FormPacksPairsWithAScalePer32) {
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  const std::vector<float> plain = q;
  problem.format = CacheFormat::index_e2m1_ue8m0;
  args.q = view(packed.data(), DType::e2m1x2, {1, kHeads, kDim});
  args.q_scale = view(scales, DType::ue8m0, {1, kHeads, 1});
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  constexpr float kValues[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
  for (int h = 0; h < kHeads; ++h) {
    const float scale = std::ldexp(1.0f, scales[h] - 127);
    for (int i = 0; i < kDim; ++i) {
      const int code = packed[(h * kDim + i) / 2] >> (i % 2 * 4) & 15;
      const float value = (code & 8 ? -1.0f : 1.0f) * kValues[code & 7] * scale;
      EXPECT_NEAR(value, plain[h * kDim + i], scale) << "half the widest step is 1 scale";
    }
  }
}

TEST_P(IndexQuery, PaddingGivesZeros) {
  position = -1;
  ASSERT_EQ(run_with(GetParam(), problem, args), "");
  for (const float value : q) EXPECT_EQ(value, 0);
  EXPECT_EQ(weights[0], 0);
}

TEST_P(IndexQuery, SlipsAreNamed) {
  problem.format = CacheFormat::index_e2m1_ue8m0;
  EXPECT_EQ(run_with(GetParam(), problem, args), "index_query: q has dtype f32, expected e2m1x2 for index_e2m1_ue8m0 keys");
  args.q = view(packed.data(), DType::e2m1x2, {1, kHeads, kDim});
  EXPECT_EQ(run_with(GetParam(), problem, args), "index_query: q_scale is missing, e2m1x2 queries need it");
  problem.index_dim = 48;
  EXPECT_EQ(test::plan_error(problem), "index_query: index_dim is 48, expected a power of two");
}

INSTANTIATE_TEST_SUITE_P(Cpu, IndexQuery, testing::Values("cpu", "reference"));

}  // namespace
}  // namespace fathom
