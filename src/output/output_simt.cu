// output on CUDA for every format: heads rotated back element by element, then two products through `linear`.
#include "output/output_kernel.cuh"

namespace fathom {

Result<Prepared> prepare_output_simt(const OutputProblem& problem, const Device& device, const PlanOptions& options) {
  return output_kernel::prepare(problem, device, options);
}

Status output_simt(const OutputProblem& problem, const OutputArgs& args, const RunContext& context) {
  return output_kernel::run(problem, args, context, [&](const OutputArgs& part, const TensorView& heads) {
    return output_kernel::rotate_elements(problem, part, heads, context);
  });
}

}  // namespace fathom
