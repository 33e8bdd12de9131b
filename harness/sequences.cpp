// Ragged steps over shuffled pages: what an engine brings, made as unlike the simple case as it may be.
#include "harness/sequences.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace fathom::harness {

std::int64_t Sequences::longest() const noexcept {
  std::int64_t most = 0;
  for (const std::int64_t tokens_of_one : length) most = std::max(most, tokens_of_one);
  return most;
}

Sequences make_sequences(CaseBuilder& builder, std::int64_t context) {
  Random& random = builder.random();
  const std::int64_t num_seqs = std::max<std::int64_t>(builder.seqs(), 1), num_tokens = builder.tokens();
  const std::int64_t longest = builder.word("context", context);
  Sequences result;
  for (std::int64_t s = 0; s < num_seqs; ++s) {
    result.context.push_back(s == 0 && builder.word("context", -1) >= 0 ? longest : random.between(0, longest));
  }
  result.length = result.context;

  std::int64_t padding = 0;
  if (builder.asked("holes") && num_tokens > 2) padding = random.between(1, num_tokens / 4 + 1);
  // Cutting at random places leaves some sequences with many tokens and some with none.
  std::vector<std::int64_t> cuts{0, num_tokens - padding};
  for (std::int64_t s = 1; s < num_seqs; ++s) cuts.push_back(random.between(0, num_tokens - padding));
  std::sort(cuts.begin(), cuts.end());
  std::vector<std::int64_t> order(static_cast<std::size_t>(num_seqs));
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::int64_t seq = order[i];
    for (std::int64_t n = cuts[i]; n < cuts[i + 1]; ++n) result.tokens.push_back({seq, result.length[seq]++});
  }
  for (std::int64_t n = 0; n < padding; ++n) result.tokens.push_back({random.below(num_seqs), -1});
  return result;
}

void add_positions(CaseBuilder& builder, const Sequences& sequences) {
  const TensorView positions = builder.add("positions");
  for (std::size_t t = 0; t < sequences.tokens.size(); ++t) {
    set_integer(positions, static_cast<std::int64_t>(t), sequences.tokens[t].position);
  }
}

void add_rope_table(CaseBuilder& builder, const Sequences& sequences, int rope_dim) {
  Random& random = builder.random();
  builder.set_extent("num_positions", std::max<std::int64_t>(sequences.longest(), 1) + random.below(4));
  RopeConfig config;
  config.rope_dim = rope_dim;
  if (random.chance(0.5)) {
    config.theta = 160000.0f;
    config.factor = 16.0f;
  }
  builder.note(fill_rope_table(config, 0, builder.add("rope_table")));
}

std::int64_t PageTable::slot(std::int64_t seq, std::int64_t row) const noexcept {
  const auto& own = pages[static_cast<std::size_t>(seq)];
  return slot_through(own.data(), static_cast<std::int64_t>(own.size()), page_size, row);
}

PageTable make_pages(CaseBuilder& builder, std::int64_t page_size, const std::vector<std::int64_t>& first,
                     const std::vector<std::int64_t>& count) {
  PageTable table{page_size, 0, {}};
  std::vector<std::int32_t*> places;
  for (std::size_t s = 0; s < count.size(); ++s) {
    const std::int64_t pages = (count[s] + page_size - 1) / page_size;
    table.pages.emplace_back(static_cast<std::size_t>(pages), -1);
  }
  for (std::size_t s = 0; s < count.size(); ++s) {
    for (std::size_t page = static_cast<std::size_t>(first[s] / page_size); page < table.pages[s].size(); ++page) {
      places.push_back(&table.pages[s][page]);
    }
  }
  table.num_pages = static_cast<std::int64_t>(places.size()) + 2;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(table.num_pages));
  std::iota(ids.begin(), ids.end(), 0);
  builder.random().shuffle(ids);
  // A single page at number 0 would make slots and rows look alike.
  if (ids[0] == 0) std::swap(ids.front(), ids.back());
  for (std::size_t i = 0; i < places.size(); ++i) *places[i] = ids[i];
  return table;
}

void add_block_table(CaseBuilder& builder, std::string_view name, std::string_view columns, const PageTable& table) {
  std::size_t widest = 0;
  for (const auto& pages : table.pages) widest = std::max(widest, pages.size());
  builder.set_extent(columns, static_cast<std::int64_t>(widest) + builder.random().below(3));
  const TensorView view = builder.add(name);
  const auto end = static_cast<std::int32_t>(table.num_pages);
  const std::int32_t outside[] = {-1, -7, end, INT32_MAX, INT32_MIN};
  for (std::int64_t s = 0; s < view.shape[0]; ++s) {
    std::int32_t* row = view.row<std::int32_t>(s);
    for (std::int64_t i = 0; i < view.shape[1]; ++i) {
      const auto& pages = table.pages[static_cast<std::size_t>(s)];
      row[i] = i < static_cast<std::int64_t>(pages.size()) ? pages[static_cast<std::size_t>(i)] : -1;
      if (builder.asked("holes") && builder.random().chance(0.15)) row[i] = -1;
      if (builder.asked("hostile") && builder.random().chance(0.15))
        row[i] = outside[builder.random().below(std::size(outside))];
    }
  }
}

void write_random_rows(CaseBuilder& builder, const PagedCacheView& cache, const std::vector<std::int64_t>& slots,
                       float scale) {
  const std::int64_t dim = cache.layout.dim, count = static_cast<std::int64_t>(slots.size());
  constexpr std::int64_t kRowsAtOnce = 256;
  std::vector<float> values(static_cast<std::size_t>(std::min(count, kRowsAtOnce) * dim));
  for (std::int64_t first = 0; first < count; first += kRowsAtOnce) {
    const std::int64_t rows = std::min(kRowsAtOnce, count - first);
    for (std::int64_t i = 0; i < rows; ++i) {
      float* row = values.data() + i * dim;
      if (builder.asked("ties") && i > 0 && builder.random().chance(0.5)) {
        std::copy(values.data(), values.data() + dim, row);
        continue;
      }
      for (std::int64_t c = 0; c < dim; ++c) row[c] = scale * builder.random().normal();
    }
    builder.note(write_rows(cache, view(slots.data() + first, DType::i64, {rows}),
                            view(values.data(), DType::f32, {rows, dim})));
  }
}

std::vector<std::int64_t> slots_of(const PageTable& table, const std::vector<std::int64_t>& first,
                                   const std::vector<std::int64_t>& last) {
  std::vector<std::int64_t> slots;
  for (std::size_t s = 0; s < last.size(); ++s) {
    for (std::int64_t row = first[s]; row < last[s]; ++row)
      slots.push_back(table.slot(static_cast<std::int64_t>(s), row));
  }
  return slots;
}

}  // namespace fathom::harness
