// What the CPU implementations of index share: visible entries go by in blocks, whose scores meet the running picks
// while they are in L1. A Scorer computes them:
//   void load(args, t, part) const                               takes query t for the thread `part`
//   void score(layout, rows, count, part, float* scores) const   scores of up to RunningPicks::kBlock keys
#pragma once

#include <limits>

#include "cache/row_bytes.h"
#include "core/implementation.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "fathom/index.h"
#include "index/running_picks_cpu.h"

namespace fathom {

/// Entries that query t may see, by position alone.
inline std::int64_t visible_entries(const IndexProblem& problem, const IndexArgs& args, std::int64_t t) noexcept {
  const std::int64_t position = args.positions.at<std::int32_t>(t), seq = args.seq_ids.at<std::int32_t>(t);
  if (position < 0 || seq < 0 || seq >= args.block_table.shape[0]) return 0;
  return std::min<std::int64_t>((position + 1) / problem.compress_ratio, problem.max_entries);
}

/// Head h of index query t, dequantised.
void load_index_query(const IndexArgs& args, std::int64_t t, std::int64_t h, int dim, float* row) noexcept;

/// The slots of query t's picked entries, which stand in `picks`.
void store_slots(const IndexProblem& problem, const IndexArgs& args, std::int64_t t,
                 const std::int32_t* picks) noexcept;

/// Present entries of a sequence among [next, last), up to `room`: where they lie and their numbers. Moves `next` on.
std::int64_t list_entries(const IndexArgs& args, const PagedCacheView& cache, std::int64_t seq, std::int64_t& next,
                          std::int64_t last, std::int64_t room, RowBytes* rows, std::int32_t* entries) noexcept;

template <class Scorer, class Above>
class IndexRun {
 public:
  IndexRun(const IndexProblem& problem, const Device& device, Scratch& scratch, const Scorer& scorer, Above above)
      : problem_(problem), device_(device), scorer_(scorer), above_(above) {
    const std::int64_t threads = device.num_threads();
    rows_ = scratch.take<RowBytes>(threads * kBlock);
    entries_ = scratch.take<std::int32_t>(threads * kBlock);
    scores_ = scratch.take<float>(threads * kBlock);
    keys_ = scratch.take<std::uint64_t>(threads * RunningPicks::room(problem.topk));
    words_ = scratch.take<std::uint64_t>(threads * set_words(problem.max_entries));
    picks_ = scratch.take<std::int32_t>(threads * problem.topk);
    piece_keys_ = scratch.take<std::uint64_t>(2 * threads * problem.topk);
    piece_counts_ = scratch.take<std::int64_t>(2 * threads);
  }

  /// Each thread takes whole queries while there is one for every thread. What is left is cut into pieces of its
  /// entries; the best of all pieces' best are the query's, whatever the pieces.
  Status run(const IndexArgs& args) {
    FATHOM_ASSIGN(const RowLayout layout, row_layout(problem_.format, problem_.index_dim));
    FATHOM_ASSIGN(const PagedCacheView cache,
                  paged_cache("index", "index_cache", args.index_cache, layout, problem_.page_size));
    const std::int64_t threads = device_.num_threads(), num_tokens = args.q.shape[0];
    const std::int64_t whole = num_tokens - num_tokens % threads, rest = num_tokens - whole;
    parallel_for(device_, whole, 1, [&](std::int64_t begin, std::int64_t end, int part) {
      for (std::int64_t t = begin; t < end; ++t) {
        std::uint64_t* keys = keys_ + part * RunningPicks::room(problem_.topk);
        emit(args, t, part, keys, pick(args, cache, t, 0, 1, part, keys));
      }
    });
    if (rest == 0) return {};
    const std::int64_t pieces = (threads + rest - 1) / rest;
    parallel_for(device_, rest * pieces, 1, [&](std::int64_t begin, std::int64_t end, int part) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::uint64_t* keys = keys_ + part * RunningPicks::room(problem_.topk);
        piece_counts_[i] = pick(args, cache, whole + i / pieces, i % pieces, pieces, part, keys);
        std::copy_n(keys, piece_counts_[i], piece_keys_ + i * problem_.topk);
      }
    });
    parallel_for(device_, rest, 1, [&](std::int64_t begin, std::int64_t end, int part) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::uint64_t* keys = piece_keys_ + i * pieces * problem_.topk;
        std::int64_t count = 0;
        for (std::int64_t piece = 0; piece < pieces; ++piece) {
          const std::int64_t its = piece_counts_[i * pieces + piece];
          std::copy_n(keys + piece * problem_.topk, its, keys + count);
          count += its;
        }
        emit(args, whole + i, part, keys, keep_best(keys, count, problem_.topk));
      }
    });
    return {};
  }

 private:
  static constexpr std::int64_t kBlock = RunningPicks::kBlock;

  /// The best of piece number `piece` of `pieces` of query t's entries, into `keys`.
  std::int64_t pick(const IndexArgs& args, const PagedCacheView& cache, std::int64_t t, std::int64_t piece,
                    std::int64_t pieces, int part, std::uint64_t* keys) {
    const std::int64_t visible = visible_entries(problem_, args, t), last = visible * (piece + 1) / pieces;
    std::int64_t next = visible * piece / pieces;
    float* all = args.scores.is_absent() ? nullptr : args.scores.row<float>(t);
    const std::int64_t width = all == nullptr ? 0 : args.scores.shape[1],
                       fill_end = piece + 1 == pieces ? width : std::min(last, width);
    if (next < fill_end) std::fill(all + next, all + fill_end, -std::numeric_limits<float>::infinity());

    RunningPicks picks(keys, problem_.topk);
    if (next < last) scorer_.load(args, t, part);
    RowBytes* rows = rows_ + part * kBlock;
    std::int32_t* entries = entries_ + part * kBlock;
    float* scores = scores_ + part * kBlock;
    while (next < last) {
      const std::int64_t count =
          list_entries(args, cache, args.seq_ids.at<std::int32_t>(t), next, last, kBlock, rows, entries);
      scorer_.score(cache.layout, rows, count, part, scores);
      picks.take(above_, scores, count, 0, entries);
      for (std::int64_t j = 0; j < count && entries[j] < width; ++j) all[entries[j]] = scores[j];
    }
    return picks.finish();
  }

  void emit(const IndexArgs& args, std::int64_t t, int part, const std::uint64_t* keys, std::int64_t count) {
    std::int32_t* picks = args.topk_entries.is_absent() ? picks_ + part * std::int64_t{problem_.topk}
                                                        : args.topk_entries.row<std::int32_t>(t);
    emit_ascending(keys, count, visible_entries(problem_, args, t), words_ + part * set_words(problem_.max_entries),
                   problem_.topk, picks);
    if (!args.topk_indices.is_absent()) store_slots(problem_, args, t, picks);
  }

  const IndexProblem& problem_;
  const Device& device_;
  const Scorer& scorer_;
  Above above_;
  RowBytes* rows_;              ///< [threads, kBlock]
  std::int32_t* entries_;       ///< [threads, kBlock]
  float* scores_;               ///< [threads, kBlock]
  std::uint64_t* keys_;         ///< [threads, room]
  std::uint64_t* words_;        ///< [threads, set_words]
  std::int32_t* picks_;         ///< [threads, topk]
  std::uint64_t* piece_keys_;   ///< [2 threads, topk]: fewer pieces than twice the threads
  std::int64_t* piece_counts_;  ///< [2 threads]
};

}  // namespace fathom
