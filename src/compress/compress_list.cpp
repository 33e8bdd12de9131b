// Implementations of compress, best first, reference last.
#include "compress/compress_impl.h"

namespace fathom {

std::span<const Implementation> compress_implementations() noexcept {
  static constexpr Implementation kList[] = {
      implement<refuses_nothing<CompressProblem>, prepare_compress_cpu, compress_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<CompressProblem>, prepares_nothing<CompressProblem>, compress_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
