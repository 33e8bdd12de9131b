// linear on CUDA where the case files do not reach: every tile of the fast kernels, K shared by clusters of every size, tiles that
// a block takes one after another, groups whose ends lie inside a step, and the proof that the kernel that was forced ran.
#include "fathom/linear.h"

#include <gtest/gtest.h>

#include <cstring>

#include "harness/conformance.h"
#include "harness/run.h"
#include "support/cuda.h"

namespace fathom::harness {
namespace {

const char* const kFast[] = {"cuda:sm90", "cuda:sm80"};

bool takes(const Device& device, const std::string& implementation, const std::string& text) {
  const auto built = read_case("linear", text);
  return built.ok() && plan_problem(*built->op, built->problem.data(), device, {implementation}).ok();
}

void all_agree(const Device& device, const std::vector<std::string>& cases) {
  for (const char* implementation : kFast) {
    if (!takes(device, implementation, cases.front())) continue;  // sm90 elsewhere than on Hopper
    for (const Tally& tally : check_cases("linear", cases, device, {{"linear", implementation}})) {
      for (const std::string& failure : tally.failures) ADD_FAILURE() << failure;
      EXPECT_EQ(tally.refused, 0) << tally.implementation;
    }
  }
}

// Tokens of every tile, and one more; rows that end inside a tile; K that ends inside a step, or is shorter than one.
const std::vector<std::string> kShapes = {
    "num_tokens=1 in_dim=4096 out_dim=130 weight_dtype=e4m3 activation_quant=e4m3_128 out_dtype=f32 seed=1",
    "num_tokens=8 in_dim=2064 out_dim=700 weight_dtype=e4m3 activation_quant=e4m3_128 seed=2",
    "num_tokens=9 in_dim=1040 out_dim=1000 weight_dtype=e4m3 activation_quant=e4m3_128 seed=3",
    "num_tokens=32 in_dim=4112 out_dim=520 weight_dtype=e4m3 activation_quant=e4m3_128 x_dtype=f32 seed=4",
    "num_tokens=33 in_dim=1552 out_dim=400 groups=2 weight_dtype=e4m3 out_dtype=f32 seed=5",
    "num_tokens=64 in_dim=16 out_dim=300 weight_dtype=e4m3 activation_quant=e4m3_128 seed=6",
    "num_tokens=65 in_dim=4096 out_dim=257 weight_dtype=e4m3 activation_quant=e4m3_128 out_dtype=f32 seed=7",
    "num_tokens=129 in_dim=2064 out_dim=528 groups=2 weight_dtype=e4m3 seed=8",
    "num_tokens=300 in_dim=1040 out_dim=600 weight_dtype=e4m3 activation_quant=e4m3_128 seed=9",
    "num_tokens=2300 in_dim=144 out_dim=272 weight_dtype=e4m3 activation_quant=e4m3_128 seed=10",
    "num_tokens=130 in_dim=72 out_dim=18000 seed=11",
    "num_tokens=5 in_dim=4104 out_dim=64 out_dtype=f32 seed=12",
    "num_tokens=200 in_dim=4096 out_dim=300 out_dtype=f32 seed=13",
    "num_tokens=40 in_dim=264 out_dim=20000 seed=14",
    "num_tokens=3 in_dim=128 out_dim=20000 weight_dtype=e4m3 activation_quant=e4m3_128 strided=1 seed=15",
    "num_tokens=80 tokens=20 in_dim=1024 out_dim=256 weight_dtype=e4m3 activation_quant=e4m3_128 seed=16",
};

TEST(CudaLinear, ShapesOfEveryTile) {
  FATHOM_NEEDS_CUDA(device);
  all_agree(device, kShapes);
}

// A device of few multiprocessors: blocks take many tiles, and a cluster has its K to itself.
TEST(CudaLinear, ShapesOfEveryTileOnASmallDevice) {
  FATHOM_NEEDS_CUDA(device);
  all_agree(device.limited_to({.num_multiprocessors = 7}), kShapes);
}

// A group's K ends inside a step: what lies behind it in x is the next group's, and a NaN there is none of this one's.
TEST(CudaLinear, GroupsDoNotSeeTheirNeighboursNumbers) {
  FATHOM_NEEDS_CUDA(device);
  all_agree(device, {"num_tokens=6 in_dim=144 out_dim=64 groups=3 weight_dtype=e4m3 nans=1 seed=1",
                     "num_tokens=40 in_dim=272 out_dim=64 groups=3 weight_dtype=e4m3 activation_quant=e4m3_128 nans=1 seed=2",
                     "num_tokens=90 in_dim=144 out_dim=80 groups=4 weight_dtype=e4m3 activation_quant=e4m3_128 nans=1 seed=3",
                     "num_tokens=90 in_dim=72 out_dim=80 groups=4 nans=1 seed=4"});
}

// Sums in another order end in other bits somewhere: two names, two kernels.
TEST(CudaLinear, WhatIsForcedRuns) {
  FATHOM_NEEDS_CUDA(device);
  for (const char* tokens : {"1", "32", "64", "200"}) {
    const std::string text = std::string("num_tokens=") + tokens + " in_dim=4096 out_dim=256 weight_dtype=e4m3 activation_quant=e4m3_128 out_dtype=f32 seed=1";
    if (!takes(device, "cuda:sm90", text)) GTEST_SKIP() << "no Hopper kernel here";
    const auto built = make_case("linear", text);
    ASSERT_TRUE(built.ok());
    std::vector<WatchedRun> runs;
    for (const char* implementation : {"cuda:sm90", "cuda:sm80", "cuda:simt"}) {
      const auto plan = plan_problem(*built->op, built->problem.data(), device, {implementation});
      ASSERT_TRUE(plan.ok());
      EXPECT_STREQ(plan->implementation(), implementation);
      runs.push_back(run_case(built.value(), plan.value(), kPoisons[0]));
      ASSERT_TRUE(runs.back().ok()) << runs.back().problem_text();
    }
    EXPECT_NE(first_difference(built.value(), runs[0], runs[1]), nullptr) << tokens;
    EXPECT_NE(first_difference(built.value(), runs[0], runs[2]), nullptr) << tokens;
    EXPECT_NE(first_difference(built.value(), runs[1], runs[2]), nullptr) << tokens;
  }
}

}  // namespace
}  // namespace fathom::harness
