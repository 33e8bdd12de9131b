// Implementations of merge_partials, best first, reference last.
#include "attend/merge_partials_impl.h"

namespace fathom {

std::span<const Implementation> merge_partials_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<refuses_nothing<MergePartialsProblem>, prepares_nothing<MergePartialsProblem>, merge_partials_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<MergePartialsProblem>, prepare_merge_partials_cpu, merge_partials_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<MergePartialsProblem>, prepares_nothing<MergePartialsProblem>, merge_partials_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
