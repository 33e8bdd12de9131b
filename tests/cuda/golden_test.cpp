// The golden checkpoints on a GPU, within the CPU's bounds, however their tokens are split into steps and pages. Where
// the output's last product quantises what attention gave (tiny_fp8), the CPU's bounds ask for probabilities rounded
// relative to the final maximum, which cuda:simt does; the fast kernels round relative to a running one.
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
  const char* attend = "";  ///< the implementation that is forced
};
void PrintTo(const GoldenCase& golden, std::ostream* out) {
  *out << golden.folder << " " << name_of(golden.numerics) << " layer " << golden.layer << " " << golden.attend;
}

/// The bound of a measure. Last-place differences of P become whole E4M3 code steps in front of wo_b: a running maximum
/// alone cost the CPU 6.0e-3 and 2.9e-2 (docs/design/0007); over eight splittings the fast kernels measured 6.5e-3 to
/// 8.9e-3, and 2.4e-2 to 3.4e-2 for the worst token.
double bound_of(const GoldenCase& golden, const Measure& measure) {
  const bool quantises_again = std::string(golden.folder) == "tiny_fp8";
  if (!quantises_again || *golden.attend != '\0') return measure.bound;
  return measure.quantity == "output" ? 1.2e-2 : measure.quantity == "output, worst token" ? 4e-2 : measure.bound;
}

void expect_all_hold(const Device& device, const GoldenCase& golden_case, GoldenOptions options) {
  if (*golden_case.attend != '\0') options.forced["attend"] = golden_case.attend;
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
    const double bound = bound_of(golden_case, measure);
    EXPECT_TRUE(measure.value <= bound) << measure.quantity << " is " << measure.value << ", bound " << bound << " "
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
                    GoldenCase{"tiny_fp8", Numerics::served, 0}, GoldenCase{"tiny_fp8", Numerics::served, 1},
                    GoldenCase{"tiny_fp8", Numerics::served, 0, "cuda:simt"},
                    GoldenCase{"tiny_fp8", Numerics::served, 1, "cuda:simt"}),
    [](const auto& test) {
      const GoldenCase& golden = test.param;
      return std::string(golden.folder) + "_" + name_of(golden.numerics) + "_" + std::to_string(golden.layer) +
             (*golden.attend == '\0' ? "" : "_simt");
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
