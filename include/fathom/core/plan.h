// Plans: a choice of implementation for a problem, made once and run many times.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fathom/core/device.h"
#include "fathom/core/op.h"

namespace fathom FATHOM_PUBLIC {

namespace detail {
struct PlanData;
}

/// A caller's bytes.
struct Buffer {
  void* data = nullptr;
  std::int64_t bytes = 0;
};

/// What a plan's runs need from the caller, in bytes. Every part must be aligned to kWorkspaceAlignment.
struct WorkspaceSize {
  std::int64_t scratch = 0;   ///< any content on entry, garbage on return
  std::int64_t counters = 0;  ///< zeroed once by init_workspace, left zero by every run; one per stream
  std::int64_t schedule = 0;  ///< built on the device once per step, shared by layers of a kind

  std::int64_t total() const noexcept { return scratch + counters + schedule; }
};
inline constexpr std::int64_t kWorkspaceAlignment = 256;

struct Workspace {
  Buffer scratch;
  Buffer counters;
  Buffer schedule;
};

/// Cuts one block of at least `size.total()` bytes (each part rounded up to kWorkspaceAlignment) into a Workspace.
Workspace carve_workspace(void* data, const WorkspaceSize& size) noexcept;

struct PlanOptions {
  /// Take this implementation ("reference", "cpu", "cuda:sm80") or fail; empty takes the first that fits. A list of
  /// pairs, "attend=reference linear=cpu", forces those ops wherever a plan is made of others (layer, project, ...).
  std::string_view implementation = {};
};

/// A plan of any op: immutable, cheap to copy, safe to run from several threads at once with distinct workspaces.
class AnyPlan {
 public:
  AnyPlan() = default;
  explicit AnyPlan(std::shared_ptr<const detail::PlanData> data) noexcept : data_(std::move(data)) {}

  /// False for a default-made plan: running one is an error, and asking it anything else is undefined.
  explicit operator bool() const noexcept { return data_ != nullptr; }
  const OpSpec& op() const noexcept;
  /// Name of the implementation that runs.
  const char* implementation() const noexcept;
  const Device& device() const noexcept;
  WorkspaceSize workspace_size() const noexcept;
  const void* problem_data() const noexcept;
  /// The plans that a run of this one runs: a layer's stages, a stage's products.
  std::span<const AnyPlan> parts() const noexcept;
  const detail::PlanData* data() const noexcept { return data_.get(); }

 private:
  std::shared_ptr<const detail::PlanData> data_;
};

/// A plan of the op whose problem type is `Problem`.
template <class Problem>
class Plan : public AnyPlan {
 public:
  Plan() = default;
  explicit Plan(AnyPlan plan) noexcept : AnyPlan(std::move(plan)) {}
  const Problem& problem() const noexcept { return *static_cast<const Problem*>(problem_data()); }
};

/// Plans the op called `op` from one line of problem text.
Result<AnyPlan> plan_op(std::string_view op, std::string_view problem, const Device& device,
                        const PlanOptions& options = {}) noexcept;
/// Plans an op from its problem struct.
Result<AnyPlan> plan_problem(const OpSpec& op, const void* problem, const Device& device,
                             const PlanOptions& options = {}) noexcept;
/// Checks the arguments, one view per ArgSpec in order, and runs. Nothing is written unless every check passes.
Status run_op(const AnyPlan& plan, std::span<const TensorView> args, const Workspace& workspace,
              Stream stream = {}) noexcept;
/// Zeroes the counters; once per workspace.
Status init_workspace(const AnyPlan& plan, const Workspace& workspace, Stream stream = {}) noexcept;

/// One implementation's answer to a problem: `reason` is empty if it takes it.
struct Candidate {
  const char* implementation;
  DeviceKind device;  ///< where it runs
  std::string reason;
  bool runs_here = true;  ///< false: the device, or the machine, could run it for no problem
};
/// What every implementation of the op says to the problem, best first.
Result<std::vector<Candidate>> candidates(const OpSpec& op, const void* problem, const Device& device) noexcept;

}  // namespace fathom
