// linear, project and output: activations of unit variance through weights that keep it.
#include "fathom/linear.h"
#include "fathom/output.h"
#include "fathom/project.h"
#include "harness/generate.h"
#include "harness/sequences.h"

namespace fathom::harness {

void generate_linear(CaseBuilder& builder) {
  builder.add_normal("x", 1.0f, 0.0f, true);
  builder.add_weight("weight", builder.problem<LinearProblem>().in_dim);
  builder.add_output("out");
}

void generate_project(CaseBuilder& builder) {
  const auto& problem = builder.problem<ProjectProblem>();
  const Sequences sequences = make_sequences(builder, 200);
  builder.add_normal("x", 1.0f, 0.0f, true);
  builder.add_weight("wq_a", problem.hidden_size);
  builder.add_norm("q_norm");
  builder.add_weight("wq_b", problem.q_rank);
  builder.add_weight("wkv", problem.hidden_size);
  builder.add_norm("kv_norm");
  add_rope_table(builder, sequences, problem.rope_dim);
  add_positions(builder, sequences);
  const PageTable table = make_pages(builder, problem.window_page_size, sequences.context, sequences.length);
  builder.add_cache("window_cache", problem.window_format, problem.head_dim, problem.window_page_size, table.num_pages);
  add_slots(builder, "slot_mapping", sequences, table, [](std::int64_t, std::int64_t position) { return position; });
  builder.add_output("q_latent");
  builder.add_output("q");
}

void generate_output(CaseBuilder& builder) {
  const auto& problem = builder.problem<OutputProblem>();
  const Sequences sequences = make_sequences(builder, 200);
  const std::int64_t group_dim = std::int64_t{problem.num_heads} / problem.output_groups * problem.head_dim;
  builder.set_extent("group_dim", group_dim);
  builder.set_extent("group_tiles", (group_dim + 127) / 128);
  builder.add_normal("attn_out", 1.0f, 0.0f, true);
  add_rope_table(builder, sequences, problem.rope_dim);
  add_positions(builder, sequences);
  builder.add_weight("wo_a", group_dim);
  builder.add_weight("wo_b", std::int64_t{problem.output_groups} * problem.output_rank);
  builder.add_output("out");
}

}  // namespace fathom::harness
