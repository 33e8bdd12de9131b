// What linear's Hopper kernel chooses from the problem and the device: rows and tokens of a tile, blocks along K, steps in flight.
// And which tile a block works on when. Numbers only, so that they are tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/core/device.h"
#include "fathom/linear.h"

namespace fathom {

/// Two warpgroups of 64 * parts rows each over the same tokens, and one that fetches; a step is 128 bytes of every weight row.
struct LinearSm90Tile {
  bool is_e4m3 = false;
  std::int32_t parts = 0;
  std::int32_t tokens = 0;

  static constexpr std::int32_t kStepBytes = 128, kMostStages = 8, kThreads = 384;
  constexpr std::int32_t rows() const noexcept { return 128 * parts; }
  constexpr std::int32_t step_elements() const noexcept { return is_e4m3 ? 128 : 64; }
  /// x is bf16: 128 bytes of it are 64 elements.
  constexpr std::int32_t x_slabs() const noexcept { return is_e4m3 ? 2 : 1; }
  constexpr std::int32_t weight_bytes() const noexcept { return rows() * kStepBytes; }
  constexpr std::int32_t stage_bytes() const noexcept { return weight_bytes() + x_slabs() * tokens * kStepBytes; }
  /// bf16 results on their way out, 64 rows of each warpgroup at a time.
  constexpr std::int32_t staging_tokens() const noexcept { return tokens <= 64 ? 32 : tokens; }
  constexpr std::int32_t staging_bytes() const noexcept { return 2 * 64 * staging_tokens() * 2; }
  /// Few tokens leave half of a multiprocessor to another block, or to the launch behind, which calls weights into L2 meanwhile.
  constexpr std::int32_t blocks_per_multiprocessor() const noexcept { return tokens <= 32 ? 2 : 1; }
  /// Barriers, scales of x where few tokens have some, and what aligning to 1024 bytes may cost.
  constexpr std::int32_t small_bytes() const noexcept { return 1024 + kMostStages * (2 * 8 + (is_e4m3 && tokens <= 64 ? tokens * 4 : 0)); }
  constexpr std::int32_t stages() const noexcept {
    constexpr std::int32_t kSharedBytes = 228 * 1024, kReserved = 1024;  // of a multiprocessor; beside each block's own
    const std::int32_t room = kSharedBytes / blocks_per_multiprocessor() - kReserved;
    return std::min(kMostStages, (room - small_bytes() - staging_bytes()) / stage_bytes());
  }
  constexpr std::int32_t shared_bytes() const noexcept { return small_bytes() + staging_bytes() + stages() * stage_bytes(); }
  constexpr bool operator==(const LinearSm90Tile&) const = default;
};

/// What x is when the products see it; all but the natural one in the order that words of codes want.
enum class LinearSm90X : std::uint8_t {
  natural,  ///< bf16; quantised and back by a launch before where the weights are bf16
  paired,   ///< bf16, quantised and back by a launch before
  scaled,   ///< f16 by a launch before, with a power of two per token and 128 elements: codes are exact operands then
};
/// With few tokens the decoding of the weights is what takes time; with many, two sets of sums would take the registers.
constexpr LinearSm90X linear_sm90_x(const LinearProblem& problem, const LinearSm90Tile& tile) noexcept {
  if (!tile.is_e4m3) return LinearSm90X::natural;
  if (tile.tokens <= 64) return LinearSm90X::scaled;
  return problem.activation_quant == ActivationQuant::none ? LinearSm90X::natural : LinearSm90X::paired;
}

/// So few tokens that the kernels for every device, which make x themselves, are quicker (docs/design/0011-linear-cuda.md).
constexpr bool is_small_for_sm90(std::int64_t num_tokens) noexcept { return num_tokens <= 32; }

struct LinearSm90Policy {
  LinearSm90Tile tile;
  std::int32_t row_tiles = 0;  ///< of all groups
  std::int32_t token_tiles = 0;
  std::int32_t splits = 1;  ///< blocks along K, one cluster
  std::int32_t blocks = 0;  ///< with one split a block takes several tiles

  constexpr std::int64_t tiles() const noexcept { return std::int64_t{row_tiles} * token_tiles; }
  constexpr bool operator==(const LinearSm90Policy&) const = default;
};

inline constexpr LinearSm90Tile kLinearSm90Tiles[] = {{false, 2, 128}, {false, 1, 128}, {false, 1, 64}, {false, 1, 32},
                                                      {true, 2, 128},  {true, 1, 128},  {true, 1, 64},  {true, 1, 32}};

/// The candidate that a rough model of the device calls quickest; the larger tile and the fewer splits among equals.
constexpr LinearSm90Policy linear_sm90_policy(const LinearProblem& problem, std::int64_t num_tokens, const DeviceLimits& limits) noexcept {
  // Of one multiprocessor, in a nanosecond: bytes it draws at most, bytes of the others' shared memory, products.
  constexpr std::int64_t kBytesPerNs = 45, kClusterBytesPerNs = 20, kProductsPerNs = 2600;
  constexpr std::int64_t kShortestStepNs = 250, kTileNs = 500, kClusterNs = 1000, kDeviceBytesPerNs = 2900;
  const bool is_e4m3 = problem.weight_dtype == DType::e4m3;
  const std::int64_t row_bytes = std::int64_t{problem.in_dim} * (is_e4m3 ? 1 : 2), all_bytes = row_bytes * problem.out_dim * problem.groups;
  const std::int64_t steps = (row_bytes + LinearSm90Tile::kStepBytes - 1) / LinearSm90Tile::kStepBytes;
  LinearSm90Policy best;
  std::int64_t best_ns = 0;
  for (const LinearSm90Tile& tile : kLinearSm90Tiles) {
    if (tile.is_e4m3 != is_e4m3 || (num_tokens <= tile.tokens / 2 && tile.tokens > 32)) continue;
    for (const std::int32_t splits : {1, 2, 4, 8}) {
      if (splits > steps) continue;
      LinearSm90Policy policy;
      policy.tile = tile, policy.splits = splits;
      const std::int32_t rows = tile.rows(), tokens = tile.tokens;
      policy.row_tiles = problem.groups * ((problem.out_dim + rows - 1) / rows);
      policy.token_tiles = static_cast<std::int32_t>((num_tokens + tokens - 1) / tokens);
      // Clusters of more than two leave places over where a group of multiprocessors is no multiple of them.
      const std::int64_t slots = std::int64_t{limits.num_multiprocessors} * tile.blocks_per_multiprocessor();
      const std::int64_t places = std::max<std::int64_t>(splits > 2 ? slots * 10 / 11 / splits * splits : slots, splits);
      const std::int64_t blocks = policy.tiles() * splits, waves = (blocks + places - 1) / places;
      const std::int64_t together = blocks > limits.num_multiprocessors ? tile.blocks_per_multiprocessor() : 1;
      const std::int64_t products = std::int64_t{rows} * tokens * tile.step_elements();
      const std::int64_t step_ns = std::max({kShortestStepNs, together * tile.stage_bytes() / kBytesPerNs, together * products / kProductsPerNs});
      std::int64_t ns = waves * ((steps + splits - 1) / splits * step_ns + kTileNs);
      if (splits > 1) ns += waves * (kClusterNs + std::int64_t{rows} * tokens * 4 / kClusterBytesPerNs);
      ns = std::max(ns, all_bytes / kDeviceBytesPerNs);
      policy.blocks = static_cast<std::int32_t>(splits == 1 ? std::min(blocks, slots) : blocks);
      if (best.blocks == 0 || ns < best_ns) best = policy, best_ns = ns;
    }
  }
  return best;
}

/// The numbers behind the tiles of a launch.
struct LinearSm90Tiles {
  static constexpr std::int32_t kBand = 16;  ///< token tiles that are gone through for all rows before the next ones

  std::int32_t tile_rows = 0, tile_tokens = 0;
  std::int32_t row_tiles = 0, row_tiles_per_group = 0, token_tiles = 0;
  std::int32_t splits = 0, steps = 0;

  struct Place {
    std::int32_t group = 0, row_in_group = 0, token = 0;
    constexpr bool operator==(const Place&) const = default;
  };
  /// Neighbouring tiles share rows, and a band's worth of rows and tokens is what the L2 holds.
  constexpr Place at(std::int32_t tile) const noexcept {
    const std::int32_t band = tile / (kBand * row_tiles), in_band = tile - band * kBand * row_tiles;
    const std::int32_t left = token_tiles - band * kBand, width = left < kBand ? left : kBand, row_tile = in_band / width;
    return {row_tile / row_tiles_per_group, row_tile % row_tiles_per_group * tile_rows, (band * kBand + in_band % width) * tile_tokens};
  }
  constexpr std::int32_t step_begin(std::int32_t split) const noexcept {
    return static_cast<std::int32_t>(std::int64_t{steps} * split / splits);
  }
};

constexpr LinearSm90Tiles linear_sm90_tiles(const LinearProblem& problem, const LinearSm90Policy& policy) noexcept {
  LinearSm90Tiles tiles;
  tiles.tile_rows = policy.tile.rows(), tiles.tile_tokens = policy.tile.tokens;
  tiles.row_tiles = policy.row_tiles, tiles.row_tiles_per_group = policy.row_tiles / problem.groups;
  tiles.token_tiles = policy.token_tiles, tiles.splits = policy.splits;
  tiles.steps = (problem.in_dim + policy.tile.step_elements() - 1) / policy.tile.step_elements();
  return tiles;
}

}  // namespace fathom
