// The workspace of one plan, owned.
#pragma once

#include <cstdlib>
#include <memory>

#include "fathom/core/plan.h"

namespace fathom::cli {

class PlanWorkspace {
 public:
  /// Allocates what `plan` asks for and initialises it.
  static Result<PlanWorkspace> create(const AnyPlan& plan) {
    const WorkspaceSize size = plan.workspace_size();
    const auto alignment = static_cast<std::size_t>(kWorkspaceAlignment);
    // Each of the three parts is rounded up to the alignment when the block is cut.
    const std::size_t bytes = (static_cast<std::size_t>(size.total()) / alignment + 3) * alignment;
    PlanWorkspace result;
    result.bytes_.reset(std::aligned_alloc(alignment, bytes));
    if (result.bytes_ == nullptr) return Status::exhausted("workspace: %zu bytes cannot be allocated", bytes);
    result.workspace_ = carve_workspace(result.bytes_.get(), size);
    FATHOM_TRY(init_workspace(plan, result.workspace_));
    return result;
  }

  const Workspace& get() const noexcept { return workspace_; }

 private:
  struct Free {
    void operator()(void* bytes) const noexcept { std::free(bytes); }
  };
  std::unique_ptr<void, Free> bytes_;
  Workspace workspace_;
};

}  // namespace fathom::cli
