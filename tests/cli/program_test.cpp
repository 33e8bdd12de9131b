// The command line as a user meets it: exit codes, where errors go, what the small verbs print.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "fathom/fathom.h"
#include "program_outcome.h"

namespace fathom::cli {
namespace {

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Program, VersionAndHelpSucceed) {
  const Outcome version = run_fathom({"--version"});
  EXPECT_EQ(version.code, kOk);
  EXPECT_TRUE(version.out.starts_with("fathom ")) << version.out;
  const Outcome help = run_fathom({"--help"});
  EXPECT_EQ(help.code, kOk);
  for (const char* verb : {"run", "check", "bench", "info", "show"}) {
    EXPECT_NE(help.out.find(std::string("  ") + verb), std::string::npos) << verb;
    EXPECT_EQ(run_fathom({verb, "--help"}).code, kOk) << verb;
  }
}

TEST(Program, BadUsageIsOneSentenceAndExitCodeTwo) {
  const std::vector<std::vector<std::string>> lines = {
      {},
      {"jump"},
      {"show", "jump"},
      {"info", "jump"},
      {"info", ""},
      {"--jump"},
      {"run"},
      {"show"},
      {"show", "pattern"},
      {"show", "pattern", "--ratio", "-1"},
      {"show", "pattern", "--ratio", "4", "--tokens", "0"},
      {"show", "pattern", "--ratio", "4", "--tokens", "1000000000"},
      {"show", "cache", "--format", "kv_f33"},
      {"show", "cache", "--format", "kv_f32", "--page-size", "0"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--numerics", "f16"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--device", "tpu"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--prefill", "-1"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--prefill", "99999999999"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--layer", "-1"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--rank", "-1"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--world", "0"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--threads", "-1"},
      {"run", "--model", "a", "--input", "b", "--output", ""},
      {"run", "--model", "", "--input", "b", "--output", "c"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--force", "atend=cpu"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--chunk", "0"},
      {"show", "cache", "--format", "kv_f32", "--dim", "-1"},
      {"show", "cache", "--format", "kv_f32", "--svg", ""},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--layer", "one"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--page-size", "99999999"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--kv-format", "index_f32"},
      {"run", "--model", "a", "--input", "b", "--output", "c", "--split", "even"},
      {"bench", "attend", "--split", "fixed"},
  };
  for (const auto& line : lines) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kUsage) << testing::PrintToString(line);
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
    EXPECT_LT(outcome.err.size(), 250u) << outcome.err;  // a bound is a number for people
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(Program, TheWrongWordIsNamed) {
  EXPECT_NE(run_fathom({"jump"}).err.find("jump"), std::string::npos);
  EXPECT_NE(run_fathom({"show", "jump"}).err.find("jump"), std::string::npos);
  EXPECT_NE(run_fathom({"info", "jump"}).err.find("jump"), std::string::npos);
  EXPECT_NE(run_fathom({}).err.find("run, check, bench, info, show"), std::string::npos);
  EXPECT_NE(run_fathom({"show"}).err.find("pattern, cache"), std::string::npos);
}

// /dev/full takes nothing: what is printed there is lost.
TEST(Program, LostOutputIsAFailure) {
  std::fflush(stdout);
  const int full = ::open("/dev/full", O_WRONLY), own = ::dup(STDOUT_FILENO);
  if (full < 0 || own < 0) GTEST_SKIP() << "no /dev/full here";
  ::dup2(full, STDOUT_FILENO);
  const char* argv[] = {"fathom", "info"};
  const int code = run_program(2, argv);
  ::dup2(own, STDOUT_FILENO);
  std::clearerr(stdout);
  ::close(full);
  ::close(own);
  EXPECT_EQ(code, kFailed);
}

TEST(Info, MachineAsTextAndJson) {
  const Outcome text = run_fathom({"info"});
  EXPECT_EQ(text.code, kOk);
  for (const OpSpec* op : op_table()) EXPECT_NE(text.out.find(op->summary), std::string::npos) << op->name;
  const auto json = nlohmann::json::parse(run_fathom({"info", "--json"}).out);
  EXPECT_GE(json.at("threads").get<int>(), 1);
  EXPECT_GT(json.at("memory_bytes").get<std::int64_t>(), 0);
  EXPECT_EQ(json.at("ops").size(), op_table().size());
}

TEST(Info, EveryOpShowsEveryArgumentAndField) {
  for (const OpSpec* op : op_table()) {
    const Outcome text = run_fathom({"info", op->name});
    const auto json = nlohmann::json::parse(run_fathom({"info", op->name, "--json"}).out);
    ASSERT_EQ(json.at("args").size(), op->args.size()) << op->name;
    for (const ArgSpec& arg : op->args) EXPECT_NE(text.out.find(arg.name), std::string::npos) << op->name;
    for (const ProblemField& field : op->problem->fields) {
      EXPECT_NE(text.out.find(field.name), std::string::npos) << op->name;
    }
  }
}

TEST(Info, ExactlyOneImplementationTakesAProblem) {
  const Outcome text = run_fathom({"info", "select_topk", "num_scores=9 topk=3"});
  EXPECT_EQ(text.code, kOk);
  EXPECT_TRUE(text.out.starts_with("select_topk \"num_scores=9 topk=3\"\n")) << text.out;
  EXPECT_EQ(text.out.find("takes it"), text.out.rfind("takes it"));
  EXPECT_NE(text.out.find("takes it"), std::string::npos);
  const auto json = nlohmann::json::parse(run_fathom({"info", "select_topk", "num_scores=9", "--json"}).out);
  EXPECT_EQ(json.at("op"), "select_topk");
  EXPECT_EQ(json.at("candidates").back().at("implementation"), "reference");
  EXPECT_TRUE(run_fathom({"info", "select_topk", ""}).out.starts_with("select_topk \"\"\n"));
}

TEST(Info, BadProblemsAreNamed) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> lines = {
      {{"info", "select_topk", "topk=x"}, "topk"},
      {{"info", "select_topk", "jump=1"}, "jump"},
      {{"info", "select_topk", "topk=-5"}, "topk"},
  };
  for (const auto& [line, fragment] : lines) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kFailed);
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
    EXPECT_NE(outcome.err.find(fragment), std::string::npos) << outcome.err;
  }
}

TEST(Info, CacheListsEveryFormat) {
  const Outcome text = run_fathom({"info", "cache"});
  const auto json = nlohmann::json::parse(run_fathom({"info", "cache", "--json"}).out);
  ASSERT_EQ(json.size(), std::size(kCacheFormatWords));
  for (const char* format : kCacheFormatWords) EXPECT_NE(text.out.find(std::string(format) + ": "), std::string::npos);
  EXPECT_EQ(json.at(2).at("row_bytes").get<int>() + json.at(2).at("footer_bytes").get<int>(), 584);
}

TEST(Show, WritesTextOrSvg) {
  const Outcome text = run_fathom({"show", "pattern", "--ratio", "4"});
  EXPECT_EQ(text.code, kOk);
  EXPECT_NE(text.out.find("4 picked"), std::string::npos);
  TempFolder folder;
  for (const std::vector<std::string>& subject :
       {std::vector<std::string>{"pattern", "--ratio", "128", "--tokens", "300", "--window", "128"},
        std::vector<std::string>{"cache", "--format", "index_e4m3_f32"}}) {
    std::vector<std::string> line{"show"};
    line.insert(line.end(), subject.begin(), subject.end());
    line.insert(line.end(), {"--svg", folder.file("picture.svg")});
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kOk) << outcome.err;
    EXPECT_TRUE(file_text(folder.file("picture.svg")).ends_with("</svg>\n"));
  }
  const Outcome refused = run_fathom({"show", "pattern", "--ratio", "4", "--svg", folder.file("no/such.svg")});
  EXPECT_EQ(refused.code, kFailed);
  EXPECT_TRUE(is_one_sentence(refused.err)) << refused.err;
}

}  // namespace
}  // namespace fathom::cli
