// `fathom check`: exit codes, what it prints, and that nothing compared is a failure.
#include <gtest/gtest.h>

#include <fstream>

#include "program_outcome.h"

namespace fathom::cli {
namespace {

constexpr const char* kTiny = FATHOM_GOLDEN_DIR "/tiny";

/// A folder of case files with one op's lines in it.
struct Cases {
  TempFolder folder;
  explicit Cases(const std::string& op, const std::string& lines) {
    std::filesystem::create_directories(folder.file(op));
    std::ofstream(folder.file(op + "/ci.txt")) << lines;
  }
};

TEST(Check, OneCaseShowsEveryArgument) {
  const Outcome outcome = run_fathom({"check", "attend", "num_tokens=2 num_heads=2 window_width=16 outputs=1 seed=3"});
  EXPECT_EQ(outcome.code, kOk) << outcome.out;
  for (const char* word : {"cpu", "reference", "out", "lse", "max_logits"}) {
    EXPECT_NE(outcome.out.find(word), std::string::npos) << word;
  }
}

TEST(Check, ABrokenCaseFails) {
  const Outcome outcome = run_fathom({"check", "attend", "num_tokens=2 num_heads=0"});
  EXPECT_EQ(outcome.code, kFailed);
  EXPECT_NE(outcome.out.find("num_heads"), std::string::npos) << outcome.out;
}

TEST(Check, AFileOfCases) {
  const Cases cases("select_topk",
                    "# two\nnum_tokens=2 num_scores=9 topk=3\nnum_tokens=1 num_scores=4 topk=4 ties=1\n");
  const Outcome outcome = run_fathom({"check", "select_topk", "--cases", cases.folder.path()});
  EXPECT_EQ(outcome.code, kOk) << outcome.out;
  EXPECT_NE(outcome.out.find("2 runs compared"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("all agree"), std::string::npos) << outcome.out;
}

TEST(Check, AForcedImplementationIsTheOnlyOne) {
  const Cases cases("select_topk", "num_tokens=2 num_scores=9 topk=3\n");
  const Outcome outcome = run_fathom({"check", "--cases", cases.folder.path(), "--force", "select_topk=cpu"});
  EXPECT_EQ(outcome.code, kOk) << outcome.out;
  EXPECT_NE(outcome.out.find("1 runs compared"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find("reference"), std::string::npos) << outcome.out;
}

TEST(Check, AFailureSaysHowToSeeItAgain) {
  const Cases cases("select_topk", "num_tokens=2 num_scores=9 topk=3 colour=7\n");
  const Outcome outcome = run_fathom({"check", "select_topk", "--cases", cases.folder.path()});
  EXPECT_EQ(outcome.code, kFailed);
  EXPECT_NE(outcome.out.find("fathom check select_topk \"num_tokens=2 num_scores=9 topk=3 colour=7\""),
            std::string::npos)
      << outcome.out;
}

TEST(Check, AReferenceAloneIsComparedWithNothing) {
  const Cases cases("select_topk", "num_tokens=2 num_scores=9 topk=3\n");
  for (const std::vector<std::string>& what :
       {std::vector<std::string>{"--cases", cases.folder.path()}, {"num_tokens=2 num_scores=9 topk=3"}}) {
    std::vector<std::string> line{"check", "select_topk", "--force", "select_topk=reference"};
    line.insert(line.end(), what.begin(), what.end());
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kFailed) << outcome.out;
    EXPECT_NE(outcome.out.find("nothing was compared"), std::string::npos) << outcome.out;
    EXPECT_EQ(outcome.out.find("agree\n"), std::string::npos) << outcome.out;
  }
}

TEST(Check, ALayerHasNoReferenceToForce) {
  const Outcome outcome = run_fathom({"check", "layer", "--force", "layer=reference"});
  EXPECT_EQ(outcome.code, kUsage) << outcome.out;
  EXPECT_NE(outcome.err.find("layer has no implementation \"reference\"; it has stages"), std::string::npos)
      << outcome.err;
}

TEST(Check, AnEmptyCaseIsACase) {
  const Outcome outcome = run_fathom({"check", "select_topk", ""});
  EXPECT_EQ(outcome.code, kOk) << outcome.out;
  EXPECT_EQ(outcome.out.find("runs compared"), std::string::npos) << outcome.out;
}

TEST(Check, ForceReachesTheLayersOfAGoldenFolder) {
  std::vector<std::string> line{"check", "--golden", kTiny, "--numerics", "exact", "--force", "attend=no_such"};
  const Outcome unknown = run_fathom(line);
  EXPECT_EQ(unknown.code, kFailed);
  EXPECT_NE(unknown.err.find("\"no_such\""), std::string::npos) << unknown.err;
  line.back() = "attend=reference";
  const Outcome known = run_fathom(line);
  EXPECT_EQ(known.code, kOk) << known.out << known.err;
}

TEST(Check, NoCasesFail) {
  const Cases cases("select_topk", "# nothing\n");
  EXPECT_EQ(run_fathom({"check", "select_topk", "--cases", cases.folder.path()}).code, kFailed);
  EXPECT_EQ(run_fathom({"check", "select_topk", "--cases", "/nowhere"}).code, kFailed);
}

TEST(Check, BadUsageIsOneSentenceAndExitCodeTwo) {
  const std::vector<std::vector<std::string>> lines = {
      {"check", "no_such_op"},
      {"check", "attend", "--force", "cpu"},
      {"check", "attend", "--force", "attend="},
      {"check", "attend", "--force", "no_such_op=cpu"},
      {"check", "attend", "--force", "attend=no_such"},
      {"check", "attend", "--force", "linear=cpu"},
      {"check", "project", "--force", "project=reference", "--force", "linear=cpu"},
      {"check", "linear", "num_tokens=1 in_dim=4 out_dim=4", "--force", "index=cpu"},
      {"check", "attend", "--force", "attend=cpu", "--force", "attend=reference"},
      {"check", "attend", "num_tokens=1", "--cases", "cases"},
      {"check", "--golden", "tests/golden/tiny", "attend"},
      {"check", "--golden", kTiny, "--force", "atend=reference"},
      {"check", "--golden", kTiny, "--force", "reference"},
      {"check", "--golden", ""},
      {"check", "--cases", ""},
      {"check", ""},
      {"check", "--numerics", "exact"},
      {"check", "attend", "--threads", "-1"},
  };
  for (const auto& line : lines) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kUsage) << testing::PrintToString(line) << outcome.out;
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
  }
}

}  // namespace
}  // namespace fathom::cli
