// Implementations of linear, best first, reference last.
#include "linear/linear_impl.h"
#include "simd/instruction_sets.h"

namespace fathom {

namespace {

using simd::InstructionSet, simd::lacks;
constexpr auto kTakesAll = refuses_nothing<LinearProblem>;

}  // namespace

std::span<const Implementation> linear_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_SM90
      implement<refuses_linear_sm90, prepare_linear_sm90, linear_hopper>("cuda:hopper", DeviceKind::cuda),
      implement<refuses_linear_sm90, prepare_linear_sm90, linear_sm90>("cuda:sm90", DeviceKind::cuda),
#endif
#ifdef FATHOM_WITH_CUDA
      implement<refuses_linear_sm80, prepare_linear_sm80, linear_sm80>("cuda:sm80", DeviceKind::cuda),
      implement<refuses_nothing<LinearProblem>, prepares_nothing<LinearProblem>, linear_simt>("cuda:simt", DeviceKind::cuda),
#endif
#if defined(__x86_64__)
      implement<refuses_linear_bf16, prepare_linear_amx, linear_cpu>("cpu:amx", DeviceKind::cpu, lacks<InstructionSet::amx>),
      implement<refuses_linear_bf16, prepare_linear_avx512bf16, linear_cpu>("cpu:avx512bf16", DeviceKind::cpu, lacks<InstructionSet::avx512bf16>),
      implement<kTakesAll, prepare_linear_avx512, linear_cpu>("cpu:avx512", DeviceKind::cpu, lacks<InstructionSet::avx512>),
      implement<kTakesAll, prepare_linear_avx2, linear_cpu>("cpu:avx2", DeviceKind::cpu, lacks<InstructionSet::avx2>),
#endif
      implement<refuses_nothing<LinearProblem>, prepare_linear_cpu, linear_cpu>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<LinearProblem>, prepares_nothing<LinearProblem>, linear_reference>("reference", DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
