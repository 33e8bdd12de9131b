// What the fast CUDA kernels of linear choose from the problem and the device: tile shapes, splits of K, shared memory.
// Numbers only, so that they are tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/core/device.h"
#include "fathom/linear.h"

namespace fathom {

/// How the operands of the tensor cores are formed. Products of codes and of powers of two are exact in all of them.
enum class LinearForm : std::uint8_t {
  codes,  ///< E4M3 weights and quantised x: both as f16 codes, the two scales applied to each sum over 128 elements
  mixed,  ///< E4M3 weights and bf16 x: codes as bf16, the tile's scale applied to each sum over 128 elements
  plain,  ///< bf16 weights, x bf16 (quantised and back where the problem asks for it)
};
constexpr LinearForm form_of(const LinearProblem& problem) noexcept {
  if (problem.weight_dtype != DType::e4m3) return LinearForm::plain;
  return problem.activation_quant == ActivationQuant::none ? LinearForm::mixed : LinearForm::codes;
}

/// The skinny kernel's tile: eight warps, `warps_k` of them side by side along K, the others on 16 rows each.
struct SkinnyTile {
  std::int32_t warps_k = 0;

  static constexpr std::int32_t kWarps = 8, kThreads = 32 * kWarps, kBlockK = 128;
  constexpr std::int32_t rows() const noexcept { return 16 * kWarps / warps_k; }
  /// With eight warps along K there is room for four tokens only.
  constexpr std::int32_t tokens() const noexcept { return warps_k == 8 ? 4 : 8; }
  constexpr std::int32_t chunk() const noexcept { return kBlockK * warps_k; }  ///< elements of K a step
  /// x lies in shared memory for so many blocks of K at a time: 32 KiB of it, half beside the wider ring of bf16 weights.
  constexpr std::int32_t phase_blocks(LinearForm form) const noexcept {
    return (form == LinearForm::plain ? 64 : 128) / tokens();
  }
  /// f32 sums of one tile, in the order of the tensor cores' fragments.
  constexpr std::int64_t sums() const noexcept { return std::int64_t{rows()} * 8; }

  constexpr std::int32_t stages(LinearForm form) const noexcept { return form == LinearForm::plain ? 2 : 3; }
  constexpr std::int32_t stage_bytes(LinearForm form) const noexcept {
    return kWarps * 16 * kBlockK * (form == LinearForm::plain ? 2 : 1);
  }
  constexpr std::int32_t x_bytes(LinearForm form) const noexcept { return phase_blocks(form) * tokens() * kBlockK * 2; }
  /// Sums cross warps in a place of their own, twice.
  constexpr std::int32_t exchange_bytes() const noexcept { return static_cast<std::int32_t>(warps_k * sums() * 4 * 2); }
  constexpr std::int32_t shared_bytes(LinearForm form) const noexcept {
    return stages(form) * stage_bytes(form) + x_bytes(form) + phase_blocks(form) * tokens() * 4 + exchange_bytes();
  }
  constexpr bool operator==(const SkinnyTile&) const = default;
};

/// More tokens are the panel kernel's (linear_panel_policy.h).
constexpr std::int32_t kMostSkinnyTokens = 8;

/// Few tokens want few rows a block, so that the blocks share K among their own warps. Where K is one step of eight
/// warps, a block would add up and store after every step.
constexpr SkinnyTile skinny_tile(std::int64_t num_tokens, std::int32_t in_dim) noexcept {
  return {num_tokens <= 4 && in_dim > 1024 ? 8 : 4};
}

/// Blocks of the skinny kernel that a device holds at a time: two a multiprocessor where they fit.
constexpr std::int32_t skinny_slots(const SkinnyTile& tile, LinearForm form, const DeviceLimits& limits) noexcept {
  return limits.num_multiprocessors * (limits.shared_bytes_per_block >= 2 * tile.shared_bytes(form) + 1024 ? 2 : 1);
}

/// The skinny kernel's grid: an item is one tile of outputs over one part of K; each block takes a run of items.
struct SkinnyPolicy {
  SkinnyTile tile;
  std::int32_t row_tiles = 0;    ///< of all groups
  std::int32_t token_tiles = 0;  ///< of tile.tokens()
  std::int32_t splits = 1;       ///< parts of K
  std::int32_t blocks = 0;

  constexpr std::int64_t items() const noexcept { return std::int64_t{row_tiles} * token_tiles * splits; }
  /// Partial sums, and one counter a tile, only where K is split: then there are no more items than slots.
  constexpr std::int64_t scratch_floats() const noexcept { return splits > 1 ? items() * tile.sums() : 0; }
  constexpr bool operator==(const SkinnyPolicy&) const = default;
};

constexpr SkinnyPolicy skinny_policy(const LinearProblem& problem, std::int64_t num_tokens, const DeviceLimits& limits) noexcept {
  const LinearForm form = form_of(problem);
  SkinnyPolicy policy;
  policy.tile = skinny_tile(num_tokens, problem.in_dim);
  const std::int32_t slots = skinny_slots(policy.tile, form, limits);
  policy.row_tiles = problem.groups * ((problem.out_dim + policy.tile.rows() - 1) / policy.tile.rows());
  policy.token_tiles = static_cast<std::int32_t>((num_tokens + policy.tile.tokens() - 1) / policy.tile.tokens());
  const std::int64_t tiles = std::int64_t{policy.row_tiles} * policy.token_tiles;
  const std::int32_t chunks = (problem.in_dim + policy.tile.chunk() - 1) / policy.tile.chunk();
  if (tiles > 0 && tiles < slots) policy.splits = static_cast<std::int32_t>(std::clamp<std::int64_t>(slots / tiles, 1, chunks));
  policy.blocks = static_cast<std::int32_t>(std::min<std::int64_t>(policy.items(), slots));
  return policy;
}

/// The tiled kernel: rows() rows x 128 tokens x 64 elements of K a step. A warp turns E4M3 rows into operands for all of
/// the block's tokens, so that no code is turned twice; bf16 rows need no turning, and more blocks hide more.
struct TiledTile {
  DType weight;
  static constexpr std::int32_t kTokens = 128, kStepK = 64, kStages = 3;

  constexpr std::int32_t rows() const noexcept { return weight == DType::e4m3 ? 256 : 128; }
  constexpr std::int32_t stage_bytes() const noexcept { return kStepK * (rows() * bits_of(weight) / 8 + kTokens * 2); }
  constexpr std::int32_t shared_bytes() const noexcept { return kStages * stage_bytes(); }
};

/// More tokens than one skinny tile, and enough tiles to keep half of the device busy; otherwise the skinny kernel, which
/// splits K, goes over the weights once for every 64 tokens, out of L2.
constexpr bool takes_tiles(const LinearProblem& problem, std::int64_t num_tokens, const DeviceLimits& limits) noexcept {
  if (num_tokens <= 64) return false;
  const std::int32_t rows = TiledTile{problem.weight_dtype}.rows();
  const std::int64_t row_tiles = std::int64_t{problem.groups} * ((problem.out_dim + rows - 1) / rows);
  const std::int64_t token_tiles = (num_tokens + TiledTile::kTokens - 1) / TiledTile::kTokens;
  return row_tiles * token_tiles * 2 >= limits.num_multiprocessors;
}

}  // namespace fathom
