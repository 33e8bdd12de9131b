// The definition of linear: double sums over dequantised operands.
#include "linear/linear_impl.h"
#include "reference/definition.h"

namespace fathom {

Status linear_reference(const LinearProblem& problem, const LinearArgs& args, const RunContext&) {
  namespace ref = reference;
  const std::int64_t in_dim = problem.in_dim, out_dim = problem.out_dim;
  for (std::int64_t t = 0; t < args.x.shape[0]; ++t) {
    const ref::Vector x = ref::row_of(args.x, problem.groups * in_dim, t);
    for (std::int64_t g = 0; g < problem.groups; ++g) {
      ref::Vector part(x.begin() + g * in_dim, x.begin() + (g + 1) * in_dim);
      if (problem.activation_quant == ActivationQuant::e4m3_128) {
        for (double& value : part) value = ref::bf(value);
        part = ref::fake_q8(part, 128);
      }
      const ref::Vector y = ref::times(args.weight, args.weight_scale, part, g * out_dim, out_dim);
      for (std::int64_t n = 0; n < out_dim; ++n) ref::store(args.out, t * args.out.strides[0] + g * out_dim + n, y[n]);
    }
  }
  return {};
}

}  // namespace fathom
