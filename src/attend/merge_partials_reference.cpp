// The definition of merge_partials (spec 6.2, 13.2).
#include <limits>

#include "attend/merge_partials_impl.h"
#include "reference/definition.h"

namespace fathom {

Status merge_partials_reference(const MergePartialsProblem& problem, const MergePartialsArgs& args, const RunContext&) {
  namespace ref = reference;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (std::int64_t t = 0; t < args.out.shape[0]; ++t) {
    for (int h = 0; h < problem.num_heads; ++h) {
      ref::Vector lse(problem.num_partials);
      double most = -kInfinity;
      bool seen = false;  // NaN is not "saw nothing"
      for (int p = 0; p < problem.num_partials; ++p) {
        lse[p] = ref::element(args.partial_lse.data, DType::f32, p * args.partial_lse.strides[0] + t * args.partial_lse.strides[1] + h);
        if (lse[p] == kInfinity) lse[p] = -kInfinity;  // FlashMLA's word for "saw nothing"
        most = std::max(most, lse[p]);
        seen |= lse[p] != -kInfinity;
      }
      double sum = 0;
      ref::Vector out(problem.value_dim);
      for (int p = 0; p < problem.num_partials; ++p) {
        if (lse[p] == -kInfinity) continue;
        const double weight = std::exp(lse[p] - most);
        sum += weight;
        for (std::int64_t c = 0; c < problem.value_dim; ++c) {
          const std::int64_t at = p * args.partial_out.strides[0] + t * args.partial_out.strides[1] + h * args.partial_out.strides[2] + c;
          out[c] += weight * ref::element(args.partial_out.data, args.partial_out.dtype, at);
        }
      }
      const double sink = args.attn_sink.is_absent() ? -kInfinity : ref::element(args.attn_sink.data, DType::f32, h);
      const double denominator = seen ? sum + std::exp(sink - most) : kInfinity;
      for (double& value : out) value = std::isinf(denominator) ? 0 : value / denominator;
      ref::store_row(args.out, out, t, h);
      if (!args.lse.is_absent()) {
        ref::store(args.lse, t * args.lse.strides[0] + h, seen ? most + std::log(sum) : -kInfinity);
      }
    }
  }
  return {};
}

}  // namespace fathom
