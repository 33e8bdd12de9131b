// A drawing made of rectangles and texts: as much SVG as the program's pictures need.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>

namespace fathom::cli {

class Svg {
 public:
  void rect(double x, double y, double width, double height, std::string_view fill, std::string_view title = {}) {
    body_ += fmt::format(R"(<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" fill="{}")", x, y, width, height, fill);
    body_ += title.empty() ? std::string("/>\n") : fmt::format("><title>{}</title></rect>\n", title);
  }
  /// `anchor`: "start", "middle" or "end".
  void text(double x, double y, std::string_view words, std::string_view anchor = "start", int size = 12) {
    body_ +=
        fmt::format(R"(<text x="{:g}" y="{:g}" text-anchor="{}" font-size="{}">{}</text>)", x, y, anchor, size, words);
    body_ += "\n";
  }
  /// The whole file, on a white ground.
  std::string finish(double width, double height) const {
    return fmt::format(
        R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" )"
        R"(font-family="sans-serif" fill="#222">)"
        "\n<rect width=\"{0:g}\" height=\"{1:g}\" fill=\"#fff\"/>\n{2}</svg>\n",
        width, height, body_);
  }

 private:
  std::string body_;
};

}  // namespace fathom::cli
