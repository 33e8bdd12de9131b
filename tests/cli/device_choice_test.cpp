// --device: which words are devices, what goes with them, and what a machine without a GPU says.
#include "cli/device_choice.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "program_outcome.h"

namespace fathom::cli {
namespace {

constexpr const char* kCase = "num_tokens=2 num_scores=9 topk=3";

TEST(DeviceChoice, KnowsItsWords) {
  for (const char* word : {"cpu", "cuda", "cuda:0", "cuda:7"}) EXPECT_TRUE(is_device_name(word)) << word;
  for (const char* word : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1x", "cuda0", "CUDA", "cpu:0", "cuda:99999999999"}) {
    EXPECT_FALSE(is_device_name(word)) << word;
  }
}

TEST(DeviceChoice, OpensWhatItNames) {
  const auto cpu = DeviceChoice{"cpu", 3}.open();
  ASSERT_TRUE(cpu.ok());
  EXPECT_EQ(cpu->num_threads(), 3);
  EXPECT_EQ(name_of(cpu.value()), "cpu");
  const auto gpu = DeviceChoice{"cuda", 0}.open();
  EXPECT_EQ(gpu.ok(), Device::cuda().ok());
  if (gpu.ok()) {
    EXPECT_EQ(name_of(gpu.value()), "cuda:0");
  }
  EXPECT_FALSE((DeviceChoice{"cuda:4096", 0}.open().ok()));
}

TEST(DeviceChoice, CapabilitiesReadAsPeopleWriteThem) {
  EXPECT_EQ(capability_text({.compute_capability = 90}), "9.0");
  EXPECT_EQ(capability_text({.compute_capability = 121}), "12.1");
}

TEST(DeviceOption, BadWordsAndThreadsOfAGpuAreUsageErrors) {
  const std::vector<std::vector<std::string>> lines = {
      {"check", "select_topk", kCase, "--device", "gpu"},
      {"check", "select_topk", kCase, "--device", ""},
      {"check", "select_topk", kCase, "--device", "cuda", "--threads", "2"},
      {"bench", "select_topk", kCase, "--threads", "2", "--device", "cuda:0"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--device", "cuda", "--threads", "1"},
      {"info", "--device", "cuda"},
      {"info", "select_topk", "--device", "cuda"},
      {"info", "select_topk", "num_scores=9", "--device", "cuda:one"},
      {"bench", "--batch", "2"},
      {"bench", "--model-layer", "v4-flash", "--batch", "0"},
      {"bench", "--model-layer", "v4-flash", "--context", "-1"},
  };
  for (const auto& line : lines) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kUsage) << testing::PrintToString(line) << outcome.out;
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
  }
}

TEST(DeviceOption, WithoutAGpuEveryVerbSaysWhy) {
  if (Device::cuda_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  const std::string golden = FATHOM_GOLDEN_DIR "/tiny";
  const std::vector<std::vector<std::string>> lines = {
      {"check", "select_topk", kCase, "--device", "cuda"},
      {"check", "--golden", golden, "--device", "cuda:1"},
      {"bench", "select_topk", kCase, "--device", "cuda"},
      {"bench", "--model-layer", "v4-flash", "--device", "cuda"},
      {"info", "select_topk", "num_scores=9 topk=3", "--device", "cuda"},
  };
  for (const auto& line : lines) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kFailed) << testing::PrintToString(line) << outcome.out;
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
    EXPECT_TRUE(outcome.err.starts_with("fathom: device: ")) << outcome.err;
  }
}

TEST(DeviceOption, TheCpuIsADeviceLikeAnyOther) {
  const Outcome outcome = run_fathom({"check", "select_topk", kCase, "--device", "cpu", "--threads", "1"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
}

TEST(Info, ListsGpusAndTargetsWithoutADriver) {
  const Outcome text = run_fathom({"info"});
  EXPECT_EQ(text.code, kOk) << text.err;
  EXPECT_NE(text.out.find("\ndevices    cpu\n"), std::string::npos) << text.out;
  const Outcome outcome = run_fathom({"info", "--json"});
  ASSERT_EQ(outcome.code, kOk);
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json.at("gpus").size(), static_cast<std::size_t>(Device::cuda_count()));
  EXPECT_EQ(json.contains("no_gpu"), Device::cuda_count() == 0);
  std::string targets;
  for (const auto& target : json.at("cuda_targets")) targets += (targets.empty() ? "" : " ") + target.get<std::string>();
  EXPECT_EQ(targets, cuda_targets());
}

TEST(Info, SaysOnWhichDeviceItAsked) {
  const Outcome outcome = run_fathom({"info", "select_topk", "num_scores=9 topk=3", "--device", "cpu", "--json"});
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out).at("device"), "cpu");
}

TEST(BenchLayer, DecodesABatchAfterAMadeUpPast) {
  for (const char* kind : {"window", "csa"}) {
    const Outcome outcome = run_fathom({"bench", "--model-layer", "v4-flash", "--layer", kind, "--tokens", "1", "--batch", "2", "--context", "300"});
    ASSERT_EQ(outcome.code, kOk) << outcome.err;
    EXPECT_NE(outcome.out.find("decode of 2 after 300, ms"), std::string::npos) << outcome.out;
  }
}

}  // namespace
}  // namespace fathom::cli
