// PagePool's steps: begin_step makes room and writes the bookkeeping, commit keeps it, abandon forgets it.
#include <cinttypes>
#include <cstddef>
#include <utility>

#include "cache/page_pool_impl.h"
#include "core/cuda_runtime.h"

namespace fathom {
Status PagePool::Impl::check_step(std::span<const int> chosen, std::span<const std::int64_t> counts) const {
  if (chosen.empty() || chosen.size() != counts.size()) {
    return Status::invalid("begin_step: %zu sequences and %zu counts came, expected equally many and at least one",
                           chosen.size(), counts.size());
  }
  std::int64_t num_tokens = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    FATHOM_TRY(check_sequence("begin_step", chosen[i]));
    const std::int64_t length = sequences[chosen[i]].length;
    if (counts[i] < 1 || counts[i] > kMaxTokens || (num_tokens += counts[i]) > kMaxTokens) {
      return Status::invalid("begin_step: counts[%zu] is %" PRId64 ", expected 1 or more and at most %" PRId64
                             " tokens together",
                             i, counts[i], kMaxTokens);
    }
    if (length + counts[i] > kMaxLength) {
      return Status::invalid("begin_step: sequence %d has %" PRId64 " tokens, %" PRId64 " more would pass %" PRId64,
                             chosen[i], length, counts[i], kMaxLength);
    }
    if (rules.ratio > 0 && (length + counts[i]) / rules.ratio > problem.max_entries) {
      return Status::invalid("begin_step: sequence %d would have %" PRId64 " entries, max_entries is %d", chosen[i],
                             (length + counts[i]) / rules.ratio, problem.max_entries);
    }
  }
  std::vector<int> sorted(chosen.begin(), chosen.end());
  std::sort(sorted.begin(), sorted.end());
  if (const auto twin = std::adjacent_find(sorted.begin(), sorted.end()); twin != sorted.end()) {
    return Status::invalid("begin_step: sequence %d is named twice", *twin);
  }
  return {};
}

std::vector<PageChange> PagePool::Impl::changes_of(int kind, int sequence, std::int64_t new_length) const {
  const Sequence& grown = sequences[sequence];
  const std::vector<std::int32_t>& pages = grown.tables[kind].pages;
  const std::int64_t first = rules.first_written(kind, grown.length, new_length);
  std::vector<PageChange> changes;
  if (first >= rules.rows(kind, new_length)) return changes;
  for (std::int64_t block = first / lists[kind].page_size(); block < num_blocks(kind, new_length); ++block) {
    const std::int32_t page = block < static_cast<std::int64_t>(pages.size()) ? pages[block] : -1;
    // A page shared when the step begins is copied by each of its writers: the original must survive abandon.
    if (page < 0 || lists[kind].is_shared(page)) changes.push_back({kind, sequence, block, page});
  }
  return changes;
}

Status PagePool::Impl::open_step(std::span<const int> chosen, std::span<const std::int64_t> counts) {
  FATHOM_TRY(check_no_step("begin_step"));
  FATHOM_TRY(check_step(chosen, counts));
  Step next;
  next.sequences.assign(chosen.begin(), chosen.end());
  std::size_t num_tokens = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    next.new_lengths.push_back(sequences[chosen[i]].length + counts[i]);
    num_tokens += counts[i];
  }
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    const std::size_t before = next.changes.size();
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const std::vector<PageChange> changes = changes_of(kind, chosen[i], next.new_lengths[i]);
      next.changes.insert(next.changes.end(), changes.begin(), changes.end());
    }
    const auto needed = static_cast<std::int64_t>(next.changes.size() - before);
    if (needed > lists[kind].num_free()) {
      return Status::exhausted("begin_step: the %s cache needs %" PRId64 " pages, %" PRId64 " of %" PRId64 " are free",
                               kCacheNames[kind], needed, lists[kind].num_free(), lists[kind].num_pages());
    }
  }

  // All memory first; from the line below on nothing can fail.
  for (std::vector<std::int32_t>* numbers :
       {&next.positions, &next.seq_ids, &next.window_begin, &next.window_end, &next.num_visible}) {
    numbers->resize(num_tokens);
  }
  make_room(next.new_lengths);
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      std::vector<std::int32_t>& pages = sequences[chosen[i]].tables[kind].pages;
      const auto blocks = static_cast<std::size_t>(num_blocks(kind, next.new_lengths[i]));
      if (blocks > pages.capacity()) pages.reserve(std::max(blocks, 2 * pages.capacity()));
    }
    next.slots[kind].assign(num_tokens, -1);
  }

  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      sequences[chosen[i]].tables[kind].pages.resize(num_blocks(kind, next.new_lengths[i]), -1);
    }
  }
  for (const PageChange& change : next.changes) {
    const std::int32_t page = lists[change.kind].take();
    if (change.old_page >= 0) lists[change.kind].copy(change.old_page, page);
    sequences[change.sequence].tables[change.kind].pages[change.block] = page;
  }
  step = std::move(next);
  step.is_open = true;
  write_tokens();
  write_tables();
  return {};
}

void PagePool::Impl::make_room(std::span<const std::int64_t> new_lengths) {
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    StepTables& table = tables[kind];
    std::int64_t width = std::max<std::int64_t>({table.width, num_blocks(kind, sequence_tokens), 1});
    for (const std::int64_t length : new_lengths) width = std::max(width, num_blocks(kind, length));
    const std::size_t size = std::max(table.pages.size(), new_lengths.size() * width);
    if (width == table.width) {
      table.pages.resize(size, -1);
    } else {
      table.pages.assign(size, -1);
      table.width = width;
      table.used = 0;  // on the device, too, other widths are laid out anew
    }
  }
}

void PagePool::Impl::write_tables() noexcept {
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    StepTables& table = tables[kind];
    for (std::size_t i = 0; i < step.sequences.size(); ++i) {
      const std::vector<std::int32_t>& pages = sequences[step.sequences[i]].tables[kind].pages;
      std::int32_t* const row = table.pages.data() + i * table.width;
      std::fill_n(row, table.used, -1);
      std::copy(pages.begin(), pages.end(), row);
    }
    for (const int sequence : step.sequences) {
      table.used = std::max(table.used, static_cast<std::int64_t>(sequences[sequence].tables[kind].pages.size()));
    }
  }
}

void PagePool::Impl::write_tokens() noexcept {
  std::size_t t = 0;
  for (std::size_t i = 0; i < step.sequences.size(); ++i) {
    const Sequence& grown = sequences[step.sequences[i]];
    const std::int64_t new_length = step.new_lengths[i];
    for (std::int64_t p = grown.length; p < new_length; ++p, ++t) {
      step.positions[t] = static_cast<std::int32_t>(p);
      step.seq_ids[t] = static_cast<std::int32_t>(i);
      step.window_begin[t] = static_cast<std::int32_t>(rules.first_needed(kWindow, p));
      step.window_end[t] = static_cast<std::int32_t>(p + 1);
      if (rules.ratio > 0) step.num_visible[t] = static_cast<std::int32_t>((p + 1) / rules.ratio);
      for (int kind = 0; kind < kNumCaches; ++kind) {
        if (!rules.has(kind)) continue;
        const bool writes = RowRules::ages(kind) ? p >= rules.first_written(kind, grown.length, new_length)
                                                 : (p + 1) % rules.ratio == 0;
        if (!writes) continue;
        step.slots[kind][t] = slot_of(kind, grown.tables[kind], RowRules::ages(kind) ? p : p / rules.ratio);
      }
    }
  }
}

Batch PagePool::Impl::host_batch() const noexcept {
  const auto num_tokens = static_cast<std::int64_t>(step.positions.size());
  const auto num_seqs = static_cast<std::int64_t>(step.sequences.size());
  const auto by_token = [&](const std::vector<std::int32_t>& numbers) {
    return view(numbers.data(), DType::i32, {num_tokens});
  };
  Batch batch;
  batch.positions = by_token(step.positions);
  batch.seq_ids = by_token(step.seq_ids);
  batch.window_begin = by_token(step.window_begin);
  batch.window_end = by_token(step.window_end);
  if (rules.ratio > 0) batch.num_visible = by_token(step.num_visible);
  TensorView* const slots[kNumCaches] = {&batch.window_slots, &batch.entry_slots, &batch.index_slots,
                                          &batch.state_slots, &batch.index_state_slots};
  TensorView* const block_tables[kNumCaches] = {&batch.window_table, &batch.entries_table, &batch.index_table,
                                                &batch.state_table, &batch.index_state_table};
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    *slots[kind] = view(step.slots[kind].data(), DType::i64, {num_tokens});
    *block_tables[kind] = view(tables[kind].pages.data(), DType::i32, {num_seqs, tables[kind].width});
  }
  return batch;
}

Result<Batch> PagePool::Impl::batch() {
  Batch batch = host_batch();
  if (device->kind() == DeviceKind::cpu) return batch;
  BatchShape shape{
      .num_tokens = std::max<std::int64_t>({batch_shape.num_tokens, problem.num_tokens, batch.positions.shape[0]}),
      .num_seqs = std::max<std::int64_t>({batch_shape.num_seqs, problem.num_seqs, batch.window_table.shape[0]})};
  for (int kind = 0; kind < kNumCaches; ++kind) shape.widths[kind] = tables[kind].width;
  // A Batch is an array of views: those by token, then a table for each cache. On the device they lie behind each
  // other.
  const std::span<TensorView> views(reinterpret_cast<TensorView*>(&batch), sizeof(Batch) / sizeof(TensorView));
  constexpr std::size_t kFirstTable = offsetof(Batch, window_table) / sizeof(TensorView);
  static_assert(sizeof(Batch) == (kFirstTable + kNumCaches) * sizeof(TensorView));
  const auto room = [&](std::size_t i) {
    constexpr std::int64_t kAlignment = 256;
    if (views[i].is_absent()) return std::int64_t{0};
    const std::int64_t numbers = i < kFirstTable ? shape.num_tokens : shape.num_seqs * shape.widths[i - kFirstTable];
    return (bytes_of(views[i].dtype, numbers) + kAlignment - 1) / kAlignment * kAlignment;
  };
  std::int64_t by_token = 0, total = 0;
  for (std::size_t i = 0; i < views.size(); ++i) {
    total += room(i);
    if (i < kFirstTable) by_token = total;
  }
  const bool fits = shape == batch_shape;
  if (!fits) {
    batch_shape = {};
    FATHOM_ASSIGN(batch_memory, DeviceMemory::allocate(*device, total));
  }
  // Tokens that the step has not, and table columns that no step has used, are -1.
  FATHOM_TRY(fill_bytes(*device, batch_memory.data(), std::byte{0xff}, fits ? by_token : total, stream));
  batch_shape = shape;
  std::byte* to = batch_memory.data();
  for (std::size_t i = 0; i < views.size(); ++i) {
    TensorView& array = views[i];
    if (array.is_absent()) continue;
    if (i < kFirstTable) {
      FATHOM_TRY(copy_bytes(*device, to, array.data, bytes_of(array.dtype, array.numel()), stream));
    } else {
      const StepTables& table = tables[i - kFirstTable];
      FATHOM_TRY(cuda::copy_rows(device->index(), to, array.data, bytes_of(array.dtype, table.width),
                                 bytes_of(array.dtype, table.used), array.shape[0], stream));
    }
    array.data = to;
    array.device = device->kind();
    array.device_index = static_cast<std::int16_t>(device->index());
    to += room(i);
  }
  return batch;
}

Status PagePool::Impl::trouble() const noexcept {
  for (const PageList& list : lists) FATHOM_TRY(list.trouble());
  return {};
}

Result<Batch> PagePool::begin_step(std::span<const int> sequences, std::span<const std::int64_t> counts) noexcept {
  return guarded("begin_step", [&]() -> Result<Batch> {
    FATHOM_TRY(check_pool("begin_step", impl_.get()));
    FATHOM_TRY(impl_->open_step(sequences, counts));
    const Result<Batch> batch = impl_->batch();
    const Status status = batch.ok() ? impl_->trouble() : batch.status();
    if (status.ok()) return batch;
    abandon();
    return status;
  });
}

Status PagePool::commit() noexcept {
  FATHOM_TRY(check_pool("commit", impl_.get()));
  Impl& pool = *impl_;
  if (!pool.step.is_open) return Status::invalid("commit: no step is open");
  pool.step.is_open = false;
  for (const PageChange& change : pool.step.changes) {
    if (change.old_page >= 0) pool.lists[change.kind].release(change.old_page);
  }
  for (std::size_t i = 0; i < pool.step.sequences.size(); ++i) {
    Sequence& grown = pool.sequences[pool.step.sequences[i]];
    const std::int64_t new_length = pool.step.new_lengths[i];
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (!pool.rules.has(kind) || !RowRules::ages(kind)) continue;
      PageTable& table = grown.tables[kind];
      const std::int64_t page_size = pool.lists[kind].page_size();
      const std::int64_t first_block = table.first_row / page_size;
      const std::int64_t retained_block = pool.rules.first_retained(kind, new_length) / page_size;
      pool.release_blocks(kind, table, first_block, retained_block);
      const std::int64_t written = pool.rules.first_written(kind, grown.length, new_length);
      if (written > grown.length) table.first_row = written;  // rows before it were skipped
      table.first_row = std::max(table.first_row, retained_block * page_size);
    }
    grown.length = new_length;
  }
  return {};
}

void PagePool::abandon() noexcept {
  if (impl_ == nullptr) return;
  Impl& pool = *impl_;
  if (!pool.step.is_open) return;
  pool.step.is_open = false;
  // Backwards, so that the free pages stand in the order they had.
  for (auto change = pool.step.changes.rbegin(); change != pool.step.changes.rend(); ++change) {
    std::int32_t& page = pool.sequences[change->sequence].tables[change->kind].pages[change->block];
    pool.lists[change->kind].release(page);
    page = change->old_page;
  }
  for (const int sequence : pool.step.sequences) {
    Sequence& shrunk = pool.sequences[sequence];
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (pool.rules.has(kind)) shrunk.tables[kind].pages.resize(pool.num_blocks(kind, shrunk.length));
    }
  }
}

}  // namespace fathom
