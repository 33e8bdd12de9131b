// Implementations of select_topk, best first, reference last.
#include "index/select_topk_impl.h"

namespace fathom {

std::span<const Implementation> select_topk_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<refuses_nothing<SelectTopkProblem>, prepare_select_topk_simt, select_topk_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<SelectTopkProblem>, prepare_select_topk_cpu, select_topk_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<SelectTopkProblem>, prepares_nothing<SelectTopkProblem>, select_topk_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
