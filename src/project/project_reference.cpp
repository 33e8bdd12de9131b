// The definition of project (spec 2), token by token.
#include "project/project_impl.h"
#include "reference/definition.h"

namespace fathom {

Status project_reference(const ProjectProblem& problem, const ProjectArgs& args, const RunContext&) {
  namespace ref = reference;
  const Numerics numerics = problem.numerics;
  const std::int64_t head_dim = problem.head_dim;
  const ref::Pages window{args.window_cache, problem.window_format, head_dim, problem.window_page_size};
  for (std::int64_t t = 0; t < args.x.shape[0]; ++t) {
    const std::int64_t position = ref::integer(args.positions, t);
    const bool is_token = ref::is_token(args.rope_table, position), raw = problem.q_form == QForm::raw;
    if (!is_token) {
      const ref::Vector latent(problem.q_rank);
      ref::store_row(args.q_latent, latent, t);
      ref::Vector q(std::int64_t{problem.num_heads} * head_dim);
      if (raw) q = ref::linear8(args.wq_b, args.wq_b_scale, latent, numerics);
      for (int h = 0; h < problem.num_heads; ++h) {
        ref::store_row(args.q, {q.begin() + h * head_dim, q.begin() + (h + 1) * head_dim}, t, h);
      }
      continue;
    }
    const ref::Vector x = ref::row_of(args.x, problem.hidden_size, t);

    ref::Vector latent = ref::linear8(args.wq_a, args.wq_a_scale, x, numerics);
    ref::round_all(latent, numerics);
    latent = ref::rms_norm(latent, args.q_norm, problem.norm_eps);
    ref::round_all(latent, numerics);
    ref::store_row(args.q_latent, latent, t);

    ref::Vector q = ref::linear8(args.wq_b, args.wq_b_scale, latent, numerics);
    ref::round_all(q, numerics);
    for (int h = 0; h < problem.num_heads; ++h) {
      ref::Vector head(q.begin() + h * head_dim, q.begin() + (h + 1) * head_dim);
      if (!raw) {
        ref::head_norm(head, problem.norm_eps, numerics);
        if (problem.rope_dim > 0) ref::rotate(head, args.rope_table, position);
      }
      ref::store_row(args.q, head, t, h);
    }

    ref::Vector kv = ref::linear8(args.wkv, args.wkv_scale, x, numerics);
    ref::round_all(kv, numerics);
    kv = ref::rms_norm(kv, args.kv_norm, problem.norm_eps);
    ref::round_all(kv, numerics);
    if (problem.rope_dim > 0) ref::rotate(kv, args.rope_table, position);
    ref::round_all(kv, numerics);
    const std::int64_t slot = ref::integer(args.slot_mapping, t);
    if (window.holds(slot)) window.write(slot, kv);
  }
  return {};
}

}  // namespace fathom
