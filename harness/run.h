// One run of a plan over a case, with everything watched: canaries, inputs, gaps between rows, counters.
#pragma once

#include <string>
#include <vector>

#include "fathom/core/plan.h"
#include "harness/op_case.h"

namespace fathom::harness {

/// Outputs and workspace are filled with `poison` first. An output that differs between runs with different poisons was
/// not written, or was computed from bytes nobody wrote.
inline constexpr std::byte kPoisons[] = {std::byte{0xff}, std::byte{0xa5}};

struct WatchedRun {
  Status status;                  ///< of run_op
  std::string fault;              ///< empty, or one sentence: what the run did that no op may do
  std::vector<TensorView> views;  ///< one for each ArgSpec; outputs and caches point into `blocks`
  std::vector<GuardedBlock> blocks;

  bool ok() const noexcept { return status.ok() && fault.empty(); }
  /// What went wrong, for a reader; empty if nothing did.
  std::string problem_text() const { return status.ok() ? fault : std::string(status.text()); }
};

/// Runs once. With `all_outputs` the optional outputs that the case leaves out are computed as well.
WatchedRun run_case(const OpCase& built, const AnyPlan& plan, std::byte poison, bool all_outputs = false);
/// Name of the first output that differs in any bit between two runs of the case, or null. Outputs that only one of the
/// runs has are left out.
const char* first_difference(const OpCase& built, const WatchedRun& a, const WatchedRun& b) noexcept;

}  // namespace fathom::harness
