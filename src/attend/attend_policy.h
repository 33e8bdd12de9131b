// How the mma.sync kernel of attend is cut: heads of a block, splits of a query's rows. Numbers from the problem and the
// device's limits alone, so that they can be read, compared and tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/attend.h"

namespace fathom {

struct AttendSm80Policy {
  static constexpr int kTileRows = 32;  ///< rows of a step of the kernel

  int heads_per_block = 32;       ///< 16 or 32: rows of the matrix products
  std::int64_t target_blocks = 0;  ///< blocks that fill the device twice; splits are made until there are as many
  int most_splits = 1;

  bool operator==(const AttendSm80Policy&) const = default;

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

constexpr std::int64_t attend_tiles(const AttendProblem& problem) noexcept {
  const std::int64_t rows = (problem.window_rows == RowsBy::none ? 0 : problem.window_width) +
                            std::int64_t{problem.entries_rows == RowsBy::none ? 0 : problem.entries_width};
  return (rows + AttendSm80Policy::kTileRows - 1) / AttendSm80Policy::kTileRows;
}

constexpr AttendSm80Policy attend_sm80_policy(const AttendProblem& problem, const DeviceLimits& limits) noexcept {
  constexpr int kLeastTilesOfSplit = 2;  // below it a split costs more in merging than it saves
  constexpr int kMostSplits = 32;  // a lane for each in the merge
  AttendSm80Policy policy;
  const std::int64_t tiles = attend_tiles(problem);
  // Few queries: smaller blocks, so that more multiprocessors share them.
  const bool few = std::int64_t{problem.num_tokens} * problem.num_heads * tiles < std::int64_t{64} * 20 * limits.num_multiprocessors / 32;
  policy.heads_per_block = problem.num_heads <= 16 || few ? 16 : 32;
  policy.target_blocks = std::int64_t{2} * limits.num_multiprocessors;
  policy.most_splits = static_cast<int>(std::clamp<std::int64_t>(tiles / kLeastTilesOfSplit, 1, kMostSplits));
  return policy;
}

}  // namespace fathom
