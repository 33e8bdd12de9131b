// PagePool: creation, sequences, rollback and forks. Steps and snapshots have files of their own.
#include <cinttypes>
#include <limits>
#include <new>
#include <utility>

#include "cache/page_pool_impl.h"

namespace fathom {
namespace {

constexpr std::int64_t kMaxSlots = std::numeric_limits<std::int32_t>::max();  // topk_indices hold slots as i32
constexpr int kMaxPoolLayers = 4096;

struct KindSpec {
  const char* field;  ///< of PagePoolOptions
  std::int64_t num_pages;
  std::int64_t page_size;
  CacheFormat format;
  int dim;
};

std::array<KindSpec, kNumCaches> kind_specs(const LayerProblem& p, const PagePoolOptions& options) noexcept {
  // A state row holds kv and score, each with a carry half if entries overlap. Beyond int, row_layout refuses.
  const auto state_dim = [&p](std::int64_t dim) {
    constexpr std::int64_t kMost = std::numeric_limits<int>::max();
    return static_cast<int>(std::clamp((p.compress_ratio == 4 ? 4 : 2) * dim, -kMost, kMost));
  };
  return {{{"window_pages", options.window_pages, p.window_page_size, p.window_format, p.head_dim},
           {"entries_pages", options.entries_pages, p.entries_page_size, p.entries_format, p.head_dim},
           {"index_pages", options.index_pages, p.index_page_size, p.index_format, p.index_dim},
           {"state_pages", options.state_pages, p.state_page_size, CacheFormat::state_f32, state_dim(p.head_dim)},
           {"index_state_pages", options.index_state_pages, p.index_state_page_size, CacheFormat::state_f32,
            state_dim(p.index_dim)}}};
}

Status check_sizes(const char* call, const LayerProblem& problem, int rollback_tokens) noexcept {
  if (problem.window < 1) return Status::invalid("%s: window is %d, expected 1 or more", call, problem.window);
  if (problem.compress_ratio < 0) {
    return Status::invalid("%s: compress_ratio is %d, expected 0 or more", call, problem.compress_ratio);
  }
  if (rollback_tokens < 0) {
    return Status::invalid("%s: rollback_tokens is %d, expected 0 or more", call, rollback_tokens);
  }
  const RowRules rules{problem.window, problem.compress_ratio, rollback_tokens};
  const std::array<KindSpec, kNumCaches> specs = kind_specs(problem, {});
  for (int kind = 0; kind < kNumCaches; ++kind) {
    const std::int64_t page_size = specs[kind].page_size;
    if (rules.has(kind) && (page_size < 1 || page_size > kMaxPageSize)) {
      return Status::invalid("%s: the %s cache has pages of %" PRId64 " rows, expected 1 to %" PRId64, call,
                             kCacheNames[kind], page_size, kMaxPageSize);
    }
  }
  return {};
}

}  // namespace

Result<PagePoolOptions> pool_options_for(const LayerProblem& problem, std::int64_t sequences, std::int64_t tokens,
                                         int rollback_tokens) noexcept {
  FATHOM_TRY(check_sizes("pool_options_for", problem, rollback_tokens));
  if (sequences < 1 || sequences > kMaxSeqs) {
    return Status::invalid("pool_options_for: sequences is %" PRId64 ", expected 1 to %" PRId64, sequences, kMaxSeqs);
  }
  if (tokens < 1 || tokens > kMaxLength) {
    return Status::invalid("pool_options_for: tokens is %" PRId64 ", expected 1 to %" PRId64, tokens, kMaxLength);
  }
  const RowRules rules{problem.window, problem.compress_ratio, rollback_tokens};
  const std::array<KindSpec, kNumCaches> specs = kind_specs(problem, {});
  PagePoolOptions options;
  options.rollback_tokens = rollback_tokens;
  options.sequence_tokens = tokens;
  std::int64_t* const counts[kNumCaches] = {&options.window_pages, &options.entries_pages, &options.index_pages,
                                             &options.state_pages, &options.index_state_pages};
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    const std::int64_t page_size = specs[kind].page_size;
    const auto pages_of = [page_size](std::int64_t rows) { return (rows + page_size - 1) / page_size; };
    std::int64_t pages = sequences * pages_of(rules.rows(kind, tokens));
    if (RowRules::ages(kind)) {
      // What stays between steps may lie on one page more than its rows fill, what a step adds to a sequence on two;
      // state rows are added only as far as they will stay.
      const std::int64_t retained = rules.most_retained(kind);
      const std::int64_t step = std::max<std::int64_t>(problem.num_tokens, 1);
      const std::int64_t added = RowRules::is_state(kind) ? std::min(step, sequences * retained) : step;
      pages = std::min(pages, sequences * (pages_of(retained) + 3) + pages_of(added));
    }
    // While two sequences copy a page they share, the shared one is held too.
    *counts[kind] = std::max<std::int64_t>(pages + sequences / 2, 1);
  }
  return options;
}

Result<PagePool> PagePool::create(const LayerProblem& problem, const PagePoolOptions& options) noexcept {
  FATHOM_ASSIGN(const Device host, Device::cpu(1));
  return create(problem, options, host);
}

Result<PagePool> PagePool::create(const LayerProblem& problem, const PagePoolOptions& options, const Device& device) noexcept {
  return guarded("PagePool", [&]() -> Result<PagePool> {
    FATHOM_TRY(check_sizes("PagePool", problem, options.rollback_tokens));
    if (options.num_layers < 1 || options.num_layers > kMaxPoolLayers) {
      return Status::invalid("PagePool: num_layers is %d, expected 1 to %d", options.num_layers, kMaxPoolLayers);
    }
    if (options.sequence_tokens < 0 || options.sequence_tokens > kMaxLength) {
      return Status::invalid("PagePool: sequence_tokens is %" PRId64 ", expected 0 to %" PRId64,
                             options.sequence_tokens, kMaxLength);
    }
    auto impl = std::make_unique<Impl>();
    impl->problem = problem;
    impl->sequence_tokens = options.sequence_tokens;
    impl->num_layers = options.num_layers;
    impl->device = device;
    impl->stream = options.stream;
    impl->rules = {problem.window, problem.compress_ratio, options.rollback_tokens};
    const std::array<KindSpec, kNumCaches> specs = kind_specs(problem, options);
    std::array<RowLayout, kNumCaches> layouts;
    for (int kind = 0; kind < kNumCaches; ++kind) {  // every check before the first large allocation
      const KindSpec& spec = specs[kind];
      const std::int64_t most = impl->rules.has(kind) ? kMaxSlots / spec.page_size : 0;
      if (spec.num_pages < 0 || spec.num_pages > most) {
        return Status::invalid("PagePool: %s is %" PRId64 ", expected 0 to %" PRId64 " with compress_ratio %d",
                               spec.field, spec.num_pages, most, problem.compress_ratio);
      }
      if (!impl->rules.has(kind)) continue;
      FATHOM_ASSIGN(layouts[kind], row_layout(spec.format, spec.dim));
    }
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (!impl->rules.has(kind)) continue;
      FATHOM_ASSIGN(impl->lists[kind], PageList::create(layouts[kind], specs[kind].page_size, specs[kind].num_pages, options.num_layers,
                                                        options.page_order_seed, device, options.stream));
    }
    return PagePool(std::move(impl));
  });
}

PagePool::PagePool(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
PagePool::PagePool(PagePool&&) noexcept = default;
PagePool& PagePool::operator=(PagePool&&) noexcept = default;
PagePool::~PagePool() = default;

Status PagePool::Impl::check_sequence(const char* call, int sequence) const noexcept {
  if (sequence >= 0 && sequence < static_cast<int>(sequences.size()) && sequences[sequence].alive) return {};
  return Status::invalid("%s: sequence %d does not exist", call, sequence);
}

Status PagePool::Impl::check_no_step(const char* call) const noexcept {
  if (!step.is_open) return {};
  return Status::invalid("%s: a step is open, commit or abandon it first", call);
}

Status PagePool::Impl::check_reachable(const char* call, int sequence, std::int64_t length) const noexcept {
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    const std::int64_t first = rules.first_needed(kind, length), held = sequences[sequence].tables[kind].first_row;
    if (first < rules.rows(kind, length) && first < held) {
      return Status::invalid("%s: sequence %d with %" PRId64 " tokens needs %s rows from %" PRId64
                             ", those before %" PRId64 " were released (rollback_tokens is %" PRId64 ")",
                             call, sequence, length, kCacheNames[kind], first, held, rules.rollback);
    }
  }
  return {};
}

void PagePool::Impl::release_blocks(int kind, PageTable& table, std::int64_t first, std::int64_t last) noexcept {
  for (std::int64_t block = first; block < last; ++block) {
    if (table.pages[block] >= 0) lists[kind].release(table.pages[block]);
    table.pages[block] = -1;
  }
}

int PagePool::Impl::adopt(Sequence&& sequence) {
  if (free_numbers.empty()) {
    if (free_numbers.capacity() <= sequences.size()) free_numbers.reserve(2 * sequences.size() + 8);
    sequences.emplace_back();
    free_numbers.push_back(static_cast<int>(sequences.size()) - 1);
  }
  const int number = free_numbers.back();
  free_numbers.pop_back();
  sequences[number] = std::move(sequence);
  sequences[number].alive = true;
  return number;
}

Result<int> PagePool::add_sequence() noexcept {
  return guarded("add_sequence", [&]() -> Result<int> {
    FATHOM_TRY(check_pool("add_sequence", impl_.get()));
    FATHOM_TRY(impl_->check_no_step("add_sequence"));
    return impl_->adopt({});
  });
}

Status PagePool::remove_sequence(int sequence) noexcept {
  FATHOM_TRY(check_pool("remove_sequence", impl_.get()));
  FATHOM_TRY(impl_->check_no_step("remove_sequence"));
  FATHOM_TRY(impl_->check_sequence("remove_sequence", sequence));
  Sequence& removed = impl_->sequences[sequence];
  for (int kind = 0; kind < kNumCaches; ++kind) {
    PageTable& table = removed.tables[kind];
    impl_->release_blocks(kind, table, 0, static_cast<std::int64_t>(table.pages.size()));
  }
  removed = {};
  impl_->free_numbers.push_back(sequence);
  return {};
}

Result<std::int64_t> PagePool::length(int sequence) const noexcept {
  FATHOM_TRY(check_pool("length", impl_.get()));
  FATHOM_TRY(impl_->check_sequence("length", sequence));
  return impl_->sequences[sequence].length;
}

std::int64_t PagePool::num_free_pages(int cache) const noexcept {
  return impl_ != nullptr && cache >= 0 && cache < kNumCaches ? impl_->lists[cache].num_free() : 0;
}

Status PagePool::roll_back(int sequence, std::int64_t tokens) noexcept {
  FATHOM_TRY(check_pool("roll_back", impl_.get()));
  FATHOM_TRY(impl_->check_no_step("roll_back"));
  FATHOM_TRY(impl_->check_sequence("roll_back", sequence));
  Sequence& shortened = impl_->sequences[sequence];
  if (tokens < 0 || tokens > shortened.length) {
    return Status::invalid("roll_back: tokens is %" PRId64 ", sequence %d has %" PRId64, tokens, sequence,
                           shortened.length);
  }
  const std::int64_t length = shortened.length - tokens;
  FATHOM_TRY(impl_->check_reachable("roll_back", sequence, length));
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!impl_->rules.has(kind)) continue;
    PageTable& table = shortened.tables[kind];
    const std::int64_t blocks = impl_->num_blocks(kind, length);
    impl_->release_blocks(kind, table, blocks, static_cast<std::int64_t>(table.pages.size()));
    table.pages.resize(blocks);
    table.first_row = std::min(table.first_row, impl_->rules.rows(kind, length));
  }
  shortened.length = length;
  return {};
}

Result<int> PagePool::fork(int sequence, std::int64_t tokens) noexcept {
  return guarded("fork", [&]() -> Result<int> {
    FATHOM_TRY(check_pool("fork", impl_.get()));
    FATHOM_TRY(impl_->check_no_step("fork"));
    FATHOM_TRY(impl_->check_sequence("fork", sequence));
    const Sequence& parent = impl_->sequences[sequence];
    if (tokens < 0 || tokens > parent.length) {
      return Status::invalid("fork: tokens is %" PRId64 ", sequence %d has %" PRId64, tokens, sequence, parent.length);
    }
    FATHOM_TRY(impl_->check_reachable("fork", sequence, tokens));
    Sequence child;
    child.length = tokens;
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (!impl_->rules.has(kind)) continue;
      const PageTable& from = parent.tables[kind];
      PageTable& to = child.tables[kind];
      const std::int64_t page_size = impl_->lists[kind].page_size();
      const std::int64_t first_block = impl_->rules.first_retained(kind, tokens) / page_size;
      to.pages.assign(from.pages.begin(), from.pages.begin() + impl_->num_blocks(kind, tokens));
      std::fill_n(to.pages.begin(), first_block, -1);
      to.first_row = std::min(std::max(from.first_row, first_block * page_size), impl_->rules.rows(kind, tokens));
    }
    const int number = impl_->adopt(std::move(child));
    for (int kind = 0; kind < kNumCaches; ++kind) {
      for (const std::int32_t page : impl_->sequences[number].tables[kind].pages) {
        if (page >= 0) impl_->lists[kind].share(page);
      }
    }
    return number;
  });
}

LayerCaches PagePool::caches(int layer) const noexcept {
  LayerCaches caches;
  if (impl_ == nullptr || layer < 0 || layer >= impl_->num_layers) return caches;
  TensorView* const views[kNumCaches] = {&caches.window, &caches.entries, &caches.index_keys, &caches.state,
                                          &caches.index_state};
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (impl_->rules.has(kind)) *views[kind] = impl_->lists[kind].pages(layer);
  }
  return caches;
}

Result<std::vector<std::int32_t>> PagePool::block_table(int sequence, int cache) const noexcept {
  return guarded("block_table", [&]() -> Result<std::vector<std::int32_t>> {
    FATHOM_TRY(check_pool("block_table", impl_.get()));
    FATHOM_TRY(impl_->check_sequence("block_table", sequence));
    if (cache < 0 || cache >= kNumCaches || !impl_->rules.has(cache)) {
      return Status::invalid("block_table: cache is %d, which layers with compress_ratio %d do not have", cache,
                             impl_->problem.compress_ratio);
    }
    return impl_->sequences[sequence].tables[cache].pages;
  });
}

const LayerProblem& PagePool::problem() const noexcept {
  static const LayerProblem kNone{};
  return impl_ == nullptr ? kNone : impl_->problem;
}

}  // namespace fathom
