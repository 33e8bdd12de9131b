// Plans by name, runs twice, compares with the reference; the rest is counting.
#include "harness/conformance.h"

#include <algorithm>

namespace fathom::harness {

std::string force_text(const Forced& forced) {
  std::string text;
  for (const auto& [op, name] : forced) text += (text.empty() ? "" : " ") + op + "=" + name;
  return text;
}

namespace {

constexpr const char* kReference = "reference";

/// PlanOptions::implementation that runs `implementation` of `op`, and the others as forced.
std::string force_with(std::string_view op, std::string_view implementation, Forced forced) {
  forced.insert_or_assign(std::string(op), std::string(implementation));
  return force_text(forced);
}

/// Every op's reference.
Forced all_references() {
  Forced forced;
  for (const OpSpec* op : op_table()) forced[op->name] = kReference;
  return forced;
}

/// The implementations in the op's own list.
Result<std::vector<std::string>> listed(const OpCase& built, const Device& device) {
  FATHOM_ASSIGN(const std::vector<Candidate> list, candidates(*built.op, built.problem.data(), device));
  std::vector<std::string> names;
  for (const Candidate& candidate : list) {
    if (candidate.runs_here) names.emplace_back(candidate.implementation);
  }
  return names;
}

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The plan with `implementation` forced, and proof that it is the one.
Result<AnyPlan> forced_plan(const OpCase& built, const Device& device, const std::string& implementation,
                            const Forced& forced) {
  const std::string text = force_with(built.op->name, implementation, forced);
  FATHOM_ASSIGN(AnyPlan plan, plan_problem(*built.op, built.problem.data(), device, {text}));
  if (implementation != plan.implementation()) {
    return Status::invalid("%s: %s was forced, the plan holds %s", built.op->name, implementation.c_str(),
                           plan.implementation());
  }
  return plan;
}

/// The definition. An op that only composes others has none of its own: it runs with theirs.
Result<AnyPlan> reference_plan(const OpCase& built, const Device& device, const std::vector<std::string>& names) {
  return forced_plan(built, device, contains(names, kReference) ? kReference : names.back(), all_references());
}

/// Two runs with different poisons: the second one only has to be equal to the first.
WatchedRun sound_run(const OpCase& built, const AnyPlan& plan, bool all_outputs) {
  WatchedRun first = run_case(built, plan, kPoisons[0], all_outputs);
  if (!first.ok()) return first;
  const WatchedRun second = run_case(built, plan, kPoisons[1], false);
  if (!second.ok()) {
    first.fault = "a second run: " + second.problem_text();
  } else if (const char* name = first_difference(built, first, second)) {
    first.fault = std::string(name) + " differs between two runs: not written, or computed from bytes nobody wrote";
  }
  return first;
}

/// The command that runs the case again with this implementation.
std::string replay(std::string_view op, const std::string& text, const std::string& implementation,
                   const Forced& forced) {
  std::string command = "fathom check " + std::string(op) + " \"" + text + "\"";
  // The reference runs first whatever is forced, and an op that composes others has none to force.
  if (implementation != kReference) command += " --force " + std::string(op) + "=" + implementation;
  for (const auto& [other, name] : forced) {
    if (other != op) command += " --force " + other + "=" + name;
  }
  return command;
}

Verdict failed(const std::string& implementation, std::string text) {
  return {implementation, Outcome::fails, std::move(text), {}};
}

}  // namespace

std::set<std::string> ops_of(const AnyPlan& plan) {
  std::set<std::string> ops{plan.op().name};
  for (const AnyPlan& part : plan.parts()) ops.merge(ops_of(part));
  return ops;
}

std::set<std::string> ops_of(std::string_view op, std::string_view text, const Device& device, const Forced& forced) {
  std::set<std::string> ops;
  const auto built = read_case(op, text);
  const auto names = built.ok() ? listed(built.value(), device) : built.status();
  if (!names.ok()) return ops;
  const auto only = forced.find(op);
  for (const std::string& name : names.value()) {
    if (only != forced.end() && only->second != name) continue;
    const auto plan = forced_plan(built.value(), device, name, forced);
    if (plan.ok()) ops.merge(ops_of(plan.value()));
  }
  return ops;
}

Status check_forced_ops(const Forced& forced, const std::set<std::string>& used) {
  for (const auto& [op, name] : forced) {
    if (used.empty() || used.contains(op)) continue;
    std::string list;
    for (const std::string& known : used) list += (list.empty() ? "" : ", ") + known;
    return Status::invalid("--force: nothing here runs %s, expected one of %s", op.c_str(), list.c_str());
  }
  return {};
}

Result<std::vector<std::string>> implementations_of(std::string_view op, std::string_view text, const Device& device) {
  FATHOM_ASSIGN(const OpCase built, read_case(op, text));
  return listed(built, device);
}

std::vector<Verdict> check_case(std::string_view op, std::string_view text, const Device& device,
                                const Forced& forced) {
  const auto built = make_case(op, text);
  if (!built.ok()) return {failed(kReference, built.status().text())};
  const auto names = listed(built.value(), device);
  if (!names.ok()) return {failed(kReference, names.status().text())};
  // The definition runs on the CPU, whatever device is under test.
  const bool on_cpu = device.kind() == DeviceKind::cpu;
  const auto host = on_cpu ? Result<Device>(device) : Device::cpu();
  if (!host.ok()) return {failed(kReference, host.status().text())};
  const auto host_names = listed(built.value(), host.value());
  if (!host_names.ok()) return {failed(kReference, host_names.status().text())};
  const auto definition = reference_plan(built.value(), host.value(), host_names.value());
  if (!definition.ok()) return {failed(kReference, definition.status().text())};
  const WatchedRun reference = sound_run(built.value(), definition.value(), true);
  if (!reference.ok()) return {failed(kReference, reference.problem_text())};

  const auto only = forced.find(op);
  const auto wanted = [&](std::string_view name) { return only == forced.end() || only->second == name; };
  std::vector<Verdict> verdicts;
  for (const std::string& name : names.value()) {
    if (name == kReference || !wanted(name)) continue;
    const auto plan = forced_plan(built.value(), device, name, forced);
    if (!plan.ok()) {
      const bool refuses = plan.status().code() == StatusCode::unsupported;
      verdicts.push_back({name, refuses ? Outcome::refuses : Outcome::fails, plan.status().text(), {}});
      continue;
    }
    const WatchedRun run = sound_run(built.value(), plan.value(), false);
    if (!run.ok()) {
      verdicts.push_back(failed(name, run.problem_text()));
      continue;
    }
    Comparison comparison = compare(built.value(), run, reference);
    std::string failure = comparison.failure();
    const Outcome outcome = failure.empty() ? Outcome::agrees : Outcome::fails;
    verdicts.push_back({name, outcome, std::move(failure), std::move(comparison)});
  }
  const bool has_reference = contains(names.value(), kReference);
  if (on_cpu && (only == forced.end() || (has_reference && only->second == kReference)))
    verdicts.push_back({kReference, Outcome::sound, {}, {}});
  if (verdicts.empty()) {
    const std::string missing = only == forced.end() ? std::string("on ") + name_of(device.kind()) : "\"" + only->second + "\"";
    verdicts.push_back(failed(only == forced.end() ? "none" : only->second, std::string(op) + " has no implementation " + missing));
  }
  return verdicts;
}

std::vector<Tally> check_cases(std::string_view op, const std::vector<std::string>& cases, const Device& device,
                               const Forced& forced) {
  std::vector<Tally> tallies;
  for (const std::string& text : cases) {
    for (const Verdict& verdict : check_case(op, text, device, forced)) {
      auto tally = std::find_if(tallies.begin(), tallies.end(),
                                [&](const Tally& t) { return t.implementation == verdict.implementation; });
      if (tally == tallies.end())
        tally = tallies.insert(tallies.end(), {std::string(op), verdict.implementation, 0, 0, 0, 0, {}, 0});
      std::int64_t& count = verdict.outcome == Outcome::agrees    ? tally->agreeing
                            : verdict.outcome == Outcome::sound   ? tally->sound
                            : verdict.outcome == Outcome::refuses ? tally->refused
                                                                  : tally->failed;
      ++count;
      for (const ArgComparison& arg : verdict.comparison.args)
        tally->worst_l2 = std::max(tally->worst_l2, arg.relative_l2);
      if (verdict.outcome != Outcome::fails) continue;
      tally->failures.push_back(verdict.text + "\n    " + replay(op, text, verdict.implementation, forced));
    }
  }
  return tallies;
}

}  // namespace fathom::harness
