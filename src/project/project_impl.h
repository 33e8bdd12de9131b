// The implementations of project; project_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/project.h"

namespace fathom {

Status project_reference(const ProjectProblem& problem, const ProjectArgs& args, const RunContext& context);

Result<Prepared> prepare_project_cpu(const ProjectProblem& problem, const Device& device, const PlanOptions& options);
Status project_cpu(const ProjectProblem& problem, const ProjectArgs& args, const RunContext& context);

// On CUDA.
Result<Prepared> prepare_project_simt(const ProjectProblem& problem, const Device& device, const PlanOptions& options);
Status project_simt(const ProjectProblem& problem, const ProjectArgs& args, const RunContext& context);

std::span<const Implementation> project_implementations() noexcept;

}  // namespace fathom
