// layer: weights, the caches of sequences in mid-flight, and the step's bookkeeping.
#include "fathom/layer.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "harness/generate.h"
#include "harness/sequences.h"

namespace fathom::harness {
namespace {

void add_weights(CaseBuilder& builder, const LayerProblem& problem, LayerKind kind) {
  const std::int64_t group_dim =
      std::int64_t{problem.num_heads} / std::max(problem.output_groups, 1) * problem.head_dim;
  const int halves = kind == LayerKind::csa ? 2 : 1;
  builder.set_extent("group_dim", group_dim);
  builder.set_extent("group_tiles", (group_dim + 127) / 128);
  builder.set_extent("width", std::int64_t{problem.head_dim} * halves);
  builder.set_extent("index_width", std::int64_t{problem.index_dim} * halves);
  builder.add_weight("wq_a", problem.hidden_size);
  builder.add_norm("q_norm");
  builder.add_weight("wq_b", problem.q_rank);
  builder.add_weight("wkv", problem.hidden_size);
  builder.add_norm("kv_norm");
  builder.add_normal("attn_sink", 1.0f);
  builder.add_weight("wo_a", group_dim);
  builder.add_weight("wo_b", std::int64_t{problem.output_groups} * problem.output_rank);
  if (kind == LayerKind::window) return;
  builder.add_weight("compress_wkv", problem.hidden_size);
  builder.add_weight("compress_wgate", problem.hidden_size);
  builder.fill_normal(builder.add("compress_ape", builder.any_dtype("compress_ape")), 0.5f);
  builder.add_norm("compress_norm");
  if (kind != LayerKind::csa) return;
  builder.add_weight("index_wq_b", problem.q_rank);
  builder.fill_normal(builder.add("index_weights_proj", builder.any_dtype("index_weights_proj")),
                      1.0f / std::sqrt(static_cast<float>(problem.hidden_size)));
  builder.add_weight("index_wkv", problem.hidden_size);
  builder.add_weight("index_wgate", problem.hidden_size);
  builder.fill_normal(builder.add("index_ape", builder.any_dtype("index_ape")), 0.5f);
  builder.add_norm("index_norm");
}

/// One of the layer's caches with its block table and slots.
struct CacheNames {
  const char* cache;
  const char* table;
  const char* slots;
};

/// Rows [first, before) of each sequence are written; the step may write rows up to `after`.
template <class RowOf>
void add_paged(CaseBuilder& builder, const CacheNames& names, CacheFormat format, int dim, std::int64_t page_size,
               const Sequences& sequences, const std::vector<std::int64_t>& first,
               const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& after, RowOf&& row_of) {
  const PageTable table = make_pages(builder, page_size, first, after);
  const PagedCacheView cache = builder.add_cache(names.cache, format, dim, page_size, table.num_pages);
  if (!builder.status().ok()) return;
  write_random_rows(builder, cache, slots_of(table, first, before));
  add_slots(builder, names.slots, sequences, table, row_of);
  add_block_table(builder, names.table, std::string("max_") + names.table, table);
}

}  // namespace

void generate_layer(CaseBuilder& builder) {
  const auto& problem = builder.problem<LayerProblem>();
  const std::int64_t ratio = problem.compress_ratio;
  const LayerKind kind = ratio == 0 ? LayerKind::window : ratio == 4 ? LayerKind::csa : LayerKind::hca;
  const Sequences sequences = make_sequences(builder, 3 * std::max<std::int64_t>(problem.window, ratio));
  builder.add_normal("x");
  add_rope_table(builder, sequences, problem.rope_dim);
  add_weights(builder, problem, kind);
  add_positions(builder, sequences);

  const auto by_token = [&](const char* name, auto&& value) {
    const TensorView vector = builder.add(name);
    for (std::size_t t = 0; t < sequences.tokens.size(); ++t)
      set_integer(vector, static_cast<std::int64_t>(t), value(sequences.tokens[t]));
  };
  using Token = Sequences::Token;
  by_token("seq_ids", [](const Token& token) { return token.seq; });
  by_token("window_begin",
           [&](const Token& token) { return std::max<std::int64_t>(token.position + 1 - problem.window, 0); });
  by_token("window_end", [](const Token& token) { return token.position + 1; });

  std::vector<std::int64_t> window_from, state_from, entries_before, entries_after,
      from_start(sequences.context.size());
  for (std::size_t s = 0; s < sequences.context.size(); ++s) {
    const std::int64_t context = sequences.context[s];
    window_from.push_back(std::max<std::int64_t>(context + 1 - problem.window, 0));
    if (ratio == 0) continue;
    state_from.push_back(std::max<std::int64_t>(context / ratio * ratio - (kind == LayerKind::csa ? ratio : 0), 0));
    entries_before.push_back(context / ratio);
    entries_after.push_back(sequences.length[s] / ratio);
  }
  const auto own_row = [](std::int64_t, std::int64_t position) { return position; };
  const auto closed = [&](std::int64_t, std::int64_t position) {
    return (position + 1) % ratio == 0 ? position / ratio : -1;
  };
  add_paged(builder, {"window", "window_table", "window_slots"}, problem.window_format, problem.head_dim,
            problem.window_page_size, sequences, window_from, sequences.context, sequences.length, own_row);
  if (kind != LayerKind::window && builder.status().ok()) {
    const int halves = kind == LayerKind::csa ? 2 : 1;
    add_paged(builder, {"entries", "entries_table", "entry_slots"}, problem.entries_format, problem.head_dim,
              problem.entries_page_size, sequences, from_start, entries_before, entries_after, closed);
    add_paged(builder, {"state", "state_table", "state_slots"}, CacheFormat::state_f32, 2 * halves * problem.head_dim,
              problem.state_page_size, sequences, state_from, sequences.context, sequences.length, own_row);
    if (kind == LayerKind::hca)
      by_token("num_visible", [&](const Token& token) { return (token.position + 1) / ratio; });
    if (kind == LayerKind::csa) {
      add_paged(builder, {"index_keys", "index_table", "index_slots"}, problem.index_format, problem.index_dim,
                problem.index_page_size, sequences, from_start, entries_before, entries_after, closed);
      add_paged(builder, {"index_state", "index_state_table", "index_state_slots"}, CacheFormat::state_f32,
                2 * halves * problem.index_dim, problem.index_state_page_size, sequences, state_from, sequences.context,
                sequences.length, own_row);
    }
  }

  builder.add_output("out");
  if (kind == LayerKind::csa) {
    std::int64_t most = 0;
    for (const std::int64_t entries : entries_after) most = std::max(most, entries);
    builder.set_extent("score_width", std::min<std::int64_t>(most, problem.max_entries) + builder.random().below(3));
    builder.add_output("topk_entries");
    builder.add_output("index_scores");
  }
  builder.add_output("attn_out");
}

}  // namespace fathom::harness
