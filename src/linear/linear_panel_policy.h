// What linear's kernel for 9 to 64 tokens chooses from the problem and the device, and which rows and part of K a warp
// works on when. Numbers only, so that they are tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/core/device.h"
#include "fathom/linear.h"

namespace fathom {

/// A panel is the x of one part of K: it lies in shared memory for all rows of weights that a block goes through. A
/// warp takes a unit of 16 or 32 rows at a time, 128 bytes of each a step.
struct PanelTile {
  std::int32_t warps = 0;
  std::int32_t row_tiles = 0;    ///< of 16 rows, a warp's
  std::int32_t token_tiles = 0;  ///< of eight tokens

  static constexpr std::int32_t kBlockK = 128, kStages = 4;
  /// A warp's lanes hold the scale bytes of its rows, two each: one a block of K.
  static constexpr std::int32_t kMostBlocks = 64;

  constexpr std::int32_t threads() const noexcept { return 32 * warps; }
  constexpr std::int32_t tokens() const noexcept { return 8 * token_tiles; }
  constexpr std::int32_t rows() const noexcept { return 16 * row_tiles; }
  constexpr std::int32_t step_bytes() const noexcept { return rows() * 128; }
  /// f32 sums of a unit, in the order of the tensor cores' fragments.
  constexpr std::int32_t sums() const noexcept { return rows() * tokens(); }
  constexpr std::int32_t ring_bytes() const noexcept { return warps * kStages * step_bytes(); }
  constexpr std::int32_t x_bytes(std::int32_t blocks) const noexcept { return blocks * tokens() * kBlockK * 2; }
  constexpr std::int32_t shared_bytes(std::int32_t blocks) const noexcept {
    return ring_bytes() + x_bytes(blocks) + blocks * tokens() * 4;
  }
  constexpr std::int32_t most_blocks(const DeviceLimits& limits) const noexcept {
    return std::min(kMostBlocks, (limits.shared_bytes_per_block - ring_bytes()) / (shared_bytes(1) - ring_bytes()));
  }
  constexpr bool operator==(const PanelTile&) const = default;
};

/// Where there is room a block has 96 KB of weights on the way, which is what Hopper's memory wants; elsewhere half of
/// that. With 32 tokens, what is read of x binds: fewer warps of more rows read it less, but are slower at its making
/// and at the meeting of parts, so only where K is one panel.
constexpr PanelTile panel_tile(const LinearProblem& problem, std::int64_t num_tokens,
                               const DeviceLimits& limits) noexcept {
  const std::int32_t token_tiles = num_tokens <= 16 ? 2 : num_tokens <= 32 ? 4 : 8;
  if (limits.shared_bytes_per_block < 200 * 1024) return {8, 1, token_tiles};
  constexpr PanelTile kTall{8, 2, 4};
  const bool is_one_panel = problem.in_dim <= kTall.most_blocks(limits) * PanelTile::kBlockK;
  if (token_tiles == 4 && problem.weight_dtype == DType::e4m3 && is_one_panel) return kTall;
  return {16, 1, token_tiles};
}

struct PanelPolicy {
  PanelTile tile;
  std::int32_t row_units = 0;         ///< of tile.rows(), of one group
  std::int32_t token_tiles = 0;       ///< of tile.tokens()
  std::int32_t splits = 1;            ///< parts of K
  std::int32_t panel_blocks = 0;      ///< blocks of 128 elements of the longest part
  std::int32_t blocks_per_panel = 1;  ///< that share its rows
  std::int32_t warps_per_unit = 1;    ///< side by side along K, where a block has few rows
  std::int32_t blocks = 0;            ///< the grid; where panels are more, a block goes from one to the next

  /// Units of rows and their tokens.
  constexpr std::int64_t tiles(std::int32_t groups) const noexcept {
    return std::int64_t{row_units} * groups * token_tiles;
  }
  constexpr std::int64_t panels(std::int32_t groups) const noexcept {
    return std::int64_t{splits} * groups * token_tiles;
  }
  constexpr std::int32_t shared_bytes() const noexcept { return tile.shared_bytes(panel_blocks); }
  constexpr bool operator==(const PanelPolicy&) const = default;
};

/// The parts of K that a rough model of a block calls quickest; they depend on the tile, not on the number of tokens in
/// it.
constexpr PanelPolicy panel_policy(const LinearProblem& problem, std::int64_t num_tokens,
                                   const DeviceLimits& limits) noexcept {
  // Of one multiprocessor: bytes it draws in a nanosecond when all do, and alone; what a warp draws; its time for a
  // step of weights, by itself and beside fifteen others; to make 256 x 128 elements of x; what parts of K cost that
  // meet.
  constexpr std::int64_t kBytesPerNs = 23, kMostBytesPerNs = 45, kWarpBytesPerNs = 6, kStepNs = 250, kSharedStepNs = 25,
                         kXNsPer256 = 1800;
  constexpr std::int64_t kMeetNs = 1500, kPartNs = 100;
  constexpr std::int32_t kMostSplits = 16;
  const std::int32_t slots = limits.num_multiprocessors;
  PanelPolicy policy;
  policy.tile = panel_tile(problem, num_tokens, limits);
  const std::int32_t warps = policy.tile.warps;
  policy.row_units = (problem.out_dim + policy.tile.rows() - 1) / policy.tile.rows();
  policy.token_tiles = static_cast<std::int32_t>(
      std::max<std::int64_t>((num_tokens + policy.tile.tokens() - 1) / policy.tile.tokens(), 1));
  const std::int32_t all_blocks = (problem.in_dim + PanelTile::kBlockK - 1) / PanelTile::kBlockK;
  const std::int32_t fewest = (all_blocks + policy.tile.most_blocks(limits) - 1) / policy.tile.most_blocks(limits);
  const std::int32_t steps_of_block = problem.weight_dtype == DType::e4m3 ? 1 : 2;
  PanelPolicy best;
  std::int64_t best_ns = 0;
  for (std::int32_t splits = fewest; splits <= std::max(fewest, std::min(all_blocks, kMostSplits)); ++splits) {
    policy.splits = splits;
    policy.panel_blocks = (all_blocks + splits - 1) / splits;
    const std::int64_t panels_of_tile = std::int64_t{splits} * problem.groups;
    // How the device's blocks and a block's warps share so many panels.
    const auto share = [&](std::int64_t panels) {
      policy.blocks_per_panel =
          static_cast<std::int32_t>(std::clamp<std::int64_t>(slots / panels, 1, policy.row_units));
      const std::int32_t units = (policy.row_units + policy.blocks_per_panel - 1) / policy.blocks_per_panel;
      const std::int32_t most = panels <= slots ? std::min(warps / units, policy.panel_blocks * steps_of_block) : 1;
      for (policy.warps_per_unit = 1; 2 * policy.warps_per_unit <= most;) policy.warps_per_unit *= 2;
      policy.blocks = static_cast<std::int32_t>(std::min<std::int64_t>(panels * policy.blocks_per_panel, slots));
    };
    share(panels_of_tile);
    const std::int64_t units = (policy.row_units + policy.blocks_per_panel - 1) / policy.blocks_per_panel;
    const std::int64_t busy_blocks = policy.blocks, steps = std::int64_t{policy.panel_blocks} * steps_of_block;
    const std::int64_t rounds_of_panels = (panels_of_tile + slots - 1) / slots,
                       busy_warps = std::min<std::int64_t>(units * policy.warps_per_unit, warps);
    const std::int64_t rounds = (units * policy.warps_per_unit + warps - 1) / warps;
    const std::int64_t steps_of_warp = (steps + policy.warps_per_unit - 1) / policy.warps_per_unit * rounds;
    const std::int64_t rate = std::min(
        {kMostBytesPerNs, busy_warps * policy.tile.row_tiles * kWarpBytesPerNs, kBytesPerNs * slots / busy_blocks});
    const std::int64_t stream_ns = units * steps * policy.tile.step_bytes() / rate;
    const std::int64_t x_ns = policy.panel_blocks * policy.tile.tokens() * kXNsPer256 / 256;
    const std::int64_t products_ns =
        std::max(steps_of_warp * kStepNs, units * steps * kSharedStepNs * policy.tile.row_tiles);
    std::int64_t ns = std::max(stream_ns, x_ns + products_ns) * rounds_of_panels;
    if (splits > 1) ns += kMeetNs + splits * kPartNs;
    if (best.panel_blocks != 0 && ns >= best_ns) continue;
    best_ns = ns;
    share(policy.panels(problem.groups));  // more token tiles have more panels
    best = policy;
  }
  return best;
}

/// The numbers behind a launch. Panels count parts of K first, then groups, then tokens.
struct PanelWork {
  std::int32_t out_dim = 0, groups = 0, unit_rows = 0;
  std::int32_t row_units = 0, splits = 0, panels = 0;
  std::int32_t blocks_per_split = 0,
               blocks_left_over = 0;  ///< the first `left over` parts of K have one more block of 128 elements
  std::int32_t blocks_per_panel = 0, warps_per_unit = 0;
  std::int32_t units_per_block = 0, units_left_over = 0;  ///< the first blocks of a panel have one more

  constexpr std::int32_t unit_begin(std::int32_t block_of_panel) const noexcept {
    return block_of_panel * units_per_block + std::min(block_of_panel, units_left_over);
  }
  constexpr std::int32_t block_begin(std::int32_t split) const noexcept {
    return split * blocks_per_split + std::min(split, blocks_left_over);
  }
};

constexpr PanelWork panel_work(const LinearProblem& problem, const PanelPolicy& policy) noexcept {
  const std::int32_t all_blocks = (problem.in_dim + PanelTile::kBlockK - 1) / PanelTile::kBlockK;
  PanelWork work;
  work.out_dim = problem.out_dim, work.groups = problem.groups, work.unit_rows = policy.tile.rows();
  work.row_units = policy.row_units, work.splits = policy.splits;
  work.panels = static_cast<std::int32_t>(policy.panels(problem.groups));
  work.blocks_per_split = all_blocks / policy.splits, work.blocks_left_over = all_blocks % policy.splits;
  work.blocks_per_panel = policy.blocks_per_panel, work.warps_per_unit = policy.warps_per_unit;
  work.units_per_block = policy.row_units / policy.blocks_per_panel,
  work.units_left_over = policy.row_units % policy.blocks_per_panel;
  return work;
}

/// A panel: which part of K, of which group and tokens.
struct PanelPlace {
  std::int32_t split = 0, group = 0, token_tile = 0;

  static constexpr PanelPlace at(const PanelWork& work, std::int32_t panel) noexcept {
    const std::int32_t column = panel / work.splits;
    return {panel - column * work.splits, column % work.groups, column / work.groups};
  }
  /// The panel so many further on: counted, because divisions take room in a kernel.
  constexpr PanelPlace after(const PanelWork& work, std::int32_t panels) const noexcept {
    PanelPlace place = *this;
    for (; panels > 0; --panels) {
      if (++place.split < work.splits) continue;
      place.split = 0;
      if (++place.group < work.groups) continue;
      place.group = 0;
      ++place.token_tile;
    }
    return place;
  }
  /// Blocks of K.
  constexpr std::int32_t begin(const PanelWork& work) const noexcept { return work.block_begin(split); }
  constexpr std::int32_t blocks(const PanelWork& work) const noexcept {
    return work.block_begin(split + 1) - work.block_begin(split);
  }
  /// A unit's rows and their tokens, whose parts of K meet.
  constexpr std::int32_t tile(const PanelWork& work, std::int32_t unit) const noexcept {
    return (token_tile * work.groups + group) * work.row_units + unit;
  }
  /// First row of a unit, through all groups, and how many there are.
  constexpr std::int64_t row(const PanelWork& work, std::int32_t unit) const noexcept {
    return std::int64_t{group} * work.out_dim + unit * work.unit_rows;
  }
  constexpr std::int32_t rows(const PanelWork& work, std::int32_t unit) const noexcept {
    return std::min(work.unit_rows, work.out_dim - unit * work.unit_rows);
  }
  constexpr bool operator==(const PanelPlace&) const = default;
};

}  // namespace fathom
