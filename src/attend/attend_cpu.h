// What the CPU implementations of attend share: how the rows of a query are listed, and how queries meet threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "attend/row_walk.h"
#include "cache/row_bytes.h"
#include "core/implementation.h"
#include "core/parallel.h"

namespace fathom {

/// The two sets with their caches.
struct AttendSets {
  RowSetProblem problems[2];
  const RowSet* sets[2];
  PagedCacheView caches[2];
};

inline Result<AttendSets> open_sets(const AttendProblem& problem, const AttendArgs& args) noexcept {
  AttendSets sets{{window_set(problem), entries_set(problem)}, {&args.window, &args.entries}, {}};
  FATHOM_TRY(open_caches(problem, args, sets.caches));
  return sets;
}

/// Rows whose logits are kept: as many as a query may have, up to a bound. Beyond it the softmax is carried from one span
/// of rows to the next.
inline constexpr std::int64_t kMostSpan = 4096;
constexpr std::int64_t span_of(const AttendProblem& problem) noexcept {
  const std::int64_t window = problem.window_rows == RowsBy::none ? 0 : problem.window_width;
  const std::int64_t entries = problem.entries_rows == RowsBy::none ? 0 : problem.entries_width;
  return std::min(window + entries, kMostSpan);
}

/// A span of a query's present rows, those of the window first.
struct RowSpan {
  std::int64_t count, from_window;  ///< rows, and how many of them are the window's
  std::int64_t set, next;           ///< where the next span begins: in which set, with which of its rows
  std::int64_t last;                ///< number of the query's last span, once that is known
  bool seen;                        ///< a row of this span or of an earlier one
};

/// Lists rows of query t for its span number `span`, up to `room` of them.
void list_rows(const AttendSets& sets, const AttendArgs& args, std::int64_t t, std::int64_t span, std::int64_t room, RowSpan& listed,
               RowBytes* rows) noexcept;

/// Work on one query that threads may share: which query in whose scratch, and which piece of it.
struct AttendItem {
  std::int64_t t;
  int slot;  ///< of the query's scratch
  int part;  ///< the thread
  int stage;
  std::int64_t span, item;
};

/// Runs work(AttendItem) for every query, for each of its spans, stages and items, in this order. Each thread takes whole
/// queries while there is one for every thread; what is left is shared by all, item by item, so that few queries keep all
/// threads busy. An item must not compute other bits one way than the other: neither the number of threads nor that of
/// queries shows. Stage 0 lists the rows; after the first span it has one item. last(slot) is the query's RowSpan::last.
template <class Items, class Work, class Last>
void share_queries(const Device& device, std::int64_t num_tokens, int stages, Items&& items, Work&& work, Last&& last) {
  const auto items_of = [&](int stage, std::int64_t span) { return stage == 0 && span > 0 ? std::int64_t{1} : items(stage); };
  const std::int64_t whole = num_tokens - num_tokens % device.num_threads(), rest = num_tokens - whole;
  parallel_for(device, whole, 1, [&](std::int64_t begin, std::int64_t end, int part) {
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::int64_t span = 0; span == 0 || span <= last(part); ++span) {
        for (int stage = 0; stage < stages; ++stage) {
          for (std::int64_t item = 0; item < items_of(stage, span); ++item) work(AttendItem{t, part, part, stage, span, item});
        }
      }
    }
  });
  bool done = rest == 0;
  for (std::int64_t span = 0; !done; ++span) {
    for (int stage = 0; stage < stages; ++stage) {
      const std::int64_t each = items_of(stage, span);
      parallel_for(device, rest * each, 1, [&](std::int64_t begin, std::int64_t end, int part) {
        for (std::int64_t i = begin; i < end; ++i) {
          const int slot = static_cast<int>(i / each);
          if (span == 0 || span <= last(slot)) work(AttendItem{whole + slot, slot, part, stage, span, i % each});
        }
      });
    }
    done = true;
    for (int slot = 0; slot < rest; ++slot) done &= last(slot) <= span;
  }
}

}  // namespace fathom
