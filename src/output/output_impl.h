// The implementations of output; output_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/output.h"

namespace fathom {

Status output_reference(const OutputProblem& problem, const OutputArgs& args, const RunContext& context);

Result<Prepared> prepare_output_cpu(const OutputProblem& problem, const Device& device, const PlanOptions& options);
Status output_cpu(const OutputProblem& problem, const OutputArgs& args, const RunContext& context);

// On CUDA.
Reason refuses_output_sm80(const OutputProblem& problem, const Device& device);
Result<Prepared> prepare_output_sm80(const OutputProblem& problem, const Device& device, const PlanOptions& options);
Status output_sm80(const OutputProblem& problem, const OutputArgs& args, const RunContext& context);

Result<Prepared> prepare_output_simt(const OutputProblem& problem, const Device& device, const PlanOptions& options);
Status output_simt(const OutputProblem& problem, const OutputArgs& args, const RunContext& context);

std::span<const Implementation> output_implementations() noexcept;

}  // namespace fathom
