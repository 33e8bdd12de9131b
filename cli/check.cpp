// `fathom check`: every implementation beside its reference on the case files, or one layer beside golden values.
#include <CLI/CLI.hpp>

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cli/commands.h"
#include "cli/golden.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "harness/case_file.h"
#include "harness/conformance.h"

namespace fathom::cli {
namespace {

constexpr const char* kCaseSet = "ci";
constexpr std::size_t kMostFailuresShown = 10;  ///< of one implementation

struct CheckOptions {
  std::string op, golden, cases = harness::default_cases_folder(), numerics;
  std::optional<std::string> text;  ///< "" is a case too: all defaults
  bool all = false;
  harness::Forced forced;
  DeviceChoice device;
};

/// Every forced implementation exists, and something runs it. The first case of its op tells which ones there are.
Status check_forced(const CheckOptions& options, const Device& device) {
  for (const auto& [op, name] : options.forced) {
    FATHOM_ASSIGN(const std::vector<std::string> cases, harness::read_cases(options.cases, op, kCaseSet));
    FATHOM_ASSIGN(const std::vector<std::string> names, harness::implementations_of(op, cases.front(), device));
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    return Status::invalid("--force: %s has no implementation \"%s\"; it has %s", op.c_str(), name.c_str(),
                           fmt::format("{}", fmt::join(names, ", ")).c_str());
  }
  if (options.forced.empty() || options.op.empty()) return {};  // without an op those that are forced run
  std::set<std::string> used;
  std::vector<std::string> cases;
  if (options.text) {
    cases = {*options.text};
  } else {
    FATHOM_ASSIGN(cases, harness::read_cases(options.cases, options.op, kCaseSet));
  }
  for (const std::string& text : cases) used.merge(harness::ops_of(options.op, text, device, options.forced));
  return harness::check_forced_ops(options.forced, used);
}

/// The exit code and the last word on runs of which `compared` were held against a reference.
std::pair<int, const char*> conclusion(bool good, std::int64_t compared) {
  if (!good) return {kFailed, "FAILED"};
  return compared > 0 ? std::pair(kOk, "all agree") : std::pair(kFailed, "nothing was compared");
}

/// One case: what every argument of every implementation came to.
int check_one(const CheckOptions& options, const Device& device) {
  bool good = true;
  std::int64_t compared = 0;
  Table table({"implementation", "argument", ">elements", ">differing", ">max abs", ">max rel", ">rel L2", "result",
               "why so far"});
  for (const harness::Verdict& verdict : harness::check_case(options.op, *options.text, device, options.forced)) {
    good = good && (verdict.outcome == harness::Outcome::agrees || verdict.outcome == harness::Outcome::sound);
    if (verdict.outcome == harness::Outcome::agrees) ++compared;
    if (verdict.comparison.args.empty())
      table.add({verdict.implementation, "", "", "", "", "", "", name_of(verdict.outcome), verdict.text});
    for (const harness::ArgComparison& arg : verdict.comparison.args) {
      table.add({verdict.implementation, arg.name, fmt::format("{}", arg.elements), fmt::format("{}", arg.differing),
                 fmt::format("{:.3g}", arg.max_absolute), fmt::format("{:.3g}", arg.max_relative),
                 fmt::format("{:.3g}", arg.relative_l2), arg.failure.empty() ? "ok" : "FAILED",
                 arg.failure.empty() ? arg.because : arg.failure});
    }
  }
  const auto [code, words] = conclusion(good, compared);
  fmt::print("{}{}\n", table.text(), words);
  return code;
}

/// The case files of one op or of all.
int check_files(const CheckOptions& options, const Device& device) {
  const auto start = std::chrono::steady_clock::now();
  Table table({"op", "implementation", ">agree", ">refused", ">failed", ">worst rel L2", "result"});
  std::vector<std::string> failures;
  std::int64_t compared = 0;
  bool good = true;
  for (const OpSpec* op : op_table()) {
    if (!options.op.empty() && options.op != op->name) continue;
    if (!options.forced.empty() && options.op.empty() && !options.all && !options.forced.contains(op->name)) continue;
    const auto cases = harness::read_cases(options.cases, op->name, kCaseSet);
    if (!cases.ok()) return fail(cases.status());
    const auto names = harness::implementations_of(op->name, cases->front(), device);
    if (names.ok() && names->empty()) {
      table.add({op->name, fmt::format("none on {}", name_of(device)), "", "", "", "", ""});
      continue;
    }
    for (const harness::Tally& tally : harness::check_cases(op->name, cases.value(), device, options.forced)) {
      const bool is_reference = tally.sound > 0;
      table.add({tally.op, tally.implementation, is_reference ? "" : fmt::format("{}", tally.agreeing),
                 fmt::format("{}", tally.refused), fmt::format("{}", tally.failed),
                 is_reference ? "" : fmt::format("{:.2g}", tally.worst_l2),
                 name_of(!tally.ok()     ? harness::Outcome::fails
                         : is_reference ? harness::Outcome::sound
                                        : harness::Outcome::agrees)});
      compared += tally.compared();
      good = good && tally.ok();
      const std::string who = fmt::format("{} {}", tally.op, tally.implementation);
      const std::size_t shown = std::min(tally.failures.size(), kMostFailuresShown);
      for (std::size_t i = 0; i < shown; ++i) failures.push_back(fmt::format("{}: {}", who, tally.failures[i]));
      if (tally.failures.size() > shown)
        failures.push_back(fmt::format("{}: and {} more", who, tally.failures.size() - shown));
      if (tally.compared() + tally.sound == 0) failures.push_back(who + ": refuses every case");
    }
  }
  fmt::print("{}", table.text());
  for (const std::string& failure : failures) fmt::print("{}\n", failure);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto [code, words] = conclusion(good, compared);
  fmt::print("{} runs compared in {:.1f} s: {}\n", compared, seconds, words);
  return code;
}

int run_check(const CheckOptions& options) {
  if (!options.golden.empty()) {
    GoldenOptions golden;
    golden.folder = options.golden;
    golden.device = options.device;
    golden.forced = options.forced;
    if (!options.numerics.empty()) golden.numerics = options.numerics == "exact" ? Numerics::exact : Numerics::served;
    return check_golden(golden);
  }
  const auto device = options.device.open();
  if (!device.ok()) return fail(device.status());
  if (const Status status = check_forced(options, device.value()); !status.ok()) {
    print_error(status.text());
    return kUsage;
  }
  return options.text ? check_one(options, device.value()) : check_files(options, device.value());
}

}  // namespace

void add_check(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* verb = app.add_subcommand(
      "check", "Hold every implementation against its reference, or a checkpoint against golden values");
  auto* op = verb->add_option("op", options->op, "Only this op")->check(op_name());
  const auto read_text = [options](const std::string& text) { options->text = text; };
  auto* text = verb->add_option_function<std::string>("case", read_text,
                                                      "One case, for example \"num_tokens=3 num_heads=64 seed=7\"")
                   ->needs(op);
  auto* all = verb->add_flag("--all", options->all, "Every op, with --force too (the default without)")->excludes(op);
  auto* cases = verb->add_option("--cases", options->cases, "Folder of case files, OP/ci.txt")
                    ->check(not_empty())
                    ->excludes(text);
  auto* golden =
      verb->add_option("--golden", options->golden, "A folder with config.json, a checkpoint and expected values")
          ->check(not_empty());
  golden->excludes(op)->excludes(all)->excludes(cases);
  verb->add_option("--numerics", options->numerics, "With --golden: only these")
      ->check(CLI::IsMember({"exact", "served"}))
      ->needs(golden);
  add_force(*verb, options->forced, "run only this implementation of the op");
  add_device(*verb, options->device);
  verb->callback([options, &exit_code] { exit_code = run_check(*options); });
}

}  // namespace fathom::cli
