// What the CPU implementations of attend share: how the rows of a query are listed, and how queries meet threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "attend/row_walk.h"
#include "cache/row_bytes.h"
#include "core/implementation.h"
#include "core/parallel.h"
#include "core/scratch.h"

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

/// Rows whose logits are kept: as many as a query may have, up to a bound. Beyond it the softmax is carried from one
/// span of rows to the next.
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
void list_rows(const AttendSets& sets, const AttendArgs& args, std::int64_t t, std::int64_t span, std::int64_t room,
               RowSpan& listed, RowBytes* rows) noexcept;

/// What the blocks of a query's span leave of its softmax. Heads are padded to whole vectors.
struct SoftmaxBlocks {
  float* most;     ///< [blocks, heads]: largest logit of a block
  float* total;    ///< [blocks, heads]: sum of its weights
  float* carried;  ///< [2, 2, heads]: most and total of the spans before, by the span's parity
};
/// The softmax up to the end of a span, as one thread worked it out; each does for itself.
struct SettledSoftmax {
  float* most;    ///< [heads]: largest logit
  float* total;   ///< [heads]: sum of weights
  float* factor;  ///< [heads]: what sums of the spans before are worth
  float* share;   ///< [heads]: 1 / (total + exp(sink - most)); 0 where nothing is left of the values, whatever they are
  std::int64_t* which;  ///< the query's span that the rest is of; -1 at first
};

/// The rules of the softmax that both ways of computing it keep: largest logits first, then weights relative to them,
/// sums over blocks in order.
class AttendSoftmax {
 public:
  AttendSoftmax(const AttendProblem& problem, std::int64_t padded_heads) noexcept
      : num_heads_(problem.num_heads), heads_(padded_heads) {}

  void lay_out(Scratch& scratch, std::int64_t threads, std::int64_t blocks) noexcept;
  SoftmaxBlocks blocks_of(int slot) const noexcept;
  SettledSoftmax settled_of(int part) const noexcept;
  /// Before a run: nothing is settled.
  void begin() const noexcept { std::fill_n(settled_.which, threads_, std::int64_t{-1}); }

  /// What weights of span number `span`, of `blocks` blocks, are relative to, for each head; in settled.most.
  void find_base(const SoftmaxBlocks& query, std::int64_t span, std::int64_t blocks,
                 const SettledSoftmax& settled) const noexcept;
  /// Fills in `settled`, once for all pieces of the span that the thread works on.
  void settle(const AttendArgs& args, const SoftmaxBlocks& query, std::int64_t t, std::int64_t span,
              std::int64_t blocks, const SettledSoftmax& settled) const noexcept;
  /// Keeps what the next span starts from; one thread does.
  void carry(const SoftmaxBlocks& query, std::int64_t span, const SettledSoftmax& settled) const noexcept;
  /// lse and max_logits.
  void store(const AttendArgs& args, std::int64_t t, bool seen, const SettledSoftmax& settled) const noexcept;

 private:
  void find_most(const SoftmaxBlocks& query, std::int64_t span, std::int64_t blocks, float* most) const noexcept;
  const float* carried(const SoftmaxBlocks& query, std::int64_t span) const noexcept {
    return query.carried + span % 2 * 2 * heads_;
  }

  std::int64_t num_heads_, heads_, threads_ = 0, blocks_ = 0;
  SoftmaxBlocks query_{};     ///< of slot 0; the others follow
  SettledSoftmax settled_{};  ///< of thread 0
};

/// Pieces of the work on one query that threads may share.
struct AttendItems {
  std::int64_t t;
  int slot;  ///< of the query's scratch
  int part;  ///< the thread
  int stage;
  std::int64_t span;
  std::int64_t first, last;  ///< items [first, last) of the stage
};

/// Calls work(AttendItems) for every query, for each of its spans and stages in this order. Each thread takes whole
/// queries while there is one for every thread; what is left is shared by all, item by item, so that few queries keep
/// all threads busy. An item must not compute other bits one way than the other: neither the number of threads nor that
/// of queries shows. Stage 0 lists the rows; after the first span it has one item. last_span(slot) is the query's
/// RowSpan::last.
template <class Work, class LastSpan>
void share_queries(const Device& device, std::int64_t num_tokens, std::span<const std::int64_t> items, Work&& work,
                   LastSpan&& last_span) {
  const auto items_of = [&](int stage, std::int64_t span) {
    return stage == 0 && span > 0 ? std::int64_t{1} : items[stage];
  };
  const int stages = static_cast<int>(items.size());
  const std::int64_t whole = num_tokens - num_tokens % device.num_threads(), rest = num_tokens - whole;
  parallel_for(device, whole, 1, [&](std::int64_t begin, std::int64_t end, int part) {
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::int64_t span = 0; span == 0 || span <= last_span(part); ++span) {
        for (int stage = 0; stage < stages; ++stage)
          work(AttendItems{t, part, part, stage, span, 0, items_of(stage, span)});
      }
    }
  });
  bool done = rest == 0;
  for (std::int64_t span = 0; !done; ++span) {
    for (int stage = 0; stage < stages; ++stage) {
      const std::int64_t each = items_of(stage, span);
      parallel_for(device, rest * each, 1, [&](std::int64_t begin, std::int64_t end, int part) {
        while (begin < end) {
          const int slot = static_cast<int>(begin / each);
          const std::int64_t first = begin % each, count = std::min(each - first, end - begin);
          if (span == 0 || span <= last_span(slot))
            work(AttendItems{whole + slot, slot, part, stage, span, first, first + count});
          begin += count;
        }
      });
    }
    done = true;
    for (int slot = 0; slot < rest; ++slot) done &= last_span(slot) <= span;
  }
}

}  // namespace fathom
