// Implementations of compress, best first, reference last. "cuda:simt" serves both numerics: the products are linear's, and
// what is left reads and writes memory.
#include "compress/compress_impl.h"

namespace fathom {

std::span<const Implementation> compress_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<refuses_nothing<CompressProblem>, prepare_compress_simt, compress_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<CompressProblem>, prepare_compress_cpu, compress_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<CompressProblem>, prepares_nothing<CompressProblem>, compress_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
