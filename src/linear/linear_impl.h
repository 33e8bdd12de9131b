// The implementations of linear; linear_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/linear.h"

namespace fathom {

Status linear_reference(const LinearProblem& problem, const LinearArgs& args, const RunContext& context);

// On the CPU one function runs what each of these plans.
Result<Prepared> prepare_linear_cpu(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_linear_avx2(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_linear_avx512(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Reason refuses_linear_bf16(const LinearProblem& problem, const Device& device);
Result<Prepared> prepare_linear_avx512bf16(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_linear_amx(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Status linear_cpu(const LinearProblem& problem, const LinearArgs& args, const RunContext& context);

// On CUDA.
Reason refuses_linear_sm80(const LinearProblem& problem, const Device& device);
Result<Prepared> prepare_linear_sm80(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Status linear_sm80(const LinearProblem& problem, const LinearArgs& args, const RunContext& context);

Reason refuses_linear_sm90(const LinearProblem& problem, const Device& device);
Result<Prepared> prepare_linear_sm90(const LinearProblem& problem, const Device& device, const PlanOptions& options);
Status linear_sm90(const LinearProblem& problem, const LinearArgs& args, const RunContext& context);
/// Whichever of sm90 and sm80 is quicker for so many tokens; prepared as sm90.
Status linear_hopper(const LinearProblem& problem, const LinearArgs& args, const RunContext& context);

Status linear_simt(const LinearProblem& problem, const LinearArgs& args, const RunContext& context);

std::span<const Implementation> linear_implementations() noexcept;

}  // namespace fathom
