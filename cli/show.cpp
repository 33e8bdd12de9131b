// `fathom show pattern|cache`: pictures of what a query sees and of how a page lies in memory.
#include <CLI/CLI.hpp>

#include <fmt/core.h>

#include <memory>

#include "cli/cache_map.h"
#include "cli/commands.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/pattern.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

/// Prints the picture, or writes it to `svg_path` if that names a file.
Status show(const std::string& picture, const std::string& svg_path) {
  if (svg_path.empty()) {
    fmt::print("{}", picture);
    return {};
  }
  FATHOM_TRY(write_text(svg_path, picture));
  fmt::print("wrote {}\n", svg_path);
  return {};
}

void add_pattern(CLI::App& verb, int& exit_code) {
  struct Options {
    Pattern pattern;
    std::optional<int> topk;
    std::string svg;
  };
  auto options = std::make_shared<Options>();
  Pattern& pattern = options->pattern;
  CLI::App* subject = verb.add_subcommand("pattern", "Which tokens and entries each query sees");
  subject->add_option("--ratio", pattern.ratio, "Tokens per entry; 0: window layers, 4: CSA, 128: HCA")
      ->check(CLI::Range(0, 1024))
      ->required();
  subject->add_option("--window", pattern.window, "Tokens a query sees uncompressed")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  subject->add_option("--tokens", pattern.tokens, "Queries")->check(CLI::Range(1, 1024))->capture_default_str();
  subject->add_option("--topk", options->topk, "Entries picked; 0: all visible; default: 4 with ratio 4, else 0")
      ->check(CLI::Range(0, 1024));
  subject->add_option("--svg", options->svg, "Write a drawing instead of text")->check(not_empty());
  subject->callback([options, &exit_code] {
    constexpr int kCsaRatio = 4, kExampleTopk = 4;
    options->pattern.topk = options->topk.value_or(options->pattern.ratio == kCsaRatio ? kExampleTopk : 0);
    const Status status =
        show(options->svg.empty() ? pattern_text(options->pattern) : pattern_svg(options->pattern), options->svg);
    exit_code = status.ok() ? kOk : fail(status);
  });
}

void add_cache(CLI::App& verb, int& exit_code) {
  struct Options {
    std::string format, svg;
    std::int64_t page_size = 64;
    int dim = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* subject = verb.add_subcommand("cache", "The byte map of a cache page");
  subject->add_option("--format", options->format, "Row format")
      ->required()
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kCacheFormatWords), std::end(kCacheFormatWords))));
  subject->add_option("--page-size", options->page_size, "Rows of a page")
      ->check(CLI::Range(std::int64_t{1}, kMaxPageSize))
      ->capture_default_str();
  subject->add_option("--dim", options->dim, "Elements of a row; 0: the model's")
      ->check(CLI::Range(std::int64_t{0}, kMaxDim));
  subject->add_option("--svg", options->svg, "Write a drawing instead of text")->check(not_empty());
  subject->callback([options, &exit_code] {
    const auto picture = [&]() -> Status {
      const CacheFormat format = cache_format_from(options->format).value();
      FATHOM_ASSIGN(const RowLayout layout, row_layout(format, options->dim > 0 ? options->dim : model_dim(format)));
      return show(options->svg.empty() ? page_text(layout, options->page_size) : page_svg(layout, options->page_size),
                  options->svg);
    };
    const Status status = picture();
    exit_code = status.ok() ? kOk : fail(status);
  });
}

}  // namespace

void add_show(CLI::App& app, int& exit_code) {
  CLI::App* verb = app.add_subcommand("show", "Draw an attention pattern or a cache page, as text or SVG");
  need_subcommand(*verb, exit_code);
  add_pattern(*verb, exit_code);
  add_cache(*verb, exit_code);
}

}  // namespace fathom::cli
