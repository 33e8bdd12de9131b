// How index and select_topk are cut on CUDA: segments of a row that is selected from, rows of a chunk whose scores lie in
// scratch at a time, query tokens that share a tile of keys. Numbers from shapes and the device's limits alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/core/device.h"
#include "fathom/index.h"

namespace fathom {

/// A row is selected from by one block per segment; the best of the segments, where there are several, by the last to end.
struct SelectPolicy {
  static constexpr std::int64_t kMostRows = 1024;      ///< of a chunk, where rows have segments: each keeps counters
  static constexpr std::int64_t kMostSegments = 2048;
  static constexpr int kBins = 2048;                   ///< of ranks by their eleven top bits

  bool wide = false;          ///< blocks of 1024 threads instead of 256
  std::int64_t segment = 0;   ///< columns of a segment
  std::int64_t segments = 1;  ///< of a row of full width

  bool operator==(const SelectPolicy&) const = default;
  /// Columns that segments leave to the last block of their row, at most.
  constexpr std::int64_t candidates(std::int64_t topk) const noexcept { return segments > 1 ? segments * topk : 0; }
  /// Scratch of a row.
  constexpr std::int64_t row_bytes(std::int64_t topk) const noexcept { return segments > 1 ? segments * (topk * 8 + 4) : 0; }
};

constexpr SelectPolicy select_policy(std::int64_t columns, std::int64_t topk) noexcept {
  constexpr std::int64_t kNarrow = 2048, kWide = 8192;  // what the registers of a block hold
  SelectPolicy policy;
  policy.wide = columns > kNarrow;
  // A segment leaves topk of its columns, so it is worth its while only if it drops most of them.
  policy.segment = std::max(kWide, (4 * topk + kWide - 1) / kWide * kWide);
  policy.segments = std::max<std::int64_t>((columns + policy.segment - 1) / policy.segment, 1);
  return policy;
}

struct IndexPolicy {
  static constexpr std::int64_t kScratchBytes = std::int64_t{256} << 20;  ///< scores of a chunk and their selection, at most
  static constexpr std::int64_t kMostRows = 16384;                        ///< of a chunk: each block walks their lengths
  static constexpr int kTileKeys = 32;                                    ///< keys a warp scores at a time
  static constexpr int kScoreWarps = 4;                                   ///< of a scoring block

  SelectPolicy select;
  std::int64_t row_width = 0;     ///< ranks of a row of scratch: whole tiles
  std::int64_t rows = 1;          ///< query tokens of a chunk
  int tokens_per_block = 1;       ///< sm80: neighbouring tokens of one sequence that share key tiles: 1, 2 or 4
  std::int64_t score_blocks = 1;  ///< sm80: blocks that fill the device
  bool counts = false;            ///< sm80: scoring counts the rows of several segments, in shared memory first

  bool operator==(const IndexPolicy&) const = default;
};

/// Heads as the matrix products take them.
constexpr int padded_index_heads(int heads) noexcept { return (heads + 15) / 16 * 16; }
/// Shared memory of a query token in a scoring block: 128 bf16 and a weight for each head.
constexpr int index_query_bytes(int heads) noexcept { return padded_index_heads(heads) * (128 * 2 + 4); }

constexpr int score_shared_bytes(int heads, int tokens_per_block, bool counts) noexcept {
  return tokens_per_block * (index_query_bytes(heads) + (counts ? SelectPolicy::kBins * 4 : 0));
}

constexpr IndexPolicy index_policy(const IndexProblem& problem, const DeviceLimits& limits) noexcept {
  constexpr int kBlocksPerProcessor = 3, kReservedBytes = 1024;
  IndexPolicy policy;
  policy.select = select_policy(problem.max_entries, problem.topk);
  policy.row_width = std::max<std::int64_t>((problem.max_entries + IndexPolicy::kTileKeys - 1) / IndexPolicy::kTileKeys, 1) * IndexPolicy::kTileKeys;
  const std::int64_t row_bytes = policy.row_width * 4 + policy.select.row_bytes(problem.topk);
  const std::int64_t most = std::min<std::int64_t>(policy.select.segments > 1 ? SelectPolicy::kMostRows : IndexPolicy::kMostRows, std::max(problem.num_tokens, 1));
  policy.rows = std::clamp<std::int64_t>(IndexPolicy::kScratchBytes / row_bytes, 1, most);
  // Tokens of one sequence lie side by side where there are more tokens than sequences.
  const int tokens = problem.num_tokens >= 4 * std::int64_t{problem.num_seqs} ? 4 : problem.num_tokens > problem.num_seqs ? 2 : 1;
  // With four tokens there is work enough to hide a launch that counts, and their counts would take the room of a block.
  const auto counts = [&](int shared_tokens) { return policy.select.segments > 1 && shared_tokens < 4; };
  const auto blocks = [&](int shared_tokens) {
    return (limits.shared_bytes_per_block + kReservedBytes) /
           (score_shared_bytes(problem.index_heads, shared_tokens, counts(shared_tokens)) + kReservedBytes);
  };
  policy.tokens_per_block = tokens;
  while (policy.tokens_per_block > 1 && blocks(policy.tokens_per_block) < 2) policy.tokens_per_block /= 2;
  policy.counts = counts(policy.tokens_per_block);
  policy.score_blocks = std::int64_t{limits.num_multiprocessors} * std::clamp(blocks(policy.tokens_per_block), 1, kBlocksPerProcessor);
  return policy;
}

}  // namespace fathom
