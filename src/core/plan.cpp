// Selection, argument checks and dispatch: the same for every op.
#include "fathom/core/plan.h"

#include <algorithm>
#include <cstring>

#include "core/cuda_runtime.h"
#include "core/implementation.h"
#include "core/shape_text.h"
#include "core/view_checks.h"

namespace fathom {
namespace {

using detail::PlanData;
using detail::ResolvedArg;
using detail::ResolvedExtent;

std::int64_t aligned(std::int64_t bytes) noexcept {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

/// One part of the workspace is there, large enough and aligned.
Status check_buffer(const char* op, const char* part, const Buffer& have, std::int64_t need) noexcept {
  if (need == 0) return {};
  if (have.data == nullptr || have.bytes < need) {
    return Status::insufficient_workspace("%s: workspace.%s has %lld bytes, expected at least %lld", op, part,
                                          static_cast<long long>(have.data == nullptr ? 0 : have.bytes),
                                          static_cast<long long>(need));
  }
  if (reinterpret_cast<std::uintptr_t>(have.data) % kWorkspaceAlignment != 0) {
    return Status::invalid("%s: workspace.%s is not aligned to %lld bytes", op, part,
                           static_cast<long long>(kWorkspaceAlignment));
  }
  return {};
}

Status check_workspace(const PlanData& plan, const Workspace& workspace) noexcept {
  const char* op = plan.op->spec->name;
  FATHOM_TRY(check_buffer(op, "scratch", workspace.scratch, plan.prepared.workspace.scratch));
  FATHOM_TRY(check_buffer(op, "counters", workspace.counters, plan.prepared.workspace.counters));
  return check_buffer(op, "schedule", workspace.schedule, plan.prepared.workspace.schedule);
}

/// Everything about one view that its own spec decides; extents that several arguments share go through `bound`.
Status check_view(const PlanData& plan, const ArgSpec& spec, const ResolvedArg& resolved, const TensorView& view,
                  std::span<std::int64_t> bound) noexcept {
  const char* op = plan.op->spec->name;
  if (view.is_absent()) {
    if (is_optional(spec.role)) return {};
    return Status::invalid("%s: %s is missing", op, spec.name);
  }
  if (static_cast<int>(view.dtype) >= kDTypeCount || (resolved.dtypes >> static_cast<int>(view.dtype) & 1u) == 0) {
    return Status::invalid("%s: %s has dtype %s, expected %s", op, spec.name, name_of(view.dtype),
                           dtype_names(resolved.dtypes).c_str());
  }
  if (view.device != plan.device.kind() || view.device_index != plan.device.index()) {
    return Status::invalid("%s: %s is on %s:%d, expected %s:%d", op, spec.name, name_of(view.device), view.device_index,
                           name_of(plan.device.kind()), plan.device.index());
  }
  bool fits = view.rank == resolved.rank;
  for (int i = 0; fits && i < view.rank; ++i) {
    const ResolvedExtent& extent = resolved.extents[i];
    const std::int64_t came = view.shape[i];
    if (extent.kind == ResolvedExtent::Kind::fixed) {
      fits = came == extent.value;
      continue;
    }
    fits = came >= 0 && (extent.kind == ResolvedExtent::Kind::free || came <= extent.value);
    std::int64_t& seen = bound[extent.group];
    if (seen < 0) seen = came;
    fits = fits && seen == came;
  }
  if (!fits) {
    return Status::invalid("%s: %s has shape %s, expected %s", op, spec.name, shape_text(view).c_str(),
                           expected_shape(spec, resolved, bound).c_str());
  }
  FATHOM_TRY(check_memory(op, spec.name, view, is_written(spec.role)));
  if (view.shape[view.rank - 1] > 1 && view.strides[view.rank - 1] != 1) {
    return Status::invalid("%s: %s has last stride %lld, expected 1", op, spec.name,
                           static_cast<long long>(view.strides[view.rank - 1]));
  }
  return {};
}

Status check_args(const PlanData& plan, std::span<const TensorView> args) {
  const OpSpec& spec = *plan.op->spec;
  if (args.size() != spec.args.size()) {
    return Status::invalid("%s: %zu arguments came, expected %zu", spec.name, args.size(), spec.args.size());
  }
  std::array<std::int64_t, detail::kMostExtentGroups> bound;
  bound.fill(-1);
  for (std::size_t i = 0; i < args.size(); ++i) {
    FATHOM_TRY(check_view(plan, spec.args[i], plan.args[i], args[i], bound));
  }
  if (plan.op->check != nullptr) FATHOM_TRY(plan.op->check(plan.problem.data(), args.data()));
  return {};
}

/// Why the implementation does not take the problem: for what the machine lacks, or by its own words.
Reason reason_of(const Implementation& implementation, const void* problem, const Device& device) {
  const char* lacking = implementation.lacks == nullptr ? nullptr : implementation.lacks();
  return lacking != nullptr ? Reason(lacking) : implementation.refuses(problem, device);
}

Status refusal_list(const Op& op, const void* problem, const Device& device) {
  std::string text = "unsupported: no implementation takes \"" + problem_text(*op.spec->problem, problem) + "\" on " +
                     name_of(device.kind());
  for (const Implementation& implementation : op.implementations) {
    if (implementation.device != device.kind()) continue;
    text += std::string("\n  ") + implementation.name + ": " + reason_of(implementation, problem, device);
  }
  return Status::unsupported("%s: %s", op.spec->name, text.c_str());
}

/// What the options force for `op`: "name", or the name behind "op=" in a list of pairs.
std::string_view forced_for(const PlanOptions& options, std::string_view op) {
  std::string_view text = options.implementation;
  if (text.find('=') == std::string_view::npos) return text;
  while (!text.empty()) {
    const std::size_t blank = std::min(text.find_first_of(" ,"), text.size());
    const std::string_view pair = text.substr(0, blank);
    text.remove_prefix(std::min(blank + 1, text.size()));
    const std::size_t equals = pair.find('=');
    if (equals != std::string_view::npos && pair.substr(0, equals) == op) return pair.substr(equals + 1);
  }
  return {};
}

/// A list of pairs names ops that exist and implementations that are not empty; what they are is for each op to say.
Status check_forced(std::string_view text) {
  if (text.find('=') == std::string_view::npos) return {};
  while (!text.empty()) {
    const std::size_t blank = std::min(text.find_first_of(" ,"), text.size());
    const std::string pair(text.substr(0, blank));
    text.remove_prefix(std::min(blank + 1, text.size()));
    if (pair.empty()) continue;
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals + 1 == pair.size() || find_op(pair.substr(0, equals)) == nullptr) {
      return Status::invalid("plan: \"%.80s\" forces nothing, expected op=implementation with a known op", pair.c_str());
    }
  }
  return {};
}

/// The forced implementation, or the first that takes the problem.
Result<const Implementation*> select(const Op& op, const void* problem, const Device& device, std::string_view forced) {
  std::string names;
  for (const Implementation& implementation : op.implementations) {
    if (implementation.device != device.kind()) continue;
    names += (names.empty() ? "" : ", ") + std::string(implementation.name);
    if (!forced.empty() && forced != implementation.name) continue;
    const Reason reason = reason_of(implementation, problem, device);
    if (reason.empty()) return &implementation;
    if (!forced.empty()) {
      return Status::unsupported("%s: %s refuses \"%s\": %s", op.spec->name, implementation.name,
                                 problem_text(*op.spec->problem, problem).c_str(), reason.c_str());
    }
  }
  if (!forced.empty()) {
    return Status::unsupported("%s: there is no implementation \"%.40s\" on %s; there are %s", op.spec->name,
                               std::string(forced).c_str(), name_of(device.kind()), names.c_str());
  }
  return refusal_list(op, problem, device);
}

Status validate(const Op& op, const void* problem) {
  FATHOM_TRY(check_problem(*op.spec->problem, op.spec->name, problem));
  return op.validate == nullptr ? Status() : op.validate(problem);
}

}  // namespace

Workspace carve_workspace(void* data, const WorkspaceSize& size) noexcept {
  auto* at = static_cast<std::byte*>(data);
  Workspace workspace;
  const auto cut = [&at](std::int64_t bytes) {
    Buffer part{at, bytes};
    at += aligned(bytes);
    return part;
  };
  workspace.scratch = cut(size.scratch);
  workspace.counters = cut(size.counters);
  workspace.schedule = cut(size.schedule);
  return workspace;
}

const OpSpec& AnyPlan::op() const noexcept { return *data_->op->spec; }
const char* AnyPlan::implementation() const noexcept { return data_->implementation->name; }
const Device& AnyPlan::device() const noexcept { return data_->device; }
WorkspaceSize AnyPlan::workspace_size() const noexcept {
  const WorkspaceSize& size = data_->prepared.workspace;
  return {aligned(size.scratch), aligned(size.counters), aligned(size.schedule)};
}
const void* AnyPlan::problem_data() const noexcept { return data_->problem.data(); }
std::span<const AnyPlan> AnyPlan::parts() const noexcept { return data_->prepared.parts; }

Result<AnyPlan> plan_problem(const OpSpec& spec, const void* problem, const Device& device,
                             const PlanOptions& options) noexcept {
  return guarded(spec.name, [&]() -> Result<AnyPlan> {
    const Op* op = op_of(spec);
    if (op == nullptr) return Status::invalid("plan: \"%s\" is not in the op table", spec.name);
    FATHOM_TRY(validate(*op, problem));
    FATHOM_TRY(check_forced(options.implementation));
    const std::string_view forced = forced_for(options, spec.name);
    FATHOM_ASSIGN(const Implementation* implementation, select(*op, problem, device, forced));
    auto data = std::make_shared<PlanData>(PlanData{op, implementation, device, {}, {}, {}});
    FATHOM_ASSIGN(data->prepared, implementation->prepare(problem, device, options));
    const auto* bytes = static_cast<const std::byte*>(problem);
    data->problem.assign(bytes, bytes + spec.problem->size);
    FATHOM_TRY(resolve_args(*data));
    return AnyPlan(std::move(data));
  });
}

Result<AnyPlan> plan_op(std::string_view name, std::string_view text, const Device& device,
                        const PlanOptions& options) noexcept {
  return guarded("plan", [&]() -> Result<AnyPlan> {
    const OpSpec* spec = find_op(name);
    if (spec == nullptr) return Status::invalid("plan: there is no op \"%s\"", std::string(name.substr(0, 40)).c_str());
    std::vector<std::byte> problem(spec->problem->size);
    FATHOM_TRY(parse_problem(*spec->problem, text, problem.data()));
    return plan_problem(*spec, problem.data(), device, options);
  });
}

Status check_run(const AnyPlan& plan, std::span<const TensorView> args, const Workspace& workspace) {
  FATHOM_TRY(check_args(*plan.data(), args));
  return check_workspace(*plan.data(), workspace);
}

Status run_op(const AnyPlan& plan, std::span<const TensorView> args, const Workspace& workspace, Stream stream) noexcept {
  if (!plan) return Status::invalid("run: the plan is empty");
  const PlanData& data = *plan.data();
  return guarded(data.op->spec->name, [&]() -> Status {
    FATHOM_TRY(check_run(plan, args, workspace));
    return data.implementation->run(data.problem.data(), args.data(), RunContext{data.device, workspace, stream, data.prepared.state.get()});
  });
}

Status init_workspace(const AnyPlan& plan, const Workspace& workspace, Stream stream) noexcept {
  if (!plan) return Status::invalid("init_workspace: the plan is empty");
  FATHOM_TRY(check_workspace(*plan.data(), workspace));
  if (plan.data()->prepared.workspace.counters == 0) return {};
  const Device& device = plan.data()->device;
  if (device.kind() == DeviceKind::cuda) {
    return cuda::fill(device.index(), workspace.counters.data, 0, workspace.counters.bytes, stream);
  }
  std::memset(workspace.counters.data, 0, static_cast<std::size_t>(workspace.counters.bytes));
  return {};
}

Result<std::vector<Candidate>> candidates(const OpSpec& spec, const void* problem, const Device& device) noexcept {
  return guarded(spec.name, [&]() -> Result<std::vector<Candidate>> {
    const Op* op = op_of(spec);
    if (op == nullptr) return Status::invalid("candidates: \"%s\" is not in the op table", spec.name);
    FATHOM_TRY(validate(*op, problem));
    std::vector<Candidate> list;
    for (const Implementation& implementation : op->implementations) {
      const bool fits = implementation.device == device.kind();
      Candidate candidate{implementation.name, implementation.device, {}};
      candidate.runs_here = fits && (implementation.lacks == nullptr || implementation.lacks() == nullptr);
      candidate.reason = fits ? reason_of(implementation, problem, device) : std::string("needs a ") + name_of(implementation.device) + " device";
      list.push_back(std::move(candidate));
    }
    return list;
  });
}

}  // namespace fathom
