// The implementations of attend; attend_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/attend.h"

namespace fathom {

Status attend_reference(const AttendProblem& problem, const AttendArgs& args, const RunContext& context);

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
