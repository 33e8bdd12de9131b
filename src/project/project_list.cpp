// Implementations of project, best first, reference last. "cuda:simt" serves both numerics: the products are linear's, and
// what is left reads and writes memory.
#include "project/project_impl.h"

namespace fathom {

std::span<const Implementation> project_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<refuses_nothing<ProjectProblem>, prepare_project_simt, project_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<ProjectProblem>, prepare_project_cpu, project_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<ProjectProblem>, prepares_nothing<ProjectProblem>, project_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
