// The verbs of the program `fathom`. Each add_ function adds one subcommand to the application; when that subcommand
// was chosen, its callback stores the program's exit code: kOk, kFailed or (for usage it finds itself) kUsage.
#pragma once

namespace CLI {
class App;
}

namespace fathom::cli {

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;  ///< a check failed, or something went wrong at run time
inline constexpr int kUsage = 2;   ///< the command line itself is wrong

void add_run(CLI::App& app, int& exit_code);
void add_check(CLI::App& app, int& exit_code);
void add_bench(CLI::App& app, int& exit_code);
void add_info(CLI::App& app, int& exit_code);
void add_show(CLI::App& app, int& exit_code);

/// The whole program: parses, runs one verb, reports errors on stderr as one sentence, returns the exit code.
int run_program(int argc, const char* const* argv);

}  // namespace fathom::cli
