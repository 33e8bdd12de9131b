// `fathom bench`: its lines are whole and say what was run. No time is asserted.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <tuple>

#include "program_outcome.h"

namespace fathom::cli {
namespace {

constexpr const char* kCase = "num_tokens=1 in_dim=64 out_dim=64";

TEST(Bench, WritesOneJsonObjectALine) {
  const TempFolder folder;
  const std::string path = folder.file("results.jsonl");
  for (int i = 0; i < 2; ++i) {
    const Outcome outcome = run_fathom({"bench", "linear", kCase, "--repeat", "5", "--threads", "1", "--json", path});
    ASSERT_EQ(outcome.code, kOk) << outcome.err;
    EXPECT_NE(outcome.out.find("GFLOP/s"), std::string::npos) << outcome.out;
  }
  std::ifstream file(path);
  std::string line;
  int lines = 0;
  while (std::getline(file, line)) {
    ++lines;
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["op"], "linear");
    EXPECT_EQ(json["case"], kCase);
    EXPECT_EQ(json["threads"], 1);
    EXPECT_EQ(json["operations"], 2.0 * 64 * 64);
    EXPECT_GT(json["seconds"]["median"].get<double>(), 0);
    EXPECT_GT(json["roof_bytes_per_second"]["median"].get<double>(), 0);
    EXPECT_GT(json["roof_operations_per_second"]["median"].get<double>(), 0);
  }
  EXPECT_EQ(lines, 2);
}

TEST(Bench, WritesAStepOfALayerALine) {
  const TempFolder folder;
  const std::string path = folder.file("steps.jsonl");
  const Outcome outcome = run_fathom({"bench", "--model-layer", "v4-flash", "--layer", "window", "--tokens", "1",
                                      "--batch", "1,2", "--context", "3,5", "--json", path});
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  std::ifstream file(path);
  std::vector<std::tuple<std::string, int, int>> steps;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["model"], "v4-flash");
    EXPECT_EQ(json["layer"], "window");
    double total = 0;
    for (const auto& stage : json["stages"]) total += stage["seconds"].get<double>();
    EXPECT_EQ(json["stages"].size(), 3u);
    EXPECT_NEAR(json["total_seconds"].get<double>(), total, 1e-9);
    steps.emplace_back(json["step"], json["batch"], json["context"]);
  }
  const std::vector<std::tuple<std::string, int, int>> expected{
      {"prefill", 1, 0}, {"decode", 1, 3}, {"decode", 2, 3}, {"decode", 1, 5}, {"decode", 2, 5}};
  EXPECT_EQ(steps, expected);
  EXPECT_EQ(run_fathom({"bench", "--model-layer", "v4-flash", "--layer", "window", "--tokens", "1", "--json",
                        "/nowhere/steps.jsonl"})
                .code,
            kFailed);
}

TEST(Bench, RunsTheForcedImplementation) {
  const Outcome outcome =
      run_fathom({"bench", "linear", kCase, "--repeat", "5", "--threads", "1", "--force", "linear=reference"});
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with("linear reference")) << outcome.out;
}

TEST(Bench, ForceReachesTheStagesOfALayer) {
  const std::vector<std::string> layer{"bench", "--model-layer", "v4-flash", "--layer", "window", "--tokens", "1"};
  std::vector<std::string> line = layer;
  line.insert(line.end(), {"--force", "attend=reference"});
  const Outcome outcome = run_fathom(line);
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_NE(outcome.out.find("attend   reference"), std::string::npos) << outcome.out;
  // project is made of linear ops: forcing one of those reaches through it.
  line.back() = "linear=no_such";
  const Outcome nested = run_fathom(line);
  EXPECT_EQ(nested.code, kFailed) << nested.out;
  EXPECT_NE(nested.err.find("\"no_such\""), std::string::npos) << nested.err;
}

TEST(Bench, AForcedOpThatNothingRunsIsASlip) {
  const auto error_of = [](std::vector<std::string> line, const std::string& forced) {
    line.insert(line.end(), {"--force", forced});
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kFailed) << testing::PrintToString(line);
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
    return outcome.err;
  };
  EXPECT_EQ(error_of({"bench", "linear", kCase}, "attend=reference"),
            "fathom: --force: nothing here runs attend, expected one of linear\n");
  EXPECT_EQ(error_of({"bench", "--model-layer", "v4-flash", "--layer", "window", "--tokens", "1"}, "index=reference"),
            "fathom: --force: nothing here runs index, expected one of attend, layer, linear, output, project\n");
}

TEST(Bench, RefusesWhatItCannotRun) {
  EXPECT_EQ(run_fathom({"bench", "linear", "in_dim=0"}).code, kFailed);
  EXPECT_EQ(run_fathom({"bench", "linear", kCase, "--force", "linear=no_such"}).code, kFailed);
  EXPECT_EQ(run_fathom({"bench", "linear", kCase, "--json", "/nowhere/results.jsonl"}).code, kFailed);
  EXPECT_EQ(run_fathom({"bench", "linear", "--cases", "/nowhere"}).code, kFailed);
  const std::vector<std::vector<std::string>> lines = {
      {"bench", "no_such_op"},
      {"bench", "linear", kCase, "--repeat", "1"},
      {"bench", "linear", kCase, "--force", "linear"},
      {"bench", "linear", kCase, "--force", "linar=cpu"},
      {"bench", "linear", kCase, "--json", ""},
      {"bench", "--model-layer", "v5"},
      {"bench", "--model-layer", "v4-flash", "--batch", "1,0"},
      {"bench", "--model-layer", "v4-flash", "--context", "1,-1"},
      {"bench", "--model-layer", "v4-flash", "--force", "atend=reference"},
      {"bench", "--model-layer", "v4-flash", "--force", "attend"},
      {"bench", "linear", "--model-layer", "v4-flash"},
      {"bench", "--layer", "csa"},
  };
  for (const auto& line : lines) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kUsage) << testing::PrintToString(line);
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
  }
}

}  // namespace
}  // namespace fathom::cli
