// Implementations of attend, best first, reference last.
#include "attend/attend_impl.h"
#include "simd/instruction_sets.h"

namespace fathom {
namespace {

using simd::InstructionSet, simd::lacks;
constexpr auto kTakesAll = refuses_nothing<AttendProblem>;

}  // namespace

std::span<const Implementation> attend_implementations() noexcept {
  static constexpr Implementation kList[] = {
#ifdef FATHOM_WITH_SM90
      implement<refuses_attend_sm90, prepare_attend_sm90, attend_sm90>("cuda:sm90", DeviceKind::cuda),
#endif
#ifdef FATHOM_WITH_CUDA
      implement<refuses_attend_sm80, prepare_attend_sm80, attend_sm80>("cuda:sm80", DeviceKind::cuda),
      implement<refuses_nothing<AttendProblem>, prepares_nothing<AttendProblem>, attend_simt>("cuda:simt",
                                                                                              DeviceKind::cuda),
#endif
      implement<attend_bf16_refuses, prepare_any_form<prepare_attend_amx>, attend_any_form<attend_bf16>>(
          "cpu:amx", DeviceKind::cpu, lacks<InstructionSet::amx>),
      implement<attend_bf16_refuses, prepare_any_form<prepare_attend_avx512bf16>, attend_any_form<attend_bf16>>(
          "cpu:avx512bf16", DeviceKind::cpu, lacks<InstructionSet::avx512bf16>),
      implement<kTakesAll, prepare_any_form<prepare_attend_avx512>, attend_any_form<attend_cpu>>(
          "cpu:avx512", DeviceKind::cpu, lacks<InstructionSet::avx512>),
      implement<kTakesAll, prepare_any_form<prepare_attend_avx2>, attend_any_form<attend_cpu>>(
          "cpu:avx2", DeviceKind::cpu, lacks<InstructionSet::avx2>),
      implement<kTakesAll, prepare_any_form<prepare_attend_cpu>, attend_any_form<attend_cpu>>("cpu", DeviceKind::cpu),
      implement<refuses_nothing<AttendProblem>, prepares_nothing<AttendProblem>, attend_reference>("reference",
                                                                                                   DeviceKind::cpu),
  };
  return kList;
}

}  // namespace fathom
