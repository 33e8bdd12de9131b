// Every layer of the golden checkpoints, prefilled and decoded as they were, against every promised bound.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/commands.h"
#include "cli/golden.h"
#include "fathom/fathom.h"

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

std::string path_of(const char* folder) { return std::string(FATHOM_GOLDEN_DIR) + "/" + folder; }

/// The measures of one golden layer; empty, and a failed test, if it could not be run.
std::vector<Measure> measures_of(const GoldenCase& golden_case, const GoldenOptions& options) {
  const auto measured = [&]() -> Result<std::vector<Measure>> {
    const std::string folder = path_of(golden_case.folder);
    FATHOM_ASSIGN(const Device device, Device::cpu());
    FATHOM_ASSIGN(const Model model, open_model(folder));
    FATHOM_ASSIGN(const Checkpoint expected,
                  Checkpoint::open(folder + "/expected_" + name_of(golden_case.numerics) + ".safetensors"));
    FATHOM_ASSIGN(const GoldenLayer golden, read_golden_layer(expected, golden_case.layer));
    return measure_golden_layer(model, golden, golden_case.layer, golden_case.numerics, options, device);
  }();
  EXPECT_TRUE(measured.ok()) << measured.status().text();
  return measured.ok() ? measured.value() : std::vector<Measure>();
}

void expect_all_hold(const std::vector<Measure>& measures) {
  EXPECT_GE(measures.size(), 3u);
  for (const Measure& measure : measures) {
    EXPECT_TRUE(measure.ok()) << measure.quantity << " is " << measure.value << ", bound " << measure.bound << " "
                              << measure.note;
  }
}

class Golden : public testing::TestWithParam<GoldenCase> {};

TEST_P(Golden, EveryBoundHolds) { expect_all_hold(measures_of(GetParam(), {})); }

TEST_P(Golden, EveryBoundHoldsWithSmallShuffledPagesAndChunks) {
  GoldenOptions options;
  options.chunk = 37;
  options.page_size = 5;
  options.page_order_seed = 11;
  expect_all_hold(measures_of(GetParam(), options));
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, Golden,
    testing::Values(GoldenCase{"tiny", Numerics::exact, 0}, GoldenCase{"tiny", Numerics::exact, 1},
                    GoldenCase{"tiny", Numerics::exact, 2}, GoldenCase{"tiny", Numerics::served, 0},
                    GoldenCase{"tiny", Numerics::served, 1}, GoldenCase{"tiny", Numerics::served, 2},
                    GoldenCase{"tiny_fp8", Numerics::served, 0}, GoldenCase{"tiny_fp8", Numerics::served, 1}),
    [](const auto& test) {
      const GoldenCase& golden = test.param;
      return std::string(golden.folder) + "_" + name_of(golden.numerics) + "_" + std::to_string(golden.layer);
    });

TEST(GoldenReferences, TheSlowDefinitionsHoldTheBoundsToo) {
  GoldenOptions options;
  for (const char* op : {"linear", "project", "compress", "index_query", "index", "attend", "output"}) options.forced[op] = "reference";
  expect_all_hold(measures_of({"tiny", Numerics::exact, 1}, options));
}

// The comparison itself must be able to fail: the exact results are not the served ones.
TEST(GoldenComparison, NoticesTheWrongNumerics) {
  const Model model = open_model(path_of("tiny")).value();
  const Checkpoint served = Checkpoint::open(path_of("tiny") + "/expected_served.safetensors").value();
  const GoldenLayer golden = read_golden_layer(served, 1).value();
  const Device device = Device::cpu().value();
  const auto measures = measure_golden_layer(model, golden, 1, Numerics::exact, {}, device).value();
  int failed = 0;
  for (const Measure& measure : measures) failed += !measure.ok();
  EXPECT_GE(failed, 4);
}

TEST(GoldenComparison, NoticesASplitOrShapeThatDoesNotFit) {
  const Checkpoint expected = Checkpoint::open(path_of("tiny") + "/expected_exact.safetensors").value();
  GoldenLayer golden = read_golden_layer(expected, 0).value();
  EXPECT_EQ(golden.num_tokens, 320);
  EXPECT_EQ(golden.prefill, 300);
  EXPECT_FALSE(read_golden_layer(expected, 3).ok());
  const Model model = open_model(path_of("tiny")).value();
  const Checkpoint weights = Checkpoint::open(path_of("tiny") + "/model.safetensors").value();
  EXPECT_FALSE(read_golden_layer(weights, 0).ok());
  EXPECT_TRUE(golden_layers(weights, model.config).empty());
  golden.window_ring.shape = {127, 512};
  const auto measures = measure_golden_layer(model, golden, 0, Numerics::exact, {}, Device::cpu().value()).value();
  EXPECT_TRUE(std::any_of(measures.begin(), measures.end(), [](const Measure& m) { return !m.ok(); }));
}

TEST(GoldenCheck, ReturnsTheExitCode) {
  testing::internal::CaptureStdout();
  GoldenOptions options;
  options.folder = path_of("tiny");
  options.numerics = Numerics::exact;
  EXPECT_EQ(check_golden(options), kOk);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("exact layers.2 hca"), std::string::npos);
  EXPECT_NE(text.find(": 3 layers, "), std::string::npos) << text;
  EXPECT_EQ(text.find("FAILED"), std::string::npos) << text;

  testing::internal::CaptureStderr();
  options.folder = path_of("tiny_fp8");  // has no exact values
  EXPECT_EQ(check_golden(options), kFailed);
  options.folder = path_of("nowhere");
  EXPECT_EQ(check_golden(options), kFailed);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("nowhere"), std::string::npos);
}

}  // namespace
}  // namespace fathom::cli
