// index_query, index and select_topk.
#include "fathom/index.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/generate.h"
#include "harness/numbers.h"
#include "harness/sequences.h"

namespace fathom::harness {
namespace {

/// Element type of index queries that meet keys of `format`.
DType query_dtype(CacheFormat format) {
  return format == CacheFormat::index_f32        ? DType::f32
         : format == CacheFormat::index_e4m3_f32 ? DType::e4m3
                                                 : DType::e2m1x2;
}

void add_queries(CaseBuilder& builder, CacheFormat format) {
  const TensorView q = builder.add("q", query_dtype(format));
  if (q.dtype == DType::f32) return builder.fill_normal(q, 1.0f, 0.0f, true);
  const std::vector<std::uint8_t>& codes = normal_e4m3_codes();
  for_each_row(q, [&](std::byte* row, std::int64_t count) {
    for (std::int64_t i = 0; i < count * bits_of(q.dtype) / 8; ++i) {
      const std::uint64_t bits = builder.random().bits();
      row[i] = static_cast<std::byte>(q.dtype == DType::e4m3 ? codes[bits & 0xfff] : bits & 0xff);
    }
  });
  if (q.dtype != DType::e2m1x2) return;
  for_each_row(builder.add("q_scale"), [&](std::byte* row, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) row[i] = static_cast<std::byte>(builder.random().between(123, 127));
  });
}

}  // namespace

void generate_index_query(CaseBuilder& builder) {
  const auto& problem = builder.problem<IndexQueryProblem>();
  const Sequences sequences = make_sequences(builder, 200);
  builder.add_normal("x", 1.0f, 0.0f, true);
  builder.add_normal("q_latent", 1.0f, 0.0f, true);
  builder.add_weight("wq_b", problem.q_rank);
  builder.fill_normal(builder.add("weights_proj", builder.any_dtype("weights_proj")),
                      1.0f / std::sqrt(static_cast<float>(problem.hidden_size)));
  add_rope_table(builder, sequences, problem.rope_dim);
  add_positions(builder, sequences);
  const DType dtype = query_dtype(problem.format);
  builder.add_output("q", dtype);
  if (dtype == DType::e2m1x2) {
    builder.add_output("q_scale");
    builder.require_output("q_scale");
  }
  builder.add_output("weights");
}

void generate_index(CaseBuilder& builder) {
  const auto& problem = builder.problem<IndexProblem>();
  const Sequences sequences = make_sequences(builder, 3LL * problem.topk * problem.compress_ratio);
  add_queries(builder, problem.format);
  builder.add_normal("weights",
                     1.0f / std::sqrt(static_cast<float>(problem.index_dim) * static_cast<float>(problem.index_heads)));
  add_positions(builder, sequences);
  const TensorView seq_ids = builder.add("seq_ids");
  for (std::size_t t = 0; t < sequences.tokens.size(); ++t) {
    set_integer(seq_ids, static_cast<std::int64_t>(t), sequences.tokens[t].seq);
  }

  std::vector<std::int64_t> entries;
  std::int64_t most = 0;
  for (const std::int64_t tokens : sequences.length) {
    entries.push_back(tokens / problem.compress_ratio);
    most = std::max(most, std::min<std::int64_t>(entries.back(), problem.max_entries));
  }
  const std::vector<std::int64_t> from_start(entries.size());
  const PageTable keys = make_pages(builder, problem.page_size, from_start, entries);
  const PageTable rows = make_pages(builder, problem.entries_page_size, from_start, entries);
  const PagedCacheView cache =
      builder.add_cache("index_cache", problem.format, problem.index_dim, problem.page_size, keys.num_pages);
  if (!builder.status().ok()) return;
  write_random_rows(builder, cache, slots_of(keys, from_start, entries));
  add_block_table(builder, "block_table", "max_index_pages", keys);
  add_block_table(builder, "entries_block_table", "max_entry_pages", rows);
  // Entries' pages are not read here, so their number is not known: a page whose slots pass 2^31 has no meaning.
  const TensorView table = builder.view_of("entries_block_table");
  for (std::int64_t s = 0; s < table.shape[0]; ++s) {
    std::replace(table.row<std::int32_t>(s), table.row<std::int32_t>(s) + table.shape[1], INT32_MAX, -1);
  }
  builder.set_extent("score_width", most + builder.random().below(4));
  // At least one output: entries or slots, the other and the scores at choice.
  const bool by_slot = builder.random().chance(0.3);
  builder.add_output("topk_entries");
  builder.add_output("topk_indices");
  builder.add_output("scores");
  builder.require_output(by_slot ? "topk_indices" : "topk_entries");
}

void generate_select_topk(CaseBuilder& builder) {
  const auto& problem = builder.problem<SelectTopkProblem>();
  Random& random = builder.random();
  const TensorView scores = builder.add("scores");
  builder.fill_normal(scores, 1.0f, 0.0f, true);
  if (builder.asked("ties")) {  // as relu gives them: many zeros, and few distinct values
    for_each_row(scores, [&](std::byte* row, std::int64_t count) {
      auto* values = reinterpret_cast<float*>(row);
      for (std::int64_t i = 0; i < count; ++i) values[i] = random.chance(0.5) ? 0.0f : std::round(2 * values[i]) / 2;
    });
  }
  if (random.chance(0.3) && !builder.asked("holes") && !builder.asked("hostile")) {
    builder.add_output("topk_entries");
    return;
  }
  const TensorView lengths = builder.add("lengths");
  const std::int64_t outside[] = {-1, INT32_MIN, problem.num_scores + 1LL, INT32_MAX};
  for (std::int64_t t = 0; t < lengths.shape[0]; ++t) {
    set_integer(lengths, t, random.between(0, problem.num_scores));
    if (builder.asked("hostile") && random.chance(0.4))
      set_integer(lengths, t, outside[random.below(std::size(outside))]);
    // What lies past a row's length would win every comparison.
    const std::int64_t end = std::clamp<std::int64_t>(integer_at(lengths, t), 0, problem.num_scores);
    std::fill(scores.row<float>(t) + end, scores.row<float>(t) + problem.num_scores,
              std::numeric_limits<float>::infinity());
  }
  builder.add_output("topk_entries");
}

}  // namespace fathom::harness
