// Timing on a GPU: its lines are whole. No time is asserted.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/program_outcome.h"
#include "fathom/core/memory.h"
#include "harness/measure.h"
#include "support/cuda.h"

namespace fathom::harness {
namespace {

constexpr const char* kCase = "num_tokens=4 num_heads=8 window_width=64";

TEST(CudaMeasure, TimesACaseInAGraphOfRotatedCopies) {
  FATHOM_NEEDS_CUDA(device);
  auto roof = GpuRoof::create(device);
  ASSERT_TRUE(roof.ok()) << roof.status().text();
  const auto m = measure("attend", kCase, device, roof.value(), {});
  ASSERT_TRUE(m.ok()) << m.status().text();
  EXPECT_GT(m->seconds.median, 0);
  EXPECT_LE(m->seconds.low, m->seconds.high);
  EXPECT_GT(m->roof_bytes_per_second.median, 0);
  EXPECT_GT(m->roof_operations_per_second.median, 0);
  EXPECT_GT(m->clock_hz, 0);
  EXPECT_GE(m->copies, 4);
  EXPECT_GE(m->runs, 15 * 20);
  EXPECT_FALSE(measure("attend", "num_heads=0", device, roof.value(), {}).ok());
}

TEST(CudaGraphs, MarksAndFailuresOfACapture) {
  FATHOM_NEEDS_CUDA(device);
  const DeviceMemory memory = DeviceMemory::allocate(device, 1 << 20).value();
  const auto graph = GpuGraph::capture(device, [&](Stream stream, const auto& mark) -> Status {
    FATHOM_TRY(mark());
    for (int i = 0; i < 2; ++i) {
      FATHOM_TRY(fill_bytes(device, memory.data(), std::byte{1}, memory.bytes(), stream));
      FATHOM_TRY(mark());
    }
    return {};
  });
  ASSERT_TRUE(graph.ok()) << graph.status().text();
  ASSERT_TRUE(graph->replay().ok());
  EXPECT_EQ(graph->between_marks().value().size(), 2u);
  // Work that waits is no work for a graph, and a capture that failed leaves the next one alone.
  EXPECT_FALSE(GpuGraph::capture(device, [&](Stream stream, const auto&) { return synchronize(device, stream); }).ok());
  EXPECT_FALSE(GpuGraph::capture(device, [](Stream, const auto&) { return Status::invalid("no"); }).ok());
  EXPECT_TRUE(GpuGraph::capture(device, [&](Stream stream, const auto&) {
                return fill_bytes(device, memory.data(), std::byte{2}, memory.bytes(), stream);
              }).ok());
}

TEST(CudaBench, WritesOneJsonObjectALine) {
  FATHOM_NEEDS_CUDA(device);
  const cli::TempFolder folder;
  const std::string path = folder.file("results.jsonl");
  const auto outcome = cli::run_fathom({"bench", "attend", kCase, "--device", "cuda", "--json", path});
  ASSERT_EQ(outcome.code, cli::kOk) << outcome.err;
  EXPECT_NE(outcome.out.find("TFLOP/s"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find(GpuRoof::kArithmetic), std::string::npos) << outcome.out;
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  EXPECT_EQ(json["device"], "cuda:0");
  EXPECT_EQ(json["compute_capability"].get<std::string>().find('.'), 1u + (device.limits().compute_capability >= 100));
  EXPECT_FALSE(json.contains("threads"));
}

TEST(CudaBench, TimesALayerByStagesAndAsOne) {
  FATHOM_NEEDS_CUDA(device);
  const auto outcome = cli::run_fathom({"bench", "--model-layer", "v4-flash", "--device", "cuda", "--tokens", "64", "--batch", "2", "--context", "1000"});
  ASSERT_EQ(outcome.code, cli::kOk) << outcome.err;
  EXPECT_NE(outcome.out.find("the layer as one, in a graph"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace fathom::harness
