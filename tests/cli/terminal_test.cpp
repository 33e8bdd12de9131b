// Tables, colours, progress and error sentences, without a terminal.
#include "cli/terminal.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "cli/commands.h"

namespace fathom::cli {
namespace {

/// What `write` prints to a stream that is no terminal.
template <class Write>
std::string written(Write&& write) {
  std::FILE* file = std::tmpfile();
  write(file);
  std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file), text.size());
  std::fclose(file);
  return text;
}

TEST(Table, AlignsColumnsAndDropsTrailingBlanks) {
  Table table({"name", ">ms", "note"});
  table.add({"a", "1.5", ""});
  table.add({"longer", "10.0", "x"});
  EXPECT_EQ(table.text(), "name      ms  note\na        1.5\nlonger  10.0  x\n");
}

TEST(Table, CountsCharactersNotBytes) {
  Table table({"a", "b"});
  table.add({"█", "x"});
  EXPECT_EQ(table.text(), "a  b\n█  x\n");
}

TEST(Table, ShortRowsAreFilled) {
  Table table({"a", "b"});
  table.add({"x"});
  EXPECT_EQ(table.text(), "a  b\nx\n");
}

TEST(Table, WithoutRowsOnlyTheTitlesStand) { EXPECT_EQ(Table({"a", ">b"}).text(), "a  b\n"); }

TEST(Progress, PipeGetsALineAtEachTenth) {
  const std::string text = written([](std::FILE* file) {
    Progress progress(file, Progress::Style::lines, "layer", 100);
    for (int i = 1; i <= 100; ++i) progress.update(i, "prefill");
  });
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10);
  EXPECT_TRUE(text.starts_with("layer: prefill 10/100 tokens, 0s\n")) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos);
}

TEST(Progress, BarEndsByClearingItsLine) {
  const std::string text = written([](std::FILE* file) {
    Progress progress(file, Progress::Style::bar, "layer", 4);
    progress.update(1, "prefill");
    progress.update(4, "decode");
  });
  EXPECT_NE(text.find("\rlayer |██████"), std::string::npos) << text;
  EXPECT_NE(text.find("4/4 decode"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\r\x1b[K"));
}

TEST(Progress, QuietPrintsNothing) {
  EXPECT_EQ(Progress::style_for(stdout, true), Progress::Style::none);
  const std::string text = written([](std::FILE* file) {
    Progress progress(file, Progress::Style::none, "layer", 2);
    progress.update(1, "prefill");
    progress.update(2, "prefill");
  });
  EXPECT_EQ(text, "");
}

TEST(Progress, NothingToDoPrintsNothing) {
  const std::string text = written([](std::FILE* file) {
    Progress progress(file, Progress::Style::bar, "layer", 0);
    progress.update(0, "prefill");
  });
  EXPECT_EQ(text, "");
}

TEST(Progress, AFileIsNoTerminal) {
  written([](std::FILE* file) {
    EXPECT_EQ(Progress::style_for(file, false), Progress::Style::lines);
    EXPECT_FALSE(wants_colour(file));
  });
}

TEST(Colour, OnlyWhereEnabled) {
  EXPECT_EQ(coloured("ok", Colour::green, false), "ok");
  EXPECT_EQ(coloured("ok", Colour::green, true), "\x1b[32mok\x1b[0m");
}

TEST(Errors, StatusTextBecomesOneSentence) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(fail(Status::invalid("topk is 3")), kFailed);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "fathom: topk is 3\n");
}

}  // namespace
}  // namespace fathom::cli
