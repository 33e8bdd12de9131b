// Implementation lists: how an op finds the code that runs a problem.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fathom/core/plan.h"

namespace fathom {

/// Empty: takes the problem. Otherwise why it does not, as the end of a sentence that starts with the name.
using Reason = std::string;

/// What an implementation settles when it is planned: the bytes it needs and anything it wants back at every run.
struct Prepared {
  WorkspaceSize workspace;
  std::shared_ptr<const void> state = {};
  std::vector<AnyPlan> parts = {};  ///< the plans of other ops that a run runs
};

/// What an implementation gets beside its arguments.
struct RunContext {
  const Device& device;
  const Workspace& workspace;
  Stream stream;
  const void* state;  ///< Prepared::state
};

/// One way to compute an op. Lists are ordered best first, reference last; there is no self-registration.
struct Implementation {
  const char* name;
  DeviceKind device;
  Reason (*refuses)(const void* problem, const Device& device);
  Result<Prepared> (*prepare)(const void* problem, const Device& device, const PlanOptions& options);
  Status (*run)(const void* problem, const void* args, const RunContext& context);
  /// Null: needs nothing but its device. Otherwise says what the machine lacks, as a reason; null where it lacks nothing.
  const char* (*lacks)() noexcept = nullptr;
};

namespace detail {
template <class>
struct RunSignature;
template <class P, class A>
struct RunSignature<Status (*)(const P&, const A&, const RunContext&)> {
  using Problem = P;
  using Args = A;
};
}  // namespace detail

/// Wraps an op's typed functions into an Implementation:
///   Refuses    Reason(const Problem&, const Device&)
///   Prepare    Result<Prepared>(const Problem&, const Device&, const PlanOptions&)
///   Run        Status(const Problem&, const Args&, const RunContext&)
template <auto Refuses, auto Prepare, auto Run>
constexpr Implementation implement(const char* name, DeviceKind device, const char* (*lacks)() noexcept = nullptr) {
  using Signature = detail::RunSignature<decltype(Run)>;
  using Problem = typename Signature::Problem;
  using Args = typename Signature::Args;
  return {name, device,
          [](const void* problem, const Device& where) -> Reason {
            return Refuses(*static_cast<const Problem*>(problem), where);
          },
          [](const void* problem, const Device& where, const PlanOptions& options) -> Result<Prepared> {
            return Prepare(*static_cast<const Problem*>(problem), where, options);
          },
          [](const void* problem, const void* args, const RunContext& context) -> Status {
            return Run(*static_cast<const Problem*>(problem), *static_cast<const Args*>(args), context);
          },
          lacks};
}

/// For implementations that take everything the problem's own checks let through, or need no workspace.
template <class Problem>
Reason refuses_nothing(const Problem&, const Device&) {
  return {};
}
template <class Problem>
Result<Prepared> prepares_nothing(const Problem&, const Device&, const PlanOptions&) {
  return Prepared{};
}

/// An op as the core sees it. `validate` checks what single fields cannot say; `check` what shapes cannot say.
/// Either may be null.
struct Op {
  const OpSpec* spec;
  std::span<const Implementation> implementations;
  Status (*validate)(const void* problem);
  Status (*check)(const void* problem, const void* args);
};

/// What a stage passes on when it plans the ops it is made of: pairs "op=name" reach them, a bare name was its own.
inline PlanOptions nested(const PlanOptions& options) noexcept {
  return options.implementation.find('=') == std::string_view::npos ? PlanOptions{} : options;
}

/// All ops (op_table.cpp).
std::span<const Op* const> ops() noexcept;
const Op* op_of(const OpSpec& spec) noexcept;

namespace detail {

/// An argument's shape with the problem's numbers filled in.
struct ResolvedExtent {
  enum class Kind : std::uint8_t { fixed, capacity, free } kind = Kind::fixed;
  std::int64_t value = 0;  ///< fixed: the extent; capacity: its upper bound
  std::int32_t group = 0;  ///< capacity and free: extents of one group agree
};
/// Distinct capacity and free names that one op's arguments may use.
inline constexpr int kMostExtentGroups = 64;
struct ResolvedArg {
  std::uint32_t dtypes = 0;  ///< one bit per DType
  std::int32_t rank = 0;
  std::array<ResolvedExtent, TensorView::kMaxRank> extents;
};

struct PlanData {
  const Op* op;
  const Implementation* implementation;
  Device device;
  Prepared prepared;
  std::vector<std::byte> problem;
  std::vector<ResolvedArg> args;
};

}  // namespace detail

/// All that run_op checks of arguments and workspace before it runs the plan, which must not be empty.
Status check_run(const AnyPlan& plan, std::span<const TensorView> args, const Workspace& workspace);

/// An args struct as the array of views that it is.
template <class Args>
std::span<const TensorView> views_of(const Args& args) noexcept {
  static_assert(sizeof(Args) % sizeof(TensorView) == 0);
  return {reinterpret_cast<const TensorView*>(&args), sizeof(Args) / sizeof(TensorView)};
}

/// The typed pair every op offers is made of these two.
template <class PlanType, class Problem>
Result<PlanType> make_plan(const Op& op, const Problem& problem, const Device& device, const PlanOptions& options) noexcept {
  auto plan = plan_problem(*op.spec, &problem, device, options);
  if (!plan.ok()) return plan.status();
  return PlanType(std::move(plan).value());
}
template <class Args>
Status run_plan(const Op& op, const AnyPlan& plan, const Args& args, const Workspace& workspace, Stream stream) noexcept {
  if (!plan || &plan.op() != op.spec) return Status::invalid("%s: the plan is empty or of another op", op.spec->name);
  return run_op(plan, views_of(args), workspace, stream);
}

}  // namespace fathom
