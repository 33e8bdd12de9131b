// Implementations of project, best first, reference last.
#include "project/project_impl.h"

namespace fathom {

std::span<const Implementation> project_implementations() noexcept {
  static constexpr Implementation kList[] = {
      implement<refuses_nothing<ProjectProblem>, prepare_project_cpu, project_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<ProjectProblem>, prepares_nothing<ProjectProblem>, project_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
