// The definition of index_query (spec 4.1, 4.3).
#include "index/index_query_impl.h"
#include "reference/definition.h"

namespace fathom {

Status index_query_reference(const IndexQueryProblem& problem, const IndexQueryArgs& args, const RunContext&) {
  namespace ref = reference;
  const Numerics numerics = problem.numerics;
  const std::int64_t dim = problem.index_dim;
  const double factor = 1.0 / std::sqrt(static_cast<double>(problem.index_dim) * problem.index_heads);
  for (std::int64_t t = 0; t < args.x.shape[0]; ++t) {
    const std::int64_t position = ref::integer(args.positions, t);
    const bool padding = !ref::is_token(args.rope_table, position);
    ref::Vector q(problem.index_heads * dim), weights(problem.index_heads);
    if (!padding) {
      q = ref::linear8(args.wq_b, args.wq_b_scale, ref::row_of(args.q_latent, problem.q_rank, t), numerics);
      ref::round_all(q, numerics);
      weights = ref::times(args.weights_proj, {}, ref::row_of(args.x, problem.hidden_size, t), 0, problem.index_heads);
      ref::round_all(weights, numerics);
    }
    for (int h = 0; h < problem.index_heads; ++h) {
      ref::Vector head(q.begin() + h * dim, q.begin() + (h + 1) * dim);
      if (!padding) {
        if (problem.rope_dim > 0) ref::rotate(head, args.rope_table, position);
        ref::round_all(head, numerics);
        head = ref::hadamard(head);
        ref::round_all(head, numerics);
      }
      double scale = 1;
      if (problem.format == CacheFormat::index_f32) {
        ref::store_row(args.q, head, t, h);
      } else if (problem.format == CacheFormat::index_e4m3_f32) {
        for (double& value : head) value = ref::bf(value);
        const int exponent = ref::q8_exponent(head.data(), static_cast<int>(dim));
        for (double& value : head) value = ref::q8_code(value, exponent);
        ref::store_row(args.q, head, t, h);
        scale = std::ldexp(1.0, exponent);
      } else {
        for (double& value : head) value = ref::bf(value);
        for (std::int64_t g = 0; g < dim / 32; ++g) {
          const int exponent = ref::q4_exponent(&head[32 * g], 32);
          for (int i = 0; i < 32; i += 2) {
            const int packed = ref::q4_code(head[32 * g + i], exponent) | ref::q4_code(head[32 * g + i + 1], exponent) << 4;
            auto* row = static_cast<std::uint8_t*>(args.q.data) + (t * args.q.strides[0] + h * args.q.strides[1]) / 2;
            row[(32 * g + i) / 2] = static_cast<std::uint8_t>(packed);
          }
          ref::store(args.q_scale, t * args.q_scale.strides[0] + h * args.q_scale.strides[1] + g, ref::q4_scale_byte(&head[32 * g], 32));
        }
      }
      // The FP8 form folds the query's scale into the weight, past the ReLU; it stays f32. The others round as a tensor.
      const bool folded = problem.format == CacheFormat::index_e4m3_f32;
      const double weight = folded ? ref::f32(weights[h] * scale * factor) : ref::activation(numerics, weights[h] * factor);
      ref::store(args.weights, t * args.weights.strides[0] + h, weight);
    }
  }
  return {};
}

}  // namespace fathom
