// Implementations of output, best first, reference last.
#include "output/output_impl.h"

namespace fathom {

std::span<const Implementation> output_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<refuses_output_sm80, prepare_output_sm80, output_sm80>("cuda:sm80", DeviceKind::cuda),
      implement<refuses_nothing<OutputProblem>, prepare_output_simt, output_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<refuses_nothing<OutputProblem>, prepare_output_cpu, output_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<OutputProblem>, prepares_nothing<OutputProblem>, output_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
