// Implementations of linear, best first, reference last.
#include "linear/linear_impl.h"

namespace fathom {

std::span<const Implementation> linear_implementations() noexcept {
  static constexpr Implementation kList[] = {
      implement<refuses_nothing<LinearProblem>, prepare_linear_cpu, linear_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<LinearProblem>, prepares_nothing<LinearProblem>, linear_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
