// The implementations of select_topk; select_topk_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/index.h"

namespace fathom {

Status select_topk_reference(const SelectTopkProblem& problem, const SelectTopkArgs& args, const RunContext& context);

Result<Prepared> prepare_select_topk_cpu(const SelectTopkProblem& problem, const Device& device, const PlanOptions& options);
Status select_topk_cpu(const SelectTopkProblem& problem, const SelectTopkArgs& args, const RunContext& context);

// On CUDA.
Result<Prepared> prepare_select_topk_simt(const SelectTopkProblem& problem, const Device& device, const PlanOptions& options);
Status select_topk_simt(const SelectTopkProblem& problem, const SelectTopkArgs& args, const RunContext& context);

std::span<const Implementation> select_topk_implementations() noexcept;

}  // namespace fathom
