// Random rows are encoded once, in a few pages of host memory, and copied over all pages of the cache: what a bench needs
// is that no number is special and that no two neighbouring pages are equal.
#include "cli/bench_past.h"

#include <algorithm>

#include "cli/bench_weights.h"
#include "fathom/core/memory.h"

namespace fathom::cli {
namespace {

constexpr std::int64_t kDifferentPages = 61;  ///< so that pages of a power of two apart differ
constexpr std::int64_t kTokensAtATime = 16384;
constexpr std::uint64_t kRowSeed = 3;

Status fill_cache(const Device& device, const TensorView& pages, CacheFormat format, int dim, std::int64_t page_size) {
  if (pages.is_absent() || pages.numel() == 0) return {};
  FATHOM_ASSIGN(const RowLayout layout, row_layout(format, dim));
  const std::int64_t stride = pages.strides[0], count = std::min(kDifferentPages, pages.shape[0]);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count * stride));
  FATHOM_ASSIGN(const PagedCacheView cache,
                paged_cache("bench", "cache", view(bytes.data(), DType::u8, {count, stride}), layout, page_size));
  std::vector<std::int64_t> slots(static_cast<std::size_t>(cache.num_slots()));
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<std::int64_t>(i);
  const std::vector<bf16> values = random_hidden(cache.num_slots(), dim, kRowSeed);
  FATHOM_TRY(write_rows(cache, view(slots.data(), DType::i64, {cache.num_slots()}),
                        view(values.data(), DType::bf16, {cache.num_slots(), dim})));
  auto* to = static_cast<std::byte*>(pages.data);
  FATHOM_TRY(copy_bytes(device, to, bytes.data(), count * stride));
  for (std::int64_t done = count; done < pages.shape[0]; done *= 2) {
    FATHOM_TRY(copy_bytes(device, to + done * stride, to, std::min(done, pages.shape[0] - done) * stride));
  }
  return synchronize(device);
}

}  // namespace

Result<Past> make_past(LayerProblem problem, std::int64_t sequences, std::int64_t tokens, const Device& device) {
  // Pages for steps of this many tokens; what the layer runs later brings fewer.
  problem.num_tokens = static_cast<std::int32_t>(std::clamp<std::int64_t>(tokens, sequences, std::max(sequences, kTokensAtATime)));
  FATHOM_ASSIGN(const PagePoolOptions options, pool_options_for(problem, sequences, tokens + 1));
  FATHOM_ASSIGN(PagePool pool, PagePool::create(problem, options, device));
  Past past{std::move(pool), {}};
  for (std::int64_t i = 0; i < sequences; ++i) {
    FATHOM_ASSIGN(const int sequence, past.pool.add_sequence());
    past.sequences.push_back(sequence);
    for (std::int64_t done = 0; done < tokens;) {
      const std::int64_t count = std::min(kTokensAtATime, tokens - done);
      FATHOM_TRY(past.pool.begin_step(std::span(&sequence, 1), std::span(&count, 1)).status());
      FATHOM_TRY(past.pool.commit());
      done += count;
    }
  }
  const LayerCaches caches = past.pool.caches(0);
  const int state_parts = problem.compress_ratio == 4 ? 4 : 2;
  FATHOM_TRY(fill_cache(device, caches.window, problem.window_format, problem.head_dim, problem.window_page_size));
  FATHOM_TRY(fill_cache(device, caches.entries, problem.entries_format, problem.head_dim, problem.entries_page_size));
  FATHOM_TRY(fill_cache(device, caches.index_keys, problem.index_format, problem.index_dim, problem.index_page_size));
  FATHOM_TRY(fill_cache(device, caches.state, CacheFormat::state_f32, state_parts * problem.head_dim, problem.state_page_size));
  FATHOM_TRY(fill_cache(device, caches.index_state, CacheFormat::state_f32, state_parts * problem.index_dim,
                        problem.index_state_page_size));
  return past;
}

}  // namespace fathom::cli
