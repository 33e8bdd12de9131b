// How attend's CUDA kernels are cut: heads of a block, splits of a query's rows. Numbers from the problem and the
// device's limits alone, so that they can be read, compared and tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/attend.h"

namespace fathom {

/// Splits of queries into parts that a last block merges: the rules both kernels share.
struct AttendSplits {
  int heads_per_block = 64;
  std::int64_t target_blocks = 0;  ///< splits are made until there are as many blocks
  int most_splits = 1;

  bool operator==(const AttendSplits&) const = default;

  constexpr std::int64_t head_blocks(int num_heads) const noexcept { return (num_heads + heads_per_block - 1) / heads_per_block; }
  /// Parts that the rows of each of `num_tokens` queries are cut into.
  constexpr int splits(std::int64_t num_tokens, int num_heads) const noexcept {
    const std::int64_t units = std::max<std::int64_t>(num_tokens * head_blocks(num_heads), 1);
    return static_cast<int>(std::clamp<std::int64_t>(target_blocks / units, 1, most_splits));
  }
  /// Most (query, head block, split) parts that any number of tokens up to `num_tokens` leaves to be merged.
  constexpr std::int64_t most_parts(std::int64_t num_tokens, int num_heads) const noexcept {
    if (most_splits == 1) return 0;
    return std::min(num_tokens * head_blocks(num_heads) * most_splits, target_blocks);
  }
  /// Queries and head blocks that may be split.
  constexpr std::int64_t most_split_units(std::int64_t num_tokens, int num_heads) const noexcept {
    return most_splits == 1 ? 0 : std::min(num_tokens * head_blocks(num_heads), target_blocks / 2);
  }
};

/// mma.sync, sm_80 and later: 16 or 32 heads a block, blocks that fill the device twice.
struct AttendSm80Policy : AttendSplits {
  static constexpr int kTileRows = 32;  ///< rows of a step of the kernel
  bool operator==(const AttendSm80Policy&) const = default;
};

/// wgmma, sm_90: 64 heads a block, a block for each multiprocessor. The blocks of a split query are clusters, which merge
/// within themselves.
struct AttendSm90Policy {
  static constexpr int kHeads = 64, kTileRows = 32;
  static constexpr int kMostCluster = 8;  ///< blocks; more are not portable
  int num_multiprocessors = 1;
  int most_splits = 1;

  bool operator==(const AttendSm90Policy&) const = default;

  constexpr std::int64_t head_blocks(int num_heads) const noexcept { return (num_heads + kHeads - 1) / kHeads; }
  /// Blocks that share the rows of each of `num_tokens` queries: a cluster, or several whole ones.
  constexpr int splits(std::int64_t num_tokens, int num_heads) const noexcept {
    const std::int64_t units = std::max<std::int64_t>(num_tokens * head_blocks(num_heads), 1);
    const int splits = static_cast<int>(std::clamp<std::int64_t>(num_multiprocessors / units, 1, most_splits));
    return splits <= kMostCluster ? splits : splits / kMostCluster * kMostCluster;
  }
  /// Most parts that clusters of any number of queries leave in memory, and most counters they meet at.
  constexpr std::int64_t most_parts() const noexcept { return most_splits <= kMostCluster ? 0 : num_multiprocessors / kMostCluster; }
  constexpr std::int64_t most_counters() const noexcept { return most_splits <= kMostCluster ? 0 : num_multiprocessors; }
};

/// Which of the two a Hopper takes. Measured on an H100 (docs/design/0013): with 64 heads mma.sync is quicker for one query
/// (16 against 29 us), wgmma from eight on (34 against 36 us).
constexpr bool is_small_for_sm90(std::int64_t num_tokens, int num_heads) noexcept { return num_tokens * num_heads < 512; }

/// Most rows of a query, in steps of `step`.
constexpr std::int64_t attend_steps(const AttendProblem& problem, int step) noexcept {
  const std::int64_t rows = (problem.window_rows == RowsBy::none ? 0 : problem.window_width) +
                            std::int64_t{problem.entries_rows == RowsBy::none ? 0 : problem.entries_width};
  return (rows + step - 1) / step;
}
constexpr int kMostAttendSplits = 32;  ///< parts in memory: a lane for each in the merge

constexpr AttendSm80Policy attend_sm80_policy(const AttendProblem& problem, const DeviceLimits& limits) noexcept {
  constexpr int kLeastTilesOfSplit = 2;  // below it a split costs more in merging than it saves
  AttendSm80Policy policy;
  const std::int64_t tiles = attend_steps(problem, AttendSm80Policy::kTileRows);
  // Few queries: smaller blocks, so that more multiprocessors share them.
  const bool few = std::int64_t{problem.num_tokens} * problem.num_heads * tiles < std::int64_t{64} * 20 * limits.num_multiprocessors / 32;
  policy.heads_per_block = problem.num_heads <= 16 || few ? 16 : 32;
  policy.target_blocks = std::int64_t{2} * limits.num_multiprocessors;
  policy.most_splits = static_cast<int>(std::clamp<std::int64_t>(tiles / kLeastTilesOfSplit, 1, kMostAttendSplits));
  return policy;
}

constexpr AttendSm90Policy attend_sm90_policy(const AttendProblem& problem, const DeviceLimits& limits) noexcept {
  const std::int64_t tiles = attend_steps(problem, AttendSm90Policy::kTileRows);
  const std::int64_t most = std::int64_t{kMostAttendSplits} * AttendSm90Policy::kMostCluster;
  return {limits.num_multiprocessors, static_cast<int>(std::clamp<std::int64_t>(tiles, 1, most))};
}

}  // namespace fathom
