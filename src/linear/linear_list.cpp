// Implementations of linear, best first, reference last.
#include "linear/linear_impl.h"

namespace fathom {

std::span<const Implementation> linear_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_SM90
      implement<refuses_linear_sm90, prepare_linear_sm90, linear_hopper>("cuda:hopper", DeviceKind::cuda),
      implement<refuses_linear_sm90, prepare_linear_sm90, linear_sm90>("cuda:sm90", DeviceKind::cuda),
#endif
#ifdef FATHOM_WITH_CUDA
      implement<refuses_linear_sm80, prepare_linear_sm80, linear_sm80>("cuda:sm80", DeviceKind::cuda),
      implement<refuses_nothing<LinearProblem>, prepares_nothing<LinearProblem>, linear_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<LinearProblem>, prepare_linear_cpu, linear_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<LinearProblem>, prepares_nothing<LinearProblem>, linear_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
