// The implementations of compress; compress_list.cpp orders them.
#pragma once

#include "core/implementation.h"
#include "fathom/compress.h"

namespace fathom {

Status compress_reference(const CompressProblem& problem, const CompressArgs& args, const RunContext& context);

Result<Prepared> prepare_compress_cpu(const CompressProblem& problem, const Device& device, const PlanOptions& options);
Status compress_cpu(const CompressProblem& problem, const CompressArgs& args, const RunContext& context);

// On CUDA.
Result<Prepared> prepare_compress_simt(const CompressProblem& problem, const Device& device, const PlanOptions& options);
Status compress_simt(const CompressProblem& problem, const CompressArgs& args, const RunContext& context);

std::span<const Implementation> compress_implementations() noexcept;

}  // namespace fathom
