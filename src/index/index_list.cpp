// Implementations of index, best first, reference last.
#include "index/index_impl.h"

namespace fathom {

std::span<const Implementation> index_implementations() noexcept {
  static constexpr Implementation kList[] = {
      implement<refuses_nothing<IndexProblem>, prepare_index_cpu, index_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<IndexProblem>, prepares_nothing<IndexProblem>, index_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
