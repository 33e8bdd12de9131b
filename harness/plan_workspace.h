// The workspace of one plan, owned, on the plan's device.
#pragma once

#include "fathom/core/memory.h"
#include "fathom/core/plan.h"

namespace fathom::harness {

class PlanWorkspace {
 public:
  /// Allocates what `plan` asks for and initialises it.
  static Result<PlanWorkspace> create(const AnyPlan& plan) {
    const WorkspaceSize size = plan.workspace_size();
    // Each of the three parts is rounded up to the alignment when the block is cut.
    const std::int64_t bytes = (size.total() / kWorkspaceAlignment + 3) * kWorkspaceAlignment;
    PlanWorkspace result;
    FATHOM_ASSIGN(result.bytes_, DeviceMemory::allocate(plan.device(), bytes));
    result.workspace_ = carve_workspace(result.bytes_.data(), size);
    FATHOM_TRY(init_workspace(plan, result.workspace_));
    FATHOM_TRY(synchronize(plan.device()));  // whatever stream the runs will be on
    return result;
  }

  const Workspace& get() const noexcept { return workspace_; }

 private:
  DeviceMemory bytes_;
  Workspace workspace_;
};

}  // namespace fathom::harness
