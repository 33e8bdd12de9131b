// The definition of output (spec 6.3).
#include "output/output_impl.h"
#include "reference/definition.h"

namespace fathom {

Status output_reference(const OutputProblem& problem, const OutputArgs& args, const RunContext&) {
  namespace ref = reference;
  const Numerics numerics = problem.numerics;
  const std::int64_t group_heads = problem.num_heads / problem.output_groups, rank = problem.output_rank;
  for (std::int64_t t = 0; t < args.attn_out.shape[0]; ++t) {
    const std::int64_t position = ref::integer(args.positions, t);
    if (!ref::is_token(args.rope_table, position)) {
      ref::store_row(args.out, ref::Vector(problem.hidden_size), t);
      continue;
    }
    ref::Vector z;
    for (int g = 0; g < problem.output_groups; ++g) {
      ref::Vector group;
      for (std::int64_t h = g * group_heads; h < (g + 1) * group_heads; ++h) {
        ref::Vector head = ref::row_of(args.attn_out, problem.head_dim, t, h);
        if (problem.rope_dim > 0 && problem.attn_form == OutForm::plain)
          ref::rotate(head, args.rope_table, position, -1);
        ref::round_all(head, numerics);
        group.insert(group.end(), head.begin(), head.end());
      }
      // wo_a is used dequantised, its input unquantised, whatever its storage.
      const ref::Vector part = ref::times(args.wo_a, args.wo_a_scale, group, g * rank, rank);
      z.insert(z.end(), part.begin(), part.end());
    }
    ref::round_all(z, numerics);
    ref::store_row(args.out, ref::linear8(args.wo_b, args.wo_b_scale, z, numerics), t);
  }
  return {};
}

}  // namespace fathom
