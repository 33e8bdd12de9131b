// How attend's CUDA kernels are cut: heads of a block, splits of a query's rows. Numbers from the problem and the
// device's limits alone, so that they can be read, compared and tested without a GPU.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "fathom/attend.h"

namespace fathom {

constexpr int kAttendTileRows = 32;  ///< rows of a step of either kernel

/// split=fixed: pieces of at least kFixedTiles tiles, as even as they can be, and no more than a cluster has blocks.
/// Nothing but the query's own rows decides.
constexpr int kFixedTiles = 16, kMostFixedPieces = 8;
constexpr int fixed_pieces(std::int64_t tiles) noexcept {
  const std::int64_t pieces = (tiles + kFixedTiles - 1) / kFixedTiles;
  return pieces < 1 ? 1 : pieces > kMostFixedPieces ? kMostFixedPieces : static_cast<int>(pieces);
}

/// The tiles of a query, `tiles` in all, that are its block `block` of `blocks`. Fixed pieces may be fewer than blocks:
/// the last ones have nothing.
struct TileShare {
  int begin, end;
  bool operator==(const TileShare&) const = default;
};
constexpr TileShare share_of(int tiles, int block, int blocks, Split split) noexcept {
  const std::int64_t all = tiles, pieces = split == Split::fixed ? fixed_pieces(tiles) : blocks;
  if (block >= pieces) return {tiles, tiles};
  return {static_cast<int>(all * block / pieces), static_cast<int>(all * (block + 1) / pieces)};
}

/// mma.sync, sm_80 and later: 16 or 32 heads a block, blocks that fill the device twice; parts of split queries are
/// merged by the block that comes last.
struct AttendSm80Policy {
  static constexpr int kTileRows = kAttendTileRows;
  int heads_per_block = 32;
  std::int64_t target_blocks = 0;  ///< splits are made until there are as many blocks
  int most_splits = 1;
  Split split = Split::balanced;  ///< fixed: every query is cut into most_splits, and there are launches enough for all

  bool operator==(const AttendSm80Policy&) const = default;

  constexpr std::int64_t head_blocks(int num_heads) const noexcept {
    return (num_heads + heads_per_block - 1) / heads_per_block;
  }
  /// Parts that the rows of each of `num_tokens` queries are cut into.
  constexpr int splits(std::int64_t num_tokens, int num_heads) const noexcept {
    if (split == Split::fixed) return most_splits;
    const std::int64_t units = std::max<std::int64_t>(num_tokens * head_blocks(num_heads), 1);
    return static_cast<int>(std::clamp<std::int64_t>(target_blocks / units, 1, most_splits));
  }
  /// Queries and head blocks of one launch: parts of fixed pieces wait in scratch for no more than it holds.
  constexpr std::int64_t units_of_launch(std::int64_t units) const noexcept {
    if (split == Split::balanced || most_splits == 1) return units;
    return std::min(units, (2 * target_blocks + most_splits - 1) / most_splits);
  }
  /// Most (query, head block, split) parts that any number of tokens up to `num_tokens` leaves to be merged.
  constexpr std::int64_t most_parts(std::int64_t num_tokens, int num_heads) const noexcept {
    if (most_splits == 1) return 0;
    const std::int64_t units = num_tokens * head_blocks(num_heads);
    if (split == Split::fixed) return units_of_launch(units) * most_splits;
    return std::min(units * most_splits, target_blocks);
  }
  /// Queries and head blocks that may be split at a time.
  constexpr std::int64_t most_split_units(std::int64_t num_tokens, int num_heads) const noexcept {
    if (most_splits == 1) return 0;
    const std::int64_t units = num_tokens * head_blocks(num_heads);
    return split == Split::fixed ? units_of_launch(units) : std::min(units, target_blocks / 2);
  }
};

/// Clusters of each size (1..8 blocks) that a device holds at once.
using ClusterRoom = std::array<int, 9>;

/// wgmma, sm_90: up to 64 heads a block, a block for each multiprocessor. The blocks that share a query are clusters,
/// which merge within themselves; several clusters leave a part each in memory, and the last to come merges those.
struct AttendSm90Policy {
  static constexpr int kHeads = 64, kTileRows = kAttendTileRows;
  static constexpr int kMostCluster = 8;  ///< blocks; more are not portable
  static constexpr int kMostParts = 32;   ///< a lane for each in the merge
  // What a block's work costs, roughly, in nanoseconds on an H100: a tile; meeting the others of a cluster; reading
  // their sums of 64 heads; leaving sums in memory, and reading those of all parts again.
  static constexpr int kTileCost = 1000, kMeetCost = 1500, kReadCost = 5000, kLeaveCost = 1500, kMemoryCost = 3300;

  /// How queries are cut: `heads` of them to a block, whose rows `parts` clusters of `cluster` blocks share.
  struct Cut {
    int heads = kHeads, cluster = 1, parts = 1;
    bool operator==(const Cut&) const = default;
    constexpr std::int64_t head_blocks(int num_heads) const noexcept { return (num_heads + heads - 1) / heads; }
  };
  /// Parts that are left in memory, and the counters at which their blocks meet.
  struct Most {
    std::int64_t parts = 0, counters = 0;
  };

  ClusterRoom room{};
  int tiles = 1;  ///< of a query at most
  Split split = Split::balanced;

  constexpr std::int64_t cost(const Cut& cut, std::int64_t units, int num_heads) const noexcept {
    const std::int64_t blocks = cut.cluster * cut.parts,
                       rounds = std::max<std::int64_t>((units * blocks + room[1] - 1) / std::max(room[1], 1), 1);
    const std::int64_t heads = std::min(cut.heads, num_heads);
    std::int64_t cost = rounds * ((tiles + blocks - 1) / blocks) * kTileCost;
    if (cut.cluster > 1) cost += kMeetCost + kReadCost * heads * (cut.cluster - 1) / (kHeads * cut.cluster);
    if (cut.parts > 1) cost += kLeaveCost + kMemoryCost * heads * cut.parts / (kHeads * cut.cluster);
    return cost;
  }
  /// Fixed pieces are the blocks of one cluster. Heads may be cut by the batch: a head's bits do not depend on it.
  constexpr Cut fixed_cut(std::int64_t num_tokens, int num_heads) const noexcept {
    Cut best{kHeads, fixed_pieces(tiles), 1};
    for (int heads = kHeads / 2; heads >= 16 && heads < 2 * num_heads; heads /= 2) {
      if (num_tokens * Cut{heads}.head_blocks(num_heads) > room[best.cluster]) break;
      best.heads = heads;
    }
    return best;
  }
  /// The cheapest cut of `num_tokens` queries. What is split is on the device all at once.
  constexpr Cut cut(std::int64_t num_tokens, int num_heads) const noexcept {
    if (split == Split::fixed) return fixed_cut(num_tokens, num_heads);
    Cut best;
    std::int64_t least = cost(best, num_tokens * best.head_blocks(num_heads), num_heads);
    for (int heads = kHeads; heads >= 16 && (heads == kHeads || heads < 2 * num_heads); heads /= 2) {
      const std::int64_t units = num_tokens * Cut{heads}.head_blocks(num_heads);
      if (heads < kHeads && units > room[1]) break;
      for (int cluster = 1; cluster <= kMostCluster; ++cluster) {
        for (int parts = 1; parts <= kMostParts && parts * units <= room[cluster] && parts * cluster <= tiles;
             ++parts) {
          const Cut now{heads, cluster, parts};
          if (const std::int64_t its = cost(now, units, num_heads); its < least) {
            best = now;
            least = its;
          }
        }
      }
    }
    return best;
  }
  /// What any number of queries up to `num_tokens` may need.
  constexpr Most most(std::int64_t num_tokens, int num_heads) const noexcept {
    Most most;
    if (split == Split::fixed) return most;
    for (std::int64_t tokens = 1; tokens <= std::min<std::int64_t>(num_tokens, room[1]); ++tokens) {
      const Cut now = cut(tokens, num_heads);
      if (now.parts == 1) continue;
      const std::int64_t units = tokens * now.head_blocks(num_heads);
      most.parts = std::max(most.parts, units * now.parts);
      most.counters = std::max(most.counters, units * now.cluster);
    }
    return most;
  }
};

/// Most rows of a query, in steps of `step`.
constexpr std::int64_t attend_steps(const AttendProblem& problem, int step) noexcept {
  const std::int64_t rows = (problem.window_rows == RowsBy::none ? 0 : problem.window_width) +
                            std::int64_t{problem.entries_rows == RowsBy::none ? 0 : problem.entries_width};
  return (rows + step - 1) / step;
}
constexpr int kMostAttendSplits = 32;  ///< a lane for each in the merge

constexpr AttendSm80Policy attend_sm80_policy(const AttendProblem& problem, const DeviceLimits& limits) noexcept {
  constexpr int kLeastTilesOfSplit = 2;  // below it a split costs more in merging than it saves
  AttendSm80Policy policy;
  const std::int64_t tiles = attend_steps(problem, AttendSm80Policy::kTileRows);
  // Few queries: smaller blocks, so that more multiprocessors share them.
  const bool few = problem.split == Split::balanced &&  // the two sizes of block are two programs
                   std::int64_t{problem.num_tokens} * problem.num_heads * tiles <
                       std::int64_t{64} * 20 * limits.num_multiprocessors / 32;
  policy.heads_per_block = problem.num_heads <= 16 || few ? 16 : 32;
  policy.target_blocks = std::int64_t{2} * limits.num_multiprocessors;
  policy.split = problem.split;
  policy.most_splits =
      problem.split == Split::fixed
          ? fixed_pieces(tiles)
          : static_cast<int>(std::clamp<std::int64_t>(tiles / kLeastTilesOfSplit, 1, kMostAttendSplits));
  return policy;
}

constexpr AttendSm90Policy attend_sm90_policy(const AttendProblem& problem, const ClusterRoom& room) noexcept {
  const std::int64_t tiles = attend_steps(problem, AttendSm90Policy::kTileRows);
  return {room, static_cast<int>(std::clamp<std::int64_t>(tiles, 1, 1 << 20)), problem.split};
}

}  // namespace fathom
