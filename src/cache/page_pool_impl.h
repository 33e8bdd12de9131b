// PagePool's insides, shared by page_pool.cpp (sequences), page_pool_step.cpp (begin_step, commit, abandon) and
// page_pool_snapshot.cpp. The rules that say which rows a step writes and which ones later steps need stand here, once.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "cache/page_list.h"
#include "fathom/core/memory.h"
#include "fathom/pool.h"

namespace fathom {

/// Most tokens of a sequence. It bounds the tables that a few bytes of a snapshot can ask for, and positions fit i32.
inline constexpr std::int64_t kMaxLength = kMaxTokens;

/// invalid_argument for a pool whose insides were moved into another; every public call begins with it.
inline Status check_pool(const char* call, const void* impl) noexcept {
  return impl != nullptr ? Status() : Status::invalid("%s: the pool was moved from", call);
}

inline constexpr int kWindow = PagePool::kWindow, kEntries = PagePool::kEntries, kIndexKeys = PagePool::kIndexKeys,
                     kState = PagePool::kState, kIndexState = PagePool::kIndexState, kNumCaches = PagePool::kNumCaches;
inline constexpr const char* kCacheNames[kNumCaches] = {"window", "entries", "index key", "state", "index state"};

/// Which rows of each cache a sequence of some length has, needs and writes. Window and state rows are numbered by
/// token position, entries and index keys by entry.
struct RowRules {
  std::int64_t window = 0;
  std::int64_t ratio = 0;     ///< compress_ratio
  std::int64_t rollback = 0;  ///< tokens that can always be taken back

  bool overlaps() const noexcept { return ratio == 4; }
  bool has(int kind) const noexcept {
    return kind == kWindow || (ratio > 0 && (kind == kEntries || kind == kState || overlaps()));
  }
  static bool is_state(int kind) noexcept { return kind == kState || kind == kIndexState; }
  /// Entries and index keys are kept as long as their sequence.
  static bool ages(int kind) noexcept { return kind == kWindow || is_state(kind); }

  /// Rows of a sequence of `length` tokens.
  std::int64_t rows(int kind, std::int64_t length) const noexcept { return ages(kind) ? length : length / ratio; }
  /// First row that a step at `length` reads: the window's, or the start of the group (with overlap: the group before
  /// it) that the next token belongs to. Equal to rows() where none is read.
  std::int64_t first_needed(int kind, std::int64_t length) const noexcept {
    std::int64_t first = 0;
    if (kind == kWindow) first = length - (window - 1);
    if (is_state(kind)) first = length - length % ratio - (overlaps() ? ratio : 0);
    return std::max<std::int64_t>(first, 0);
  }
  /// The same after `rollback` tokens may have been taken back.
  std::int64_t first_retained(int kind, std::int64_t length) const noexcept {
    return first_needed(kind, std::max<std::int64_t>(length - rollback, 0));
  }
  /// First row that a step from `before` to `after` tokens writes. Window rows are all written, since the step itself
  /// attends to them; of a long prefill's state rows only those that later steps can need.
  std::int64_t first_written(int kind, std::int64_t before, std::int64_t after) const noexcept {
    const std::int64_t next = rows(kind, before);
    return is_state(kind) ? std::max(next, first_retained(kind, after)) : next;
  }
  /// Most rows between first_retained and the end of a sequence.
  std::int64_t most_retained(int kind) const noexcept {
    return rollback + (kind == kWindow ? window - 1 : overlaps() ? 2 * ratio - 1 : ratio - 1);
  }
};

/// Where the rows of one cache of a sequence lie. Rows first_row .. rows() - 1 are there; older ones were released.
struct PageTable {
  std::vector<std::int32_t> pages;  ///< ceil(rows / page_size) page numbers; -1 = released
  std::int64_t first_row = 0;
};

struct Sequence {
  bool alive = false;
  std::int64_t length = 0;
  std::array<PageTable, kNumCaches> tables;
};

/// A page that begin_step put into a table.
struct PageChange {
  int kind;
  int sequence;
  std::int64_t block;
  std::int32_t old_page;  ///< -1, or the shared page it was copied from, still held until commit or abandon
};

/// Block tables of the sequences of a step, one cache's. The width never shrinks.
struct StepTables {
  std::int64_t width = 0;
  std::int64_t used = 0;            ///< columns that any step so far has filled; the others are -1
  std::vector<std::int32_t> pages;  ///< rows of `width`
};

/// The step that is open, and what its tokens are to the layers.
struct Step {
  bool is_open = false;
  std::vector<int> sequences;
  std::vector<std::int64_t> new_lengths;
  std::vector<PageChange> changes;
  std::vector<std::int32_t> positions, seq_ids, window_begin, window_end, num_visible;
  std::array<std::vector<std::int64_t>, kNumCaches> slots;
};

/// Most that the arrays of a Batch have room for.
struct BatchShape {
  std::int64_t num_tokens = 0, num_seqs = 0;
  std::array<std::int64_t, kNumCaches> widths{};  ///< of block tables
  bool operator==(const BatchShape&) const = default;
};

struct FATHOM_HIDDEN PagePool::Impl {
  LayerProblem problem;
  int num_layers = 1;
  RowRules rules;
  std::array<PageList, kNumCaches> lists;
  std::vector<Sequence> sequences;
  std::vector<int> free_numbers;  ///< of removed sequences; room for all numbers is reserved
  Step step;
  std::array<StepTables, kNumCaches> tables;
  std::int64_t sequence_tokens = 0;
  std::optional<Device> device;
  Stream stream;
  DeviceMemory batch_memory;  ///< CUDA: the step's arrays, laid out for batch_shape
  BatchShape batch_shape;

  /// invalid_argument unless `sequence` is alive; `call` starts the message.
  Status check_sequence(const char* call, int sequence) const noexcept;
  /// invalid_argument while a step is open.
  Status check_no_step(const char* call) const noexcept;
  /// invalid_argument unless every row that a step at `length` reads is still there.
  Status check_reachable(const char* call, int sequence, std::int64_t length) const noexcept;

  std::int64_t num_blocks(int kind, std::int64_t length) const noexcept {
    const std::int64_t page_size = lists[kind].page_size();
    return (rules.rows(kind, length) + page_size - 1) / page_size;
  }
  std::int64_t slot_of(int kind, const PageTable& table, std::int64_t row) const noexcept {
    return slot_through(table.pages.data(), static_cast<std::int64_t>(table.pages.size()), lists[kind].page_size(),
                        row);
  }
  /// Caches that layers of this kind have.
  int num_caches() const noexcept;
  /// Drops the pages of blocks [first, last) of a table.
  void release_blocks(int kind, PageTable& table, std::int64_t first, std::int64_t last) noexcept;
  /// Puts `sequence` into the table of sequences and returns its number. Throws bad_alloc before anything changes.
  int adopt(Sequence&& sequence);

  /// The arguments of begin_step.
  Status check_step(std::span<const int> chosen, std::span<const std::int64_t> counts) const;
  /// Blocks of one cache that growing a sequence to `new_length` puts new pages into, old_page filled in.
  std::vector<PageChange> changes_of(int kind, int sequence, std::int64_t new_length) const;
  /// Checks everything, allocates everything, then takes the pages: fails or throws only before the first change.
  Status open_step(std::span<const int> chosen, std::span<const std::int64_t> counts);
  /// Makes the tables wide and long enough for a step of sequences of these lengths. May throw bad_alloc.
  void make_room(std::span<const std::int64_t> new_lengths);
  /// Fills the open step's arrays by token, and its tables.
  void write_tokens() noexcept;
  void write_tables() noexcept;
  /// The open step's arrays in host memory.
  Batch host_batch() const noexcept;
  /// The same where the device reads them.
  Result<Batch> batch();
  /// The first thing that the device refused to do to any cache.
  Status trouble() const noexcept;

  /// Reads a snapshot's headers off `bytes` and checks them and the number of bytes left. Fills in the sequence's
  /// length and the first row of each cache.
  Status read_sections(std::span<const std::byte>& bytes, Sequence& restored) const noexcept;
  /// Takes the pages of sequence `number` and fills them with the snapshot's rows. May throw bad_alloc.
  Status fill_restored(int number, std::span<const std::byte> rows_left);
};

}  // namespace fathom
