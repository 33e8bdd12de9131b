// The implementations of attend; attend_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/attend.h"

namespace fathom {

constexpr int kOutScaleBlock = 128;  ///< elements of a result that share a scale (out_form=e4m3)

Status attend_reference(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);

using AttendPrepare = Result<Prepared> (*)(const AttendProblem& problem, const Device& device,
                                           const PlanOptions& options);
using AttendRun = Status (*)(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);
/// A CPU kernel that knows final queries and plain results, made to take every form.
Result<Prepared> prepare_forms_cpu(AttendPrepare prepare, const AttendProblem& problem, const Device& device,
                                   const PlanOptions& options);
Status attend_forms_cpu(AttendRun run, const AttendProblem& problem, const AttendArgs& args, const RunContext& context);
template <AttendPrepare Prepare>
Result<Prepared> prepare_any_form(const AttendProblem& problem, const Device& device, const PlanOptions& options) {
  return prepare_forms_cpu(Prepare, problem, device, options);
}
template <AttendRun Run>
Status attend_any_form(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  return attend_forms_cpu(Run, problem, args, context);
}

Result<Prepared> prepare_attend_cpu(const AttendProblem& problem, const Device& device, const PlanOptions& options);
Status attend_cpu(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);
// attend_cpu held to one instruction set by its plan.
Result<Prepared> prepare_attend_avx2(const AttendProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_attend_avx512(const AttendProblem& problem, const Device& device, const PlanOptions& options);
// Products of bf16 pairs, by AVX-512 or AMX as its plan says.
Reason attend_bf16_refuses(const AttendProblem& problem, const Device& device);
Result<Prepared> prepare_attend_avx512bf16(const AttendProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_attend_amx(const AttendProblem& problem, const Device& device, const PlanOptions& options);
Status attend_bf16(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);

// On CUDA.
Reason refuses_attend_sm90(const AttendProblem& problem, const Device& device);
Result<Prepared> prepare_attend_sm90(const AttendProblem& problem, const Device& device, const PlanOptions& options);
Status attend_sm90(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);
/// Whichever of sm90 and sm80 is quicker for so many queries; prepared as sm90.
Reason refuses_attend_sm80(const AttendProblem& problem, const Device& device);
Result<Prepared> prepare_attend_sm80(const AttendProblem& problem, const Device& device, const PlanOptions& options);
Status attend_sm80(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);
Status attend_simt(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);

std::span<const Implementation> attend_implementations() noexcept;

}  // namespace fathom
