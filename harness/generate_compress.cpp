// compress: state rows of the tokens before, and traps in slots that must not be read.
#include "fathom/compress.h"

#include <algorithm>

#include "harness/generate.h"
#include "harness/sequences.h"

namespace fathom::harness {

void generate_compress(CaseBuilder& builder) {
  const auto& problem = builder.problem<CompressProblem>();
  const std::int64_t ratio = problem.ratio;
  const Sequences sequences = make_sequences(builder, 3 * problem.state_tokens());
  builder.set_extent("width", problem.width());
  builder.add_normal("x", 1.0f, 0.0f, true);
  builder.add_weight("wkv", problem.hidden_size);
  builder.add_weight("wgate", problem.hidden_size);
  builder.fill_normal(builder.add("ape", builder.any_dtype("ape")), 0.5f);
  builder.add_norm("norm");
  add_rope_table(builder, sequences, problem.rope_dim);
  add_positions(builder, sequences);
  const TensorView seq_ids = builder.add("seq_ids");

  // The state keeps rows that some later closing may pool, and at times a few older ones.
  std::vector<std::int64_t> entries_before, entries_after, kept_from;
  for (std::size_t s = 0; s < sequences.context.size(); ++s) {
    entries_before.push_back(sequences.context[s] / ratio);
    entries_after.push_back(sequences.length[s] / ratio);
    const std::int64_t open = sequences.context[s] / ratio * ratio - (problem.overlap != 0 ? ratio : 0);
    kept_from.push_back(std::max<std::int64_t>(open - builder.random().below(3), 0));
  }
  const PageTable state = make_pages(builder, problem.state_page_size, kept_from, sequences.length);
  const PageTable entries =
      make_pages(builder, problem.page_size, std::vector<std::int64_t>(entries_after.size()), entries_after);
  const PagedCacheView state_cache =
      builder.add_cache("state_cache", CacheFormat::state_f32, static_cast<int>(2 * problem.width()),
                        problem.state_page_size, state.num_pages);
  const PagedCacheView cache =
      builder.add_cache("cache", problem.format, problem.dim, problem.page_size, entries.num_pages);
  if (!builder.status().ok()) return;
  write_random_rows(builder, state_cache, slots_of(state, kept_from, sequences.context));
  write_random_rows(builder, cache,
                    slots_of(entries, std::vector<std::int64_t>(entries_before.size()), entries_before));

  // A token that closes nothing has a slot all the same here: an implementation that writes it destroys an entry.
  add_slots(builder, "slot_mapping", sequences, entries,
            [&](std::int64_t, std::int64_t position) { return position / ratio; });
  add_slots(builder, "state_slot_mapping", sequences, state,
            [](std::int64_t, std::int64_t position) { return position; });
  add_block_table(builder, "state_block_table", "max_state_pages", state);
  for (std::size_t t = 0; t < sequences.tokens.size(); ++t) {
    set_integer(seq_ids, static_cast<std::int64_t>(t), sequences.tokens[t].seq);
  }
}

}  // namespace fathom::harness
