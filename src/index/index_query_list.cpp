// Implementations of index_query, best first, reference last. "cuda:simt" serves both numerics: the products are linear's,
// and what is left reads and writes memory.
#include "index/index_query_impl.h"

namespace fathom {

std::span<const Implementation> index_query_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<refuses_nothing<IndexQueryProblem>, prepare_index_query_simt, index_query_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<IndexQueryProblem>, prepare_index_query_cpu, index_query_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<IndexQueryProblem>, prepares_nothing<IndexQueryProblem>, index_query_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
