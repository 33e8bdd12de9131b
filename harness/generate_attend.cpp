// attend and merge_partials: row sets of both kinds, with rows that must not be read standing next to those that must.
#include "fathom/attend.h"

#include <algorithm>
#include <limits>
#include <string>

#include "harness/generate.h"
#include "harness/sequences.h"

namespace fathom::harness {
namespace {

/// One row set of the problem, and the names of its arguments.
struct Set {
  std::string prefix;  ///< "window" or "entries"
  RowsBy rows;
  CacheFormat format;
  std::int64_t page_size;
  std::int64_t width;

  std::string name(const char* argument) const { return prefix + "." + argument; }
};

void add_list(CaseBuilder& builder, const Set& set, int head_dim) {
  Random& random = builder.random();
  const std::int64_t num_rows = std::max<std::int64_t>(8, builder.word("context", 2 * set.width));
  const PageTable table = make_pages(builder, set.page_size, {0}, {num_rows});
  const PagedCacheView cache =
      builder.add_cache(set.name("cache"), set.format, head_dim, set.page_size, table.num_pages);
  if (!builder.status().ok()) return;
  std::vector<std::int64_t> slots = slots_of(table, {0}, {num_rows});
  random.shuffle(slots);
  // A quarter of the rows stays NaN; only columns past a row's length may name them.
  const std::int64_t written = std::max<std::int64_t>(num_rows * 3 / 4, 1);
  const std::vector<std::int64_t> unwritten(slots.begin() + written, slots.end());
  slots.resize(static_cast<std::size_t>(written));
  write_random_rows(builder, cache, slots);

  builder.set_extent(set.prefix + "_width", set.width);
  const TensorView indices = builder.add(set.name("indices"));
  const bool cut = builder.asked("holes") || builder.asked("hostile") || random.chance(0.5);
  const TensorView lengths = cut ? builder.add(set.name("lengths")) : TensorView{};
  const auto end = static_cast<std::int32_t>(std::min<std::int64_t>(cache.num_slots(), INT32_MAX));
  const std::int32_t outside[] = {-1, -2, INT32_MIN, end, end + 3, INT32_MAX};
  const std::int64_t outside_lengths[] = {-3, INT32_MIN, set.width + 1, INT32_MAX};
  for (std::int64_t t = 0; t < indices.shape[0]; ++t) {
    std::int64_t length = set.width;
    if (cut) {
      set_integer(lengths, t, random.chance(0.1) ? 0 : random.between(0, set.width));
      if (builder.asked("hostile") && random.chance(0.3))
        set_integer(lengths, t, outside_lengths[random.below(std::size(outside_lengths))]);
      length = std::clamp<std::int64_t>(integer_at(lengths, t), 0, set.width);
    }
    std::int32_t* row = indices.row<std::int32_t>(t);
    for (std::int64_t i = 0; i < set.width; ++i) {
      const auto& from = i < length || unwritten.empty() ? slots : unwritten;
      row[i] = static_cast<std::int32_t>(
          from[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(from.size())))]);
      if (builder.asked("holes") && random.chance(0.3)) row[i] = -1;
      if (builder.asked("hostile") && random.chance(0.3)) row[i] = outside[random.below(std::size(outside))];
    }
  }
}

/// Rows [begin, end) of the query's sequence. The window ends at the query; entries end where its visible ones do.
void add_range(CaseBuilder& builder, const Set& set, int head_dim, const Sequences& sequences, bool is_window) {
  Random& random = builder.random();
  std::vector<std::int64_t> count = sequences.length;
  for (std::int64_t& rows : count) {
    if (!is_window) rows = random.between(0, set.width);
  }
  const std::vector<std::int64_t> from_start(count.size());
  const PageTable table = make_pages(builder, set.page_size, from_start, count);
  const PagedCacheView cache =
      builder.add_cache(set.name("cache"), set.format, head_dim, set.page_size, table.num_pages);
  if (!builder.status().ok()) return;
  write_random_rows(builder, cache, slots_of(table, from_start, count));

  const bool with_begin = is_window || random.chance(0.3);
  const TensorView begin = with_begin ? builder.add(set.name("begin")) : TensorView{};
  const TensorView end = builder.add(set.name("end"));
  for (std::size_t t = 0; t < sequences.tokens.size(); ++t) {
    const auto [seq, position] = sequences.tokens[t];
    const std::int64_t rows = count[static_cast<std::size_t>(seq)], at = static_cast<std::int64_t>(t);
    std::int64_t last = is_window
                            ? position + 1
                            : std::min(rows, rows - sequences.length[static_cast<std::size_t>(seq)] + position + 1);
    last = std::max<std::int64_t>(last, 0);
    std::int64_t first = is_window ? std::max<std::int64_t>(last - set.width, 0) : 0;
    if (!is_window && with_begin) first = random.between(0, last);
    if (builder.asked("hostile") && random.chance(0.4)) {
      const std::int64_t kind = random.below(4);
      if (!with_begin) {
        last = kind < 2 ? INT32_MIN : kind == 2 ? -1 : last + set.width;
      } else if (kind == 0) {  // before the start
        const std::int64_t shift = random.between(1, set.width);
        first -= shift;
        last -= shift;
      } else if (kind == 1) {  // past the table
        first += 1000000;
        last += 1000000;
      } else if (kind == 2) {  // more rows than the width, which cuts them
        first = std::max<std::int64_t>(first - random.between(1, set.width), 0);
      } else {  // back to front
        std::swap(first, last);
      }
    }
    if (with_begin) set_integer(begin, at, first);
    set_integer(end, at, last);
  }
  add_block_table(builder, set.name("block_table"), "max_" + set.prefix + "_pages", table);
}

}  // namespace

void generate_attend(CaseBuilder& builder) {
  const auto& problem = builder.problem<AttendProblem>();
  Random& random = builder.random();
  const Set window{"window", problem.window_rows, problem.window_format, problem.window_page_size,
                   problem.window_width};
  const Set entries{"entries", problem.entries_rows, problem.entries_format, problem.entries_page_size,
                    problem.entries_width};
  const Sequences sequences = make_sequences(builder, 3 * problem.window_width / 2);

  // Logits with a deviation of about 1 or 4: flat rows, and rows where few keys count.
  builder.add_normal("q", random.chance(0.5) ? 1.0f : 4.0f, 0.0f, true);
  if (window.rows == RowsBy::range || entries.rows == RowsBy::range) {
    const TensorView seq_ids = builder.add("seq_ids");
    const std::int64_t outside[] = {-1, builder.seqs(), INT32_MAX, INT32_MIN};
    for (std::size_t t = 0; t < sequences.tokens.size(); ++t) {
      const bool lost = builder.asked("hostile") && random.chance(0.1);
      set_integer(seq_ids, static_cast<std::int64_t>(t),
                  lost ? outside[random.below(std::size(outside))] : sequences.tokens[t].seq);
    }
  }
  for (const Set& set : {window, entries}) {
    if (set.rows == RowsBy::list) add_list(builder, set, problem.head_dim);
    if (set.rows == RowsBy::range) add_range(builder, set, problem.head_dim, sequences, set.prefix == "window");
    if (!builder.status().ok()) return;
  }

  if (problem.q_form == QForm::raw || problem.out_form != OutForm::plain) {
    add_rope_table(builder, sequences, problem.rope_dim);
    add_positions(builder, sequences);
  }
  const std::int64_t sink = builder.word("sink", random.between(0, 1));
  if (sink > 0) {
    const TensorView logits = builder.add("attn_sink");
    builder.fill_normal(logits, 2.0f);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    for (std::int64_t h = 0; sink > 1 && h < logits.shape[0]; ++h) {
      if (h % 3 != 2) logits.at<float>(h) = h % 3 == 0 ? -kInfinity : kInfinity;
    }
  }
  builder.add_output("out");
  builder.add_output("lse");
  builder.add_output("max_logits");
  if (problem.out_form == OutForm::e4m3) {
    builder.add_output("out_scale");
    builder.require_output("out_scale");
  }
}

void generate_merge_partials(CaseBuilder& builder) {
  const auto& problem = builder.problem<MergePartialsProblem>();
  Random& random = builder.random();
  const TensorView parts = builder.add("partial_out"), lse = builder.add("partial_lse");
  builder.fill_normal(parts);
  builder.fill_normal(lse, 3.0f);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<std::byte*> rows;  // of parts, in the order of lse's elements
  for_each_row(parts, [&](std::byte* row, std::int64_t) { rows.push_back(row); });
  std::size_t at = 0;
  for_each_row(lse, [&](std::byte* row, std::int64_t count) {
    for (std::int64_t h = 0; h < count; ++h, ++at) {
      if (!builder.asked("holes") || !random.chance(0.4)) continue;
      reinterpret_cast<float*>(row)[h] = random.chance(0.5) ? -kInfinity : kInfinity;
      // A part that saw nothing: zeros natively; NaN where nobody wrote them.
      std::fill(rows[at], rows[at] + problem.value_dim * bits_of(parts.dtype) / 8,
                std::byte(random.chance(0.5) ? 0 : 0xff));
    }
  });
  if (builder.word("sink", random.between(0, 1)) > 0) {
    const TensorView logits = builder.add("attn_sink");
    builder.fill_normal(logits, 2.0f);
    if (builder.word("sink") > 1) {
      for (std::int64_t h = 0; h < logits.shape[0]; ++h) logits.at<float>(h) = h % 2 == 0 ? -kInfinity : kInfinity;
    }
  }
  builder.add_output("out");
  builder.add_output("lse");
}

}  // namespace fathom::harness
