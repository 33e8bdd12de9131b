// Sequences and pages of a case: ragged positions, block tables with pages in random order, caches with some rows
// written.
#pragma once

#include <string>
#include <vector>

#include "harness/case_builder.h"

namespace fathom::harness {

/// The tokens of a step, those of a sequence together and ascending. Sequences come in random order.
struct Sequences {
  struct Token {
    std::int64_t seq;
    std::int64_t position;  ///< outside every table: padding
  };
  std::vector<std::int64_t> context;  ///< of each sequence: tokens before this step
  std::vector<std::int64_t> length;   ///< context and the step's tokens
  std::vector<Token> tokens;

  bool is_padding(std::size_t token) const noexcept { return tokens[token].position < 0; }
  std::int64_t longest() const noexcept;
};

/// Splits the step's tokens over the sequences. Contexts are seeded in [0, `context`], which the word `context`
/// overrides (then the first sequence has exactly that many). With `holes` the last tokens are padding.
Sequences make_sequences(CaseBuilder& builder, std::int64_t context);
/// Adds `positions` and, where the op has it, `seq_ids`.
void add_positions(CaseBuilder& builder, const Sequences& sequences);
/// Adds the rotary table for every position of the step, plain or YaRN by a seeded choice.
void add_rope_table(CaseBuilder& builder, const Sequences& sequences, int rope_dim);

/// Pages of one cache, each sequence's in random order among the others.
struct PageTable {
  std::int64_t page_size = 1;
  std::int64_t num_pages = 0;
  std::vector<std::vector<std::int32_t>> pages;  ///< of each sequence; -1 = none

  std::int64_t slot(std::int64_t seq, std::int64_t row) const noexcept;
};

/// Pages for rows [first[s], count[s]) of each sequence. Pages wholly before first[s] are -1.
PageTable make_pages(CaseBuilder& builder, std::int64_t page_size, const std::vector<std::int64_t>& first,
                     const std::vector<std::int64_t>& count);
/// Adds the block table argument `name`, whose second extent is `columns`. Rows are padded with -1.
void add_block_table(CaseBuilder& builder, std::string_view name, std::string_view columns, const PageTable& table);
/// Writes normal rows times `scale` to the slots (duplicates of the first row every other time, if `ties` are asked
/// for).
void write_random_rows(CaseBuilder& builder, const PagedCacheView& cache, const std::vector<std::int64_t>& slots,
                       float scale = 1.0f);
/// Slots of rows [first[s], last[s]) of all sequences.
std::vector<std::int64_t> slots_of(const PageTable& table, const std::vector<std::int64_t>& first,
                                   const std::vector<std::int64_t>& last);
/// Adds an i64 vector of the slots each token writes: row `row_of(token)` of its sequence, or -1 where that is
/// negative. Padding tokens, and with `holes` some others, get -1; with `hostile` slots outside the cache as well.
template <class RowOf>
void add_slots(CaseBuilder& builder, std::string_view name, const Sequences& sequences, const PageTable& table,
               RowOf&& row_of) {
  const TensorView slots = builder.add(name);
  const std::int64_t end = table.num_pages * table.page_size;
  const std::int64_t outside[] = {-1, -2, end, end + 5, INT64_MAX, INT64_MIN};
  for (std::size_t t = 0; t < sequences.tokens.size(); ++t) {
    const auto [seq, position] = sequences.tokens[t];
    const std::int64_t row = position < 0 ? -1 : row_of(seq, position);
    std::int64_t slot = row < 0 ? -1 : table.slot(seq, row);
    if (builder.asked("holes") && builder.random().chance(0.1)) slot = -1;
    if (builder.asked("hostile") && builder.random().chance(0.2))
      slot = outside[builder.random().below(std::size(outside))];
    set_integer(slots, static_cast<std::int64_t>(t), slot);
  }
}

}  // namespace fathom::harness
