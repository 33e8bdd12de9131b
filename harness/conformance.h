// Conformance: every implementation of an op beside its reference, on one case or on a file of them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/plan.h"
#include "harness/compare.h"

namespace fathom::harness {

/// `sound` is said of a reference alone: its run was watched, but there is nothing that it could be compared with.
enum class Outcome : std::uint8_t { agrees, sound, refuses, fails };
constexpr const char* name_of(Outcome outcome) noexcept {
  constexpr const char* kNames[] = {"ok", "sound", "refused", "FAILED"};
  return kNames[static_cast<int>(outcome)];
}

struct Verdict {
  std::string implementation;
  Outcome outcome = Outcome::fails;
  std::string text;       ///< why it refuses or what failed; empty if it agrees or is sound
  Comparison comparison;  ///< filled in where both runs were sound
};

/// The words of --force, by op. An op that is not named runs all its implementations, each with the stages below it as
/// named here ("attend=reference" for a layer).
using Forced = std::map<std::string, std::string, std::less<>>;
/// As PlanOptions::implementation takes them: "attend=reference linear=cpu".
std::string force_text(const Forced& forced);

/// Names of the ops that a run of the plan runs, its own included.
std::set<std::string> ops_of(const AnyPlan& plan);
/// The same of all the case's plans: as forced, or of each implementation that `forced` leaves to choose from. None where
/// the case cannot be planned, which its run will say.
std::set<std::string> ops_of(std::string_view op, std::string_view text, const Device& device, const Forced& forced);
/// Every forced op is one of `used`; a word of --force that changes nothing is a slip.
Status check_forced_ops(const Forced& forced, const std::set<std::string>& used);

/// Names of the implementations that the device, on this machine, can run for the case's op, best first; those that refuse it
/// included.
Result<std::vector<std::string>> implementations_of(std::string_view op, std::string_view text, const Device& device);

/// Runs the case with all (or the forced) implementations, twice each with different poisons, which must give equal
/// bits, and compares each with the reference, which is held to the same rules; an op that only composes others has
/// all of their references composed. One verdict for each implementation, the reference's last. A case that cannot be
/// built, or a reference that fails, is a failed verdict of "reference".
std::vector<Verdict> check_case(std::string_view op, std::string_view text, const Device& device,
                                const Forced& forced = {});

/// What an op's cases came to, for one implementation.
struct Tally {
  std::string op;
  std::string implementation;
  std::int64_t agreeing = 0, sound = 0, refused = 0, failed = 0;
  std::vector<std::string> failures;  ///< what went wrong, then the command that shows it again
  double worst_l2 = 0;                ///< of all float arguments

  /// Runs that were held against the reference.
  std::int64_t compared() const noexcept { return agreeing + failed; }
  /// An implementation that refuses every case has not been checked at all.
  bool ok() const noexcept { return failed == 0 && agreeing + sound > 0; }
};

/// check_case over all cases; one tally for each implementation that was run.
std::vector<Tally> check_cases(std::string_view op, const std::vector<std::string>& cases, const Device& device,
                               const Forced& forced = {});

}  // namespace fathom::harness
