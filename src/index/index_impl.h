// The implementations of index; index_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/index.h"

namespace fathom {

Status index_reference(const IndexProblem& problem, const IndexArgs& args, const RunContext& context);

Result<Prepared> prepare_index_cpu(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Status index_cpu(const IndexProblem& problem, const IndexArgs& args, const RunContext& context);
// index_cpu held to one instruction set by its plan.
Result<Prepared> prepare_index_avx2(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_index_avx512(const IndexProblem& problem, const Device& device, const PlanOptions& options);
// Products of bf16 pairs, by AVX-512 or AMX as its plan says.
Reason index_bf16_refuses(const IndexProblem& problem, const Device& device);
Result<Prepared> prepare_index_avx512bf16(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Result<Prepared> prepare_index_amx(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Status index_bf16(const IndexProblem& problem, const IndexArgs& args, const RunContext& context);

// On CUDA.
Result<Prepared> prepare_index_simt(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Status index_simt(const IndexProblem& problem, const IndexArgs& args, const RunContext& context);
Reason index_sm80_refuses(const IndexProblem& problem, const Device& device);
Result<Prepared> prepare_index_sm80(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Status index_sm80(const IndexProblem& problem, const IndexArgs& args, const RunContext& context);
Reason index_sm90_refuses(const IndexProblem& problem, const Device& device);
Result<Prepared> prepare_index_sm90(const IndexProblem& problem, const Device& device, const PlanOptions& options);
Status index_sm90(const IndexProblem& problem, const IndexArgs& args, const RunContext& context);

std::span<const Implementation> index_implementations() noexcept;

}  // namespace fathom
