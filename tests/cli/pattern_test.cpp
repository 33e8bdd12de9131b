// Patterns against the specification's index lists, as cells, text and SVG.
#include "cli/pattern.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fathom::cli {
namespace {

int count_cells(const Pattern& pattern, int position, Cell kind) {
  int count = 0;
  for (int entry = 0; entry < pattern.num_entries(); ++entry) count += entry_cell(pattern, position, entry) == kind;
  return count;
}

// The index lists of spec 13.4: window 4, ratio 2.
TEST(Pattern, FollowsTheWorkedExample) {
  const Pattern pattern{.ratio = 2, .window = 4, .tokens = 6, .topk = 0};
  EXPECT_EQ(window_cell(pattern, 5, 1), Cell::hidden);
  EXPECT_EQ(window_cell(pattern, 5, 2), Cell::seen);
  EXPECT_EQ(window_cell(pattern, 5, 5), Cell::seen);
  EXPECT_EQ(window_cell(pattern, 4, 5), Cell::hidden);
  const int visible[] = {0, 1, 1, 2, 2, 3};
  for (int p = 0; p < 6; ++p) {
    EXPECT_EQ(visible_entries(pattern, p), visible[p]);
    EXPECT_EQ(count_cells(pattern, p, Cell::seen), visible[p]);
  }
}

TEST(Pattern, ExactlyTopkAreSeenOnceMoreAreVisible) {
  const Pattern pattern{.ratio = 4, .window = 8, .tokens = 64, .topk = 3};
  for (int p = 0; p < 64; ++p) {
    const int visible = visible_entries(pattern, p);
    EXPECT_EQ(count_cells(pattern, p, Cell::seen), std::min(visible, 3)) << p;
    EXPECT_EQ(count_cells(pattern, p, Cell::visible), std::max(0, visible - 3)) << p;
  }
}

TEST(Pattern, WindowLayersHaveNoEntries) {
  const Pattern pattern{.ratio = 0, .window = 2, .tokens = 3, .topk = 0};
  EXPECT_EQ(pattern.num_entries(), 0);
  EXPECT_EQ(pattern_text(pattern),
            "window of 2 tokens\n\n"
            " query  tokens  \n"
            "     0  █··   \n"
            "     1  ██·   \n"
            "     2  ·██   \n"
            "\n█ seen   · not visible\n");
}

TEST(Pattern, TextShowsEveryQueryOfAShortSequence) {
  EXPECT_EQ(pattern_text({.ratio = 4, .window = 3, .tokens = 8, .topk = 0}),
            "window of 3 tokens, an entry for each 4 tokens, all visible ones taken\n\n"
            " query  tokens    entries\n"
            "     0  █·······  ··\n"
            "     1  ██······  ··\n"
            "     2  ███·····  ··\n"
            "     3  ·███····  █·\n"
            "     4  ··███···  █·\n"
            "     5  ···███··  █·\n"
            "     6  ····███·  █·\n"
            "     7  ·····███  ██\n"
            "\n█ seen   · not visible\n");
}

TEST(Pattern, LongSequencesFitTheScreen) {
  const std::string text = pattern_text({.ratio = 128, .window = 128, .tokens = 1024, .topk = 0});
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 64 + 5);
  EXPECT_NE(text.find("a column stands for 16"), std::string::npos);
}

TEST(Pattern, OneTokenIsEnough) {
  const Pattern pattern{.ratio = 4, .window = 128, .tokens = 1, .topk = 4};
  EXPECT_NE(pattern_text(pattern).find("     0  █"), std::string::npos);
  EXPECT_NE(pattern_svg(pattern).find("</svg>"), std::string::npos);
}

TEST(Pattern, SvgDrawsARectangleForEachRun) {
  const std::string svg = pattern_svg({.ratio = 2, .window = 2, .tokens = 4, .topk = 0});
  EXPECT_TRUE(svg.starts_with("<svg xmlns="));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  std::size_t windows = 0, entries = 0;
  for (std::size_t at = 0; (at = svg.find("#3b6fb6", at)) != std::string::npos; ++at) ++windows;
  for (std::size_t at = 0; (at = svg.find("#d9822b", at)) != std::string::npos; ++at) ++entries;
  EXPECT_EQ(windows, 4u);
  EXPECT_EQ(entries, 3u);  // queries 1, 2 and 3 see 1, 1 and 2 entries, each a single run
}

}  // namespace
}  // namespace fathom::cli
