// Byte maps cover pages without gaps and agree with the specification's worked address.
#include "cli/cache_map.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fathom::cli {
namespace {

TEST(PageMap, CoversEveryByteOfEveryFormatOnce) {
  for (std::size_t i = 0; i < std::size(kCacheFormatWords); ++i) {
    const auto format = cache_format_from(kCacheFormatWords[i]);
    ASSERT_TRUE(format.has_value());
    const auto layout = row_layout(format.value(), model_dim(format.value()));
    ASSERT_TRUE(layout.ok()) << kCacheFormatWords[i] << ": " << layout.status().text();
    for (const std::int64_t page_size : {1, 2, 64}) {
      std::int64_t next = 0;
      for (const ByteRange& range : page_map(layout.value(), page_size)) {
        EXPECT_EQ(range.first, next) << kCacheFormatWords[i];
        next = range.first + range.bytes;
      }
      EXPECT_EQ(next, layout.value().page_stride(page_size)) << kCacheFormatWords[i];
    }
  }
}

// Spec 13.5: index 130 of pages of 64 is slot 2 of its page; its scales lie 36864 + 16 bytes into the page.
TEST(PageMap, AgreesWithTheWorkedAddress) {
  const RowLayout layout = row_layout(CacheFormat::kv_e4m3_ue8m0, 512).value();
  const std::vector<ByteRange> map = page_map(layout, 64);
  const auto piece = [&](std::string_view name) {
    return std::find_if(map.begin(), map.end(), [&](const ByteRange& r) { return r.row == 2 && r.name == name; })
        ->first;
  };
  EXPECT_EQ(74880 + piece("nope"), 76032);
  EXPECT_EQ(74880 + piece("rope"), 76480);
  EXPECT_EQ(74880 + piece("scales"), 111760);
}

TEST(PageText, ShowsRowsFootersAndPadding) {
  EXPECT_EQ(page_text(row_layout(CacheFormat::kv_e4m3_ue8m0, 512).value(), 2),
            "kv_e4m3_ue8m0: page of 2 rows, 1168 bytes, stride 1728\n\n"
            "byte  bytes  place     what\n"
            "   0    448  row 0     nope 448 x e4m3\n"
            " 448    128  row 0     rope 64 x bf16\n"
            " 576    448  row 1     nope 448 x e4m3\n"
            "1024    128  row 1     rope 64 x bf16\n"
            "1152      7  footer 0  scales 7 x ue8m0\n"
            "1159      1  footer 0  pad 1 x u8\n"
            "1160      7  footer 1  scales 7 x ue8m0\n"
            "1167      1  footer 1  pad 1 x u8\n"
            "1168    560  page      padding\n");
}

TEST(PageText, LongPagesAreElided) {
  const std::string text = page_text(row_layout(CacheFormat::index_e2m1_ue8m0, 128).value(), 64);
  EXPECT_NE(text.find("...\n"), std::string::npos);
  EXPECT_NE(text.find("row 63"), std::string::npos);
  EXPECT_EQ(text.find("row 32"), std::string::npos);
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 16);
}

TEST(PageSvg, DrawsEveryShownPiece) {
  const RowLayout layout = row_layout(CacheFormat::kv_e4m3_ue8m0, 512).value();
  const std::string svg = page_svg(layout, 64);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  for (const char* words : {"nope 448 x e4m3", "rope 64 x bf16", "bytes 36864 to 36870", "..."}) {
    EXPECT_NE(svg.find(words), std::string::npos) << words;
  }
}

}  // namespace
}  // namespace fathom::cli
