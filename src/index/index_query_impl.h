// The implementations of index_query; index_query_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/index.h"

namespace fathom {

Status index_query_reference(const IndexQueryProblem& problem, const IndexQueryArgs& args, const RunContext& context);

Result<Prepared> prepare_index_query_cpu(const IndexQueryProblem& problem, const Device& device, const PlanOptions& options);
Status index_query_cpu(const IndexQueryProblem& problem, const IndexQueryArgs& args, const RunContext& context);

// On CUDA.
Result<Prepared> prepare_index_query_simt(const IndexQueryProblem& problem, const Device& device, const PlanOptions& options);
Status index_query_simt(const IndexQueryProblem& problem, const IndexQueryArgs& args, const RunContext& context);

std::span<const Implementation> index_query_implementations() noexcept;

}  // namespace fathom
