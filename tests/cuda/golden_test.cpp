// The golden checkpoints on a GPU, within the CPU's bounds, however their tokens are split into steps and pages.
#include <gtest/gtest.h>

#include "cli/commands.h"
#include "cli/golden.h"
#include "support/cuda.h"

namespace fathom::cli {
namespace {

struct GoldenCase {
  const char* folder;
  Numerics numerics;
  int layer;
};
void PrintTo(const GoldenCase& golden, std::ostream* out) {
  *out << golden.folder << " " << name_of(golden.numerics) << " layer " << golden.layer;
}

void expect_all_hold(const Device& device, const GoldenCase& golden_case, const GoldenOptions& options) {
  const auto measured = [&]() -> Result<std::vector<Measure>> {
    const std::string folder = std::string(FATHOM_GOLDEN_DIR) + "/" + golden_case.folder;
    FATHOM_ASSIGN(const Model model, open_model(folder));
    FATHOM_ASSIGN(const Checkpoint expected,
                  Checkpoint::open(folder + "/expected_" + name_of(golden_case.numerics) + ".safetensors"));
    FATHOM_ASSIGN(const GoldenLayer golden, read_golden_layer(expected, golden_case.layer));
    return measure_golden_layer(model, golden, golden_case.layer, golden_case.numerics, options, device);
  }();
  ASSERT_TRUE(measured.ok()) << measured.status().text();
  EXPECT_GE(measured->size(), 3u);
  for (const Measure& measure : measured.value()) {
    EXPECT_TRUE(measure.ok()) << measure.quantity << " is " << measure.value << ", bound " << measure.bound << " "
                              << measure.note;
  }
}

class CudaGolden : public testing::TestWithParam<GoldenCase> {};

TEST_P(CudaGolden, EveryBoundHolds) {
  FATHOM_NEEDS_CUDA(device);
  expect_all_hold(device, GetParam(), {});
}

TEST_P(CudaGolden, EveryBoundHoldsWithSmallShuffledPagesAndChunks) {
  FATHOM_NEEDS_CUDA(device);
  GoldenOptions options;
  options.chunk = 37;
  options.page_size = 5;
  options.page_order_seed = 11;
  expect_all_hold(device, GetParam(), options);
}

TEST_P(CudaGolden, EveryBoundHoldsTokenByToken) {
  FATHOM_NEEDS_CUDA(device);
  GoldenOptions options;
  options.chunk = 1;
  options.page_size = 64;
  expect_all_hold(device, GetParam(), options);
}

TEST_P(CudaGolden, EveryBoundHoldsWithinTheSmallestTargetsLimits) {
  FATHOM_NEEDS_CUDA(device);
  expect_all_hold(device.limited_to({.compute_capability = 86, .shared_bytes_per_block = 99 * 1024}), GetParam(), {});
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, CudaGolden,
    testing::Values(GoldenCase{"tiny", Numerics::exact, 0}, GoldenCase{"tiny", Numerics::exact, 1},
                    GoldenCase{"tiny", Numerics::exact, 2}, GoldenCase{"tiny", Numerics::served, 0},
                    GoldenCase{"tiny", Numerics::served, 1}, GoldenCase{"tiny", Numerics::served, 2},
                    GoldenCase{"tiny_fp8", Numerics::served, 0}, GoldenCase{"tiny_fp8", Numerics::served, 1}),
    [](const auto& test) {
      const GoldenCase& golden = test.param;
      return std::string(golden.folder) + "_" + name_of(golden.numerics) + "_" + std::to_string(golden.layer);
    });

TEST(CudaGoldenCheck, ReturnsTheExitCode) {
  FATHOM_NEEDS_CUDA(device);
  GoldenOptions options;
  options.folder = std::string(FATHOM_GOLDEN_DIR) + "/tiny";
  options.device.name = "cuda";
  testing::internal::CaptureStdout();
  EXPECT_EQ(check_golden(options), kOk);
  EXPECT_EQ(testing::internal::GetCapturedStdout().find("FAILED"), std::string::npos);
}

}  // namespace
}  // namespace fathom::cli
