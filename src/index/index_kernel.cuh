// Pieces of index that its CUDA implementations share: what a token sees, where a key lies, the scores of a chunk of tokens
// as ranks in scratch, and the selection from them.
#pragma once

#include <bit>

#include "cache/number_codecs.h"
#include "index/index_policy.h"
#include "index/select_kernel.cuh"

namespace fathom {

/// What every kernel of a run gets, by value.
struct IndexRun {
  IndexProblem problem;
  IndexArgs args;
  PagedCacheView cache;
  // Page sizes as powers of two, or -1: divisions are dear beside a key's products.
  int page_shift = -1, entries_page_shift = -1;

  /// What token t sees: its sequence, or -1, and the entries of that.
  struct Sight {
    std::int32_t seq, visible;
  };
  __device__ Sight sight(std::int64_t t) const {
    const std::int32_t position = args.positions.at<const std::int32_t>(t), seq = args.seq_ids.at<const std::int32_t>(t);
    const bool is_known = seq >= 0 && seq < args.block_table.shape[0];
    const std::uint32_t entries = (static_cast<std::uint32_t>(position) + 1) / static_cast<std::uint32_t>(problem.compress_ratio);
    const auto visible = static_cast<std::int32_t>(min(entries, static_cast<std::uint32_t>(problem.max_entries)));
    return {is_known ? seq : -1, is_known && position >= 0 ? visible : 0};
  }
  __device__ std::int32_t visible(std::int64_t t) const { return sight(t).visible; }
  /// Those of `visible` entries whose scores matter: where all are picked nobody needs them, unless they are asked for.
  __device__ std::int32_t scored(std::int32_t visible) const { return visible <= problem.topk && args.scores.is_absent() ? 0 : visible; }

  /// Page of key `entry` of a sequence as its block table names it, and its row there. Whether the cache holds the page is
  /// asked apart, so that a kernel can have the table's answer on its way while it does other things.
  struct Place {
    std::int32_t page, row;
  };
  __device__ bool holds(const Place& place) const { return place.page >= 0 && place.page < cache.num_pages; }
  __device__ Place place(std::int32_t seq, std::uint32_t entry) const {
    const auto page_size = static_cast<std::uint32_t>(problem.page_size);
    const std::uint32_t at = page_shift >= 0 ? entry >> page_shift : entry / page_size;
    const auto row = static_cast<std::int32_t>(entry - at * page_size);
    if (at >= args.block_table.shape[1]) return {-1, row};
    return {args.block_table.row<const std::int32_t>(seq)[at], row};
  }
};

/// Ranks of the scores of tokens [first, first + rows): 0 where there is no key.
struct RankRows {
  std::uint32_t* ranks;
  std::int64_t width, first;

  __device__ std::uint32_t* row(std::int64_t i) const { return ranks + i * width; }
};

/// The scores of a chunk as rows to select from.
struct IndexRows {
  IndexRun run;
  RankRows rows;

  struct Row {
    std::int64_t count;
    const IndexRun* run;
    const std::uint32_t* ranks;  ///< null where all that are there are picked
    std::int32_t seq;
    std::int32_t *entries, *slots;  ///< outputs; null where nobody asked
    const std::int32_t* table;      ///< of the entries' pages; null for a sequence that it has not

    __device__ void load(std::int64_t first, std::int64_t end, std::uint32_t (&out)[select::kPerThread]) const {
      static_assert(select::kPerThread == 8);
      if (ranks == nullptr) {
        for (int k = 0; k < 8; ++k) {
          if (first + k < end) out[k] = run->holds(run->place(seq, static_cast<std::uint32_t>(first + k))) ? 1 : 0;
        }
      } else if (first < end) {  // rows are whole tiles: what lies past the end may be read, and is dropped
        const auto* from = reinterpret_cast<const uint4*>(ranks + first);
        const uint4 a = __ldcg(from), b = __ldcg(from + 1);
        const std::uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        for (int k = 0; k < 8; ++k) out[k] = first + k < end ? words[k] : 0;
      }
    }
    __device__ void store(std::int64_t place, std::int32_t entry) const {
      if (entries != nullptr) entries[place] = entry;
      if (slots == nullptr) return;
      std::int64_t slot = -1;
      if (entry >= 0 && table != nullptr) {
        const auto page_size = static_cast<std::uint32_t>(run->problem.entries_page_size);
        const std::uint32_t at = run->entries_page_shift >= 0 ? static_cast<std::uint32_t>(entry) >> run->entries_page_shift
                                                              : static_cast<std::uint32_t>(entry) / page_size;
        const std::int64_t page = at < run->args.entries_block_table.shape[1] ? table[at] : -1;
        slot = page < 0 ? -1 : page * page_size + (static_cast<std::uint32_t>(entry) - at * page_size);
      }
      slots[place] = slot <= INT32_MAX ? static_cast<std::int32_t>(slot) : -1;
    }
  };
  __device__ Row open(std::int64_t i) const {
    const std::int64_t t = rows.first + i;
    const IndexRun::Sight sight = run.sight(t);
    const IndexArgs& args = run.args;
    const bool has_table = !args.topk_indices.is_absent() && sight.seq >= 0 && sight.seq < args.entries_block_table.shape[0];
    return {sight.visible,
            &run,
            run.scored(sight.visible) == 0 ? nullptr : rows.row(i),
            sight.seq,
            args.topk_entries.is_absent() ? nullptr : args.topk_entries.row<std::int32_t>(t),
            args.topk_indices.is_absent() ? nullptr : args.topk_indices.row<std::int32_t>(t),
            has_table ? args.entries_block_table.row<const std::int32_t>(sight.seq) : nullptr};
  }
};

/// Scratch and counters of a run.
struct IndexPieces {
  std::uint32_t* ranks;  ///< [rows of a chunk, row_width]
  Candidates candidates;
};

inline IndexPieces lay_out(const IndexProblem& problem, const IndexPolicy& policy, Scratch& scratch, Scratch& counters) {
  IndexPieces pieces;
  pieces.ranks = scratch.take<std::uint32_t>(policy.rows * policy.row_width);
  pieces.candidates = take_candidates(policy.select, policy.rows, problem.topk, scratch, counters);
  return pieces;
}

/// Whether launches may begin early (index_select.cu); what a run gets back as its state.
Result<bool> index_begins_early(const Device& device) noexcept;

inline Result<Prepared> index_workspace(const IndexProblem& problem, const Device& device) {
  Scratch scratch, counters;
  lay_out(problem, index_policy(problem, device.limits()), scratch, counters);
  FATHOM_ASSIGN(const bool early, index_begins_early(device));
  return Prepared{{.scratch = scratch.used(), .counters = counters.used()}, std::make_shared<const bool>(early)};
}

inline Result<IndexRun> open_index_run(const IndexProblem& problem, const IndexArgs& args) {
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.format, problem.index_dim));
  FATHOM_ASSIGN(const PagedCacheView cache, paged_cache("index", "index_cache", args.index_cache, layout, problem.page_size));
  const auto shift = [](std::uint32_t page_size) { return std::has_single_bit(page_size) ? std::countr_zero(page_size) : -1; };
  return IndexRun{problem, args, cache, shift(problem.page_size), shift(problem.entries_page_size)};
}

/// Fills what no score is written to (index_select.cu).
Status fill_unseen_scores(const IndexRun& run, const RunContext& context);
/// Picks of tokens [rows.first, rows.first + count) from their ranks, which the launch in front writes; it may have counted
/// them too (index_select.cu).
Status select_entries(const IndexRun& run, const RankRows& rows, std::int64_t count, const IndexPolicy& policy, const Candidates& candidates,
                      bool is_counted, const RunContext& context);

/// A run, chunk by chunk: `score(run, rows, count, policy, bins)` launches what fills the ranks of `count` tokens (and counts
/// them into `bins` where `is_counted`), and the best are picked from them.
template <class Score>
Status run_index_chunks(const IndexProblem& problem, const IndexArgs& args, const RunContext& context, bool is_counted, const Score& score) {
  const IndexPolicy policy = index_policy(problem, context.device.limits());
  Scratch scratch(context.workspace.scratch), counters(context.workspace.counters);
  const IndexPieces pieces = lay_out(problem, policy, scratch, counters);
  FATHOM_ASSIGN(const IndexRun run, open_index_run(problem, args));
  FATHOM_TRY(fill_unseen_scores(run, context));
  const std::int64_t num_tokens = args.q.shape[0];
  for (std::int64_t first = 0; first < num_tokens; first += policy.rows) {
    const std::int64_t count = std::min(policy.rows, num_tokens - first);
    const RankRows rows{pieces.ranks, policy.row_width, first};
    FATHOM_TRY(score(run, rows, count, policy, pieces.candidates.bins));
    FATHOM_TRY(select_entries(run, rows, count, policy, pieces.candidates, is_counted, context));
  }
  return {};
}

}  // namespace fathom
