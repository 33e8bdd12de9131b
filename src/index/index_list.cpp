// Implementations of index, best first, reference last.
#include "index/index_impl.h"
#include "simd/instruction_sets.h"

namespace fathom {

std::span<const Implementation> index_implementations() noexcept {
  using simd::InstructionSet;
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_CUDA
      implement<index_sm80_refuses, prepare_index_sm80, index_sm80>("cuda:sm80", DeviceKind::cuda),
#endif
#ifdef FATHOM_WITH_SM90
      // By name only: a little quicker where all keys count, four times slower where a prefill's tokens see few.
      implement<index_sm90_refuses, prepare_index_sm90, index_sm90>("cuda:sm90", DeviceKind::cuda),
#endif
#ifdef FATHOM_WITH_CUDA
      implement<refuses_nothing<IndexProblem>, prepare_index_simt, index_simt>("cuda:simt", DeviceKind::cuda),
#endif
      implement<index_bf16_refuses, prepare_index_amx, index_bf16>("cpu:amx", DeviceKind::cpu,
                                                                   simd::lacks<InstructionSet::amx>),
      implement<index_bf16_refuses, prepare_index_avx512bf16, index_bf16>("cpu:avx512bf16", DeviceKind::cpu,
                                                                          simd::lacks<InstructionSet::avx512bf16>),
      implement<refuses_nothing<IndexProblem>, prepare_index_avx512, index_cpu>("cpu:avx512", DeviceKind::cpu,
                                                                                simd::lacks<InstructionSet::avx512>),
      implement<refuses_nothing<IndexProblem>, prepare_index_avx2, index_cpu>("cpu:avx2", DeviceKind::cpu,
                                                                              simd::lacks<InstructionSet::avx2>),
      implement<refuses_nothing<IndexProblem>, prepare_index_cpu, index_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<IndexProblem>, prepares_nothing<IndexProblem>, index_reference>("reference",
                                                                                                DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
