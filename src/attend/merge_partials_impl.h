// The implementations of merge_partials; merge_partials_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/attend.h"

namespace fathom {

Status merge_partials_reference(const MergePartialsProblem& problem, const MergePartialsArgs& args, const RunContext& context);

Result<Prepared> prepare_merge_partials_cpu(const MergePartialsProblem& problem, const Device& device, const PlanOptions& options);
Status merge_partials_cpu(const MergePartialsProblem& problem, const MergePartialsArgs& args, const RunContext& context);

// On CUDA.
Status merge_partials_simt(const MergePartialsProblem& problem, const MergePartialsArgs& args, const RunContext& context);

std::span<const Implementation> merge_partials_implementations() noexcept;

}  // namespace fathom
