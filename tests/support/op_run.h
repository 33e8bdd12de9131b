// Runs an op by its typed problem and args with a forced implementation, in a workspace of exactly the planned size that
// is poisoned first. Failures come back as the status text, so that a test can compare it; "" is success.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fathom/fathom.h"

namespace fathom::test {

/// 256-byte aligned bytes filled with 0xFF: NaN in every float format.
class Bytes {
 public:
  explicit Bytes(std::int64_t count) : memory_(static_cast<std::size_t>(count + kWorkspaceAlignment), std::byte{0xff}) {}
  void* data() {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    return reinterpret_cast<void*>((at + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment);
  }

 private:
  std::vector<std::byte> memory_;
};

inline const Device& cpu() {
  static const Device device = Device::cpu(2).value();
  return device;
}

template <class Problem>
const OpSpec& op_of_problem() {
  for (const OpSpec* spec : op_table()) {
    if (spec->problem == &Problem::spec()) return *spec;
  }
  std::abort();  // a test asked for a type that is no op's problem
}

/// Why a problem cannot be planned; "" if it can.
template <class Problem>
std::string plan_error(const Problem& problem, const char* implementation = "") {
  return plan_problem(op_of_problem<Problem>(), &problem, cpu(), {implementation}).status().text();
}

template <class Problem, class Args>
std::string run_with(const char* implementation, const Problem& problem, const Args& args, const Device& device = cpu()) {
  auto plan = plan_problem(op_of_problem<Problem>(), &problem, device, {implementation});
  if (!plan.ok()) return plan.status().text();
  const std::string forced = implementation;
  if (!forced.empty() && forced.find('=') == std::string::npos && forced != plan->implementation()) {
    return "planned " + std::string(plan->implementation()) + " where " + forced + " was forced";
  }
  const WorkspaceSize size = plan->workspace_size();
  Bytes memory(size.total());
  const Workspace workspace = carve_workspace(memory.data(), size);
  if (const Status status = init_workspace(*plan.operator->(), workspace); !status.ok()) return status.text();
  const std::span<const TensorView> views(reinterpret_cast<const TensorView*>(&args), sizeof(Args) / sizeof(TensorView));
  return run_op(*plan.operator->(), views, workspace).text();
}

}  // namespace fathom::test
