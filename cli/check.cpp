// `fathom check`: every implementation beside its reference on the case files, or one layer beside golden values.
#include <CLI/CLI.hpp>

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cli/commands.h"
#include "cli/forced.h"
#include "cli/golden.h"
#include "cli/terminal.h"
#include "harness/case_file.h"
#include "harness/conformance.h"

namespace fathom::cli {
namespace {

constexpr const char* kCaseSet = "ci";
constexpr std::size_t kMostFailuresShown = 10;  ///< of one implementation

struct CheckOptions {
  std::string op, text, golden, cases = harness::default_cases_folder(), numerics;
  bool all = false;
  std::vector<std::string> force;
  int threads = 0;
};

/// Every forced implementation exists. The first case of its op tells which ones there are.
Status check_forced(const CheckOptions& options, const Device& device, const harness::Forced& forced) {
  for (const auto& [op, name] : forced) {
    FATHOM_ASSIGN(const std::vector<std::string> cases, harness::read_cases(options.cases, op, kCaseSet));
    FATHOM_ASSIGN(const std::vector<std::string> names, harness::implementations_of(op, cases.front(), device));
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    return Status::invalid("--force: %s has no implementation \"%s\"; it has %s", op.c_str(), name.c_str(),
                           fmt::format("{}", fmt::join(names, ", ")).c_str());
  }
  return {};
}

/// One case: what every argument of every implementation came to.
int check_one(const CheckOptions& options, const Device& device, const harness::Forced& forced) {
  bool good = true;
  Table table({"implementation", "argument", ">elements", ">differing", ">max abs", ">max rel", ">rel L2", "result",
               "why so far"});
  for (const harness::Verdict& verdict : harness::check_case(options.op, options.text, device, forced)) {
    good = good && verdict.outcome == harness::Outcome::agrees;
    if (verdict.comparison.args.empty())
      table.add({verdict.implementation, "", "", "", "", "", "", name_of(verdict.outcome), verdict.text});
    for (const harness::ArgComparison& arg : verdict.comparison.args) {
      table.add({verdict.implementation, arg.name, fmt::format("{}", arg.elements), fmt::format("{}", arg.differing),
                 fmt::format("{:.3g}", arg.max_absolute), fmt::format("{:.3g}", arg.max_relative),
                 fmt::format("{:.3g}", arg.relative_l2), arg.failure.empty() ? "ok" : "FAILED",
                 arg.failure.empty() ? arg.because : arg.failure});
    }
  }
  fmt::print("{}", table.text());
  return good ? kOk : kFailed;
}

/// The case files of one op or of all.
int check_files(const CheckOptions& options, const Device& device, const harness::Forced& forced) {
  const auto start = std::chrono::steady_clock::now();
  Table table({"op", "implementation", ">agree", ">refused", ">failed", ">worst rel L2", "result"});
  std::vector<std::string> failures;
  std::int64_t checked = 0;
  bool good = true;
  for (const OpSpec* op : op_table()) {
    if (!options.op.empty() && options.op != op->name) continue;
    if (!forced.empty() && options.op.empty() && !options.all && !forced.contains(op->name)) continue;
    const auto cases = harness::read_cases(options.cases, op->name, kCaseSet);
    if (!cases.ok()) return fail(cases.status());
    for (const harness::Tally& tally : harness::check_cases(op->name, cases.value(), device, forced)) {
      table.add({tally.op, tally.implementation, fmt::format("{}", tally.agreeing), fmt::format("{}", tally.refused),
                 fmt::format("{}", tally.failed), fmt::format("{:.2g}", tally.worst_l2), tally.ok() ? "ok" : "FAILED"});
      checked += tally.agreeing + tally.failed;
      good = good && tally.ok();
      const std::string who = fmt::format("{} {}", tally.op, tally.implementation);
      const std::size_t shown = std::min(tally.failures.size(), kMostFailuresShown);
      for (std::size_t i = 0; i < shown; ++i) failures.push_back(fmt::format("{}: {}", who, tally.failures[i]));
      if (tally.failures.size() > shown)
        failures.push_back(fmt::format("{}: and {} more", who, tally.failures.size() - shown));
      if (tally.agreeing + tally.failed == 0) failures.push_back(who + ": refuses every case");
    }
  }
  fmt::print("{}", table.text());
  for (const std::string& failure : failures) fmt::print("{}\n", failure);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{} runs checked in {:.1f} s: {}\n", checked, seconds, good && checked > 0 ? "all agree" : "FAILED");
  return good && checked > 0 ? kOk : kFailed;
}

int run_check(const CheckOptions& options) {
  if (!options.golden.empty()) {
    GoldenOptions golden;
    golden.folder = options.golden;
    golden.threads = options.threads;
    golden.force = joined_force(options.force);
    if (!options.numerics.empty()) golden.numerics = options.numerics == "exact" ? Numerics::exact : Numerics::served;
    return check_golden(golden);
  }
  if (!options.op.empty() && find_op(options.op) == nullptr) {
    print_error(fmt::format("check: there is no op \"{}\"", options.op));
    return kUsage;
  }
  const auto forced = parse_force(options.force);
  if (!forced.ok()) {
    print_error(forced.status().text());
    return kUsage;
  }
  const auto device = Device::cpu(options.threads);
  if (!device.ok()) return fail(device.status());
  if (const Status status = check_forced(options, device.value(), forced.value()); !status.ok()) {
    print_error(status.text());
    return kUsage;
  }
  return options.text.empty() ? check_files(options, device.value(), forced.value())
                              : check_one(options, device.value(), forced.value());
}

}  // namespace

void add_check(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<CheckOptions>();
  CLI::App* verb = app.add_subcommand(
      "check", "Hold every implementation against its reference, or a checkpoint against golden values");
  auto* op = verb->add_option("op", options->op, "Only this op");
  auto* text =
      verb->add_option("case", options->text, "One case, for example \"num_tokens=3 num_heads=64 seed=7\"")->needs(op);
  auto* all = verb->add_flag("--all", options->all, "Every op, with --force too (the default without)")->excludes(op);
  auto* cases = verb->add_option("--cases", options->cases, "Folder of case files, OP/ci.txt")->excludes(text);
  auto* golden =
      verb->add_option("--golden", options->golden, "A folder with config.json, a checkpoint and expected values");
  golden->excludes(op)->excludes(all)->excludes(cases);
  verb->add_option("--numerics", options->numerics, "With --golden: only these")
      ->check(CLI::IsMember({"exact", "served"}))
      ->needs(golden);
  verb->add_option("--force", options->force, "OP=IMPL: run only this implementation of the op")
      ->expected(1)
      ->take_all();
  verb->add_option("--threads", options->threads, "Threads; 0 takes all")->check(CLI::Range(0, 4096));
  verb->callback([options, &exit_code] { exit_code = run_check(*options); });
}

}  // namespace fathom::cli
