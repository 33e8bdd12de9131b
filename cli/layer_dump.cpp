// Reading a sequence's caches back through its block tables, in the shapes of the golden files.
#include "cli/layer_dump.h"

#include "cli/device_copy.h"

#include <algorithm>
#include <limits>

namespace fathom::cli {
namespace {

/// A sequence of a pool whose pages lie on a device.
struct SequenceOf {
  const PagePool& pool;
  const Device& device;
  int sequence;
};

/// Rows [first, first + count) of one cache, decoded to f32 [count, dim].
Result<std::vector<float>> read_range(const SequenceOf& of, PagePool::Cache cache, const TensorView& pages,
                                      CacheFormat format, int dim, std::int64_t page_size, std::int64_t first,
                                      std::int64_t count) {
  FATHOM_ASSIGN(const RowLayout layout, row_layout(format, dim));
  FATHOM_ASSIGN(const HostPages host, HostPages::of(of.device, pages));
  FATHOM_ASSIGN(const PagedCacheView rows, paged_cache("dump", "cache", host.view(), layout, page_size));
  FATHOM_ASSIGN(const std::vector<std::int32_t> table, of.pool.block_table(of.sequence, cache));
  std::vector<std::int64_t> slots(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    slots[i] = slot_through(table.data(), static_cast<std::int64_t>(table.size()), page_size, first + i);
  }
  std::vector<float> values(static_cast<std::size_t>(count * dim));
  FATHOM_TRY(read_rows(rows, view(slots.data(), DType::i64, {count}), view(values.data(), DType::f32, {count, dim})));
  return values;
}

Status read_window(const SequenceOf& of, std::int64_t num_tokens, LayerDump* dump) {
  const LayerProblem& problem = of.pool.problem();
  const std::int64_t first = std::max<std::int64_t>(0, num_tokens - problem.window);
  FATHOM_ASSIGN(const std::vector<float> rows,
                read_range(of, PagePool::kWindow, of.pool.caches(0).window, problem.window_format, problem.head_dim,
                           problem.window_page_size, first, num_tokens - first));
  dump->window_ring.resize({problem.window, problem.head_dim});
  for (std::int64_t p = first; p < num_tokens; ++p) {
    std::copy_n(rows.begin() + (p - first) * problem.head_dim, problem.head_dim,
                dump->window_ring.values.begin() + p % problem.window * problem.head_dim);
  }
  return {};
}

Status read_state(const SequenceOf& of, std::int64_t num_tokens, LayerDump* dump) {
  const LayerProblem& problem = of.pool.problem();
  const int ratio = problem.compress_ratio;
  const bool overlap = ratio == 4;
  const std::int64_t state_tokens = std::int64_t{ratio} * (overlap ? 2 : 1);
  const std::int64_t width = std::int64_t{problem.head_dim} * (overlap ? 2 : 1);
  const std::int64_t first = std::max<std::int64_t>(0, num_tokens - state_tokens);
  FATHOM_ASSIGN(const std::vector<float> rows,
                read_range(of, PagePool::kState, of.pool.caches(0).state, CacheFormat::state_f32,
                           static_cast<int>(2 * width), problem.state_page_size, first, num_tokens - first));
  dump->compressor_kv_state.resize({state_tokens, width});
  dump->compressor_score_state.resize({state_tokens, width}, -std::numeric_limits<float>::infinity());
  for (std::int64_t p = first; p < num_tokens; ++p) {
    const std::int64_t row = state_row(p, num_tokens, ratio, overlap);
    if (row < 0) continue;
    const auto from = rows.begin() + (p - first) * 2 * width;
    std::copy_n(from, width, dump->compressor_kv_state.values.begin() + row * width);
    std::copy_n(from + width, width, dump->compressor_score_state.values.begin() + row * width);
  }
  return {};
}

}  // namespace

std::int64_t state_row(std::int64_t position, std::int64_t num_tokens, int ratio, bool overlap) noexcept {
  const std::int64_t open_group = num_tokens - num_tokens % ratio;
  if (position >= open_group) return position - open_group + (overlap ? ratio : 0);
  return overlap && position >= open_group - ratio ? position - (open_group - ratio) : -1;
}

Status read_caches(const PagePool& pool, const Device& device, int sequence, std::int64_t num_tokens, LayerDump* dump) {
  const LayerProblem& problem = pool.problem();
  const SequenceOf of{pool, device, sequence};
  FATHOM_TRY(read_window(of, num_tokens, dump));
  if (problem.compress_ratio == 0) return {};
  FATHOM_TRY(read_state(of, num_tokens, dump));
  const std::int64_t num_entries = num_tokens / problem.compress_ratio;
  FATHOM_ASSIGN(dump->entries.values,
                read_range(of, PagePool::kEntries, pool.caches(0).entries, problem.entries_format, problem.head_dim,
                           problem.entries_page_size, 0, num_entries));
  dump->entries.shape = {num_entries, problem.head_dim};
  if (pool.caches(0).index_keys.is_absent()) return {};
  FATHOM_ASSIGN(dump->index_keys.values,
                read_range(of, PagePool::kIndexKeys, pool.caches(0).index_keys, problem.index_format,
                           problem.index_dim, problem.index_page_size, 0, num_entries));
  dump->index_keys.shape = {num_entries, problem.index_dim};
  return {};
}

}  // namespace fathom::cli
