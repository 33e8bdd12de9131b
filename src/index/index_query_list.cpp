// Implementations of index_query, best first, reference last.
#include "index/index_query_impl.h"

namespace fathom {

std::span<const Implementation> index_query_implementations() noexcept {
  static constexpr Implementation kList[] = {
      implement<refuses_nothing<IndexQueryProblem>, prepare_index_query_cpu, index_query_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<IndexQueryProblem>, prepares_nothing<IndexQueryProblem>, index_query_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
