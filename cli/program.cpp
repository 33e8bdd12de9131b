// run_program: the command line as a whole. Verbs are in their own files; this one knows their order, the exit codes
// and how mistakes in the command line are reported.
#include <CLI/CLI.hpp>

#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <new>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

constexpr const char* kAbout = "Fathom: the DeepSeek-V4 attention layer (window, CSA, HCA)";

int parse_and_run(int argc, const char* const* argv) {
  CLI::App app{kAbout, "fathom"};
  app.set_version_flag("--version", "fathom " FATHOM_VERSION, "Print the version and stop");
  int exit_code = kOk;
  need_subcommand(app, exit_code);
  add_run(app, exit_code);
  add_check(app, exit_code);
  add_bench(app, exit_code);
  add_info(app, exit_code);
  add_show(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    print_error(error.what());
    return kUsage;
  }
  return exit_code;
}

}  // namespace

int run_program(int argc, const char* const* argv) {
  try {
    const int exit_code = parse_and_run(argc, argv);
    // A full disk or a closed pipe shows here at the latest; results that nobody got are no success.
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
    print_error("standard output cannot be written");
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
  } catch (const std::exception& error) {
    print_error(error.what());
  }
  return kFailed;
}

}  // namespace fathom::cli
