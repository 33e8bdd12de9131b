// PagePool: pages, block tables and the step's bookkeeping for layers of one kind. A convenience: every op works on
// views, so an engine may bring its own block manager instead.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fathom/layer.h"

namespace fathom FATHOM_PUBLIC {

struct PagePoolOptions {
  int num_layers = 1;           ///< layers of this kind, at most 4096; they share page numbers, each has its own bytes
  std::int64_t window_pages = 0;   ///< pages of each cache; 0 for those the layer kind does not have
  std::int64_t entries_pages = 0;
  std::int64_t index_pages = 0;
  std::int64_t state_pages = 0;
  std::int64_t index_state_pages = 0;
  /// Tokens below the greatest length of a sequence that roll_back and fork can always undo; the rows this needs are kept.
  int rollback_tokens = 0;
  /// Tokens of a sequence that the batch's block tables have room for from the first step on; they widen for longer
  /// ones.
  std::int64_t sequence_tokens = 0;
  std::uint64_t page_order_seed = 0;  ///< 0: pages are handed out in order; otherwise in a seeded random order
  /// CUDA: all the pool does on the device is ordered on this stream; run the layers on it too.
  Stream stream = {};
};

/// Pages that `tokens` tokens in each of `sequences` sequences (forks included) need, with `rollback_tokens` kept, in
/// steps of at most problem.num_tokens tokens. Block tables get room for `tokens`.
Result<PagePoolOptions> pool_options_for(const LayerProblem& problem, std::int64_t sequences, std::int64_t tokens,
                                         int rollback_tokens = 0) noexcept;

/// Sequences are numbered by the pool. Every call either does all it says or, with resource_exhausted or
/// invalid_argument, changes nothing. A pool that was moved from refuses every call and shows nothing. Not thread-safe.
class PagePool {
 public:
  /// The caches of a layer, as num_free_pages and block_table number them.
  enum Cache : int { kWindow, kEntries, kIndexKeys, kState, kIndexState, kNumCaches };

  /// `problem` gives the layer kind, the formats and the page sizes. Pages and the step's Batch lie on `device`.
  static Result<PagePool> create(const LayerProblem& problem, const PagePoolOptions& options, const Device& device) noexcept;
  /// The same in host memory.
  static Result<PagePool> create(const LayerProblem& problem, const PagePoolOptions& options) noexcept;
  PagePool(PagePool&&) noexcept;
  PagePool& operator=(PagePool&&) noexcept;
  ~PagePool();

  /// A new, empty sequence.
  Result<int> add_sequence() noexcept;
  /// Frees a sequence's pages; its number may be handed out again.
  Status remove_sequence(int sequence) noexcept;
  /// Tokens of the sequence so far.
  Result<std::int64_t> length(int sequence) const noexcept;
  std::int64_t num_free_pages(int cache) const noexcept;  ///< cache: one of Cache

  /// Makes room for `counts[i]` further tokens of `sequences[i]`, all or nothing, copies shared pages that will be
  /// written, and returns the bookkeeping of the step in that order, valid until the next call. Run the layers, then
  /// call commit. Block tables have one width. On CUDA the arrays keep their addresses too, so that a captured graph
  /// may be replayed for every step of no more tokens and sequences than it was captured for: what a smaller step
  /// leaves over is padded with -1. Both hold while steps stay within problem.num_tokens and num_seqs, and sequences
  /// within sequence_tokens (or within the largest so far); what is larger makes all arrays anew.
  Result<Batch> begin_step(std::span<const int> sequences, std::span<const std::int64_t> counts) noexcept;
  /// The step's tokens now belong to their sequences; rows that no later step can need are freed.
  Status commit() noexcept;
  /// Forgets a step that was begun and not committed.
  void abandon() noexcept;

  /// Takes back the last `tokens` tokens, as if they had never been there. Further back than rollback_tokens this works
  /// wherever the rows that the next step needs are still there; otherwise the status says which were released.
  Status roll_back(int sequence, std::int64_t tokens) noexcept;
  /// A new sequence that shares the first `tokens` tokens. Pages are shared until one side writes.
  Result<int> fork(int sequence, std::int64_t tokens) noexcept;

  /// Everything later steps of the sequence need, as bytes that restore() takes back, here or in another pool of equal
  /// formats, sizes and number of layers; page sizes may differ. restore() trusts none of the bytes.
  Result<std::vector<std::byte>> snapshot(int sequence) const noexcept;
  Result<int> restore(std::span<const std::byte> snapshot) noexcept;

  /// The caches of layer `layer` of this pool.
  LayerCaches caches(int layer) const noexcept;
  /// Block table row of a sequence, for reading caches back.
  Result<std::vector<std::int32_t>> block_table(int sequence, int cache) const noexcept;
  const LayerProblem& problem() const noexcept;

 private:
  struct Impl;
  FATHOM_HIDDEN explicit PagePool(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
