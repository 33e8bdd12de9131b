// How the skinny kernel's blocks go through their items. Host and device: what every block visits is tested without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "linear/linear_policy.h"

namespace fathom {

/// The numbers behind the items of a launch, as the kernel wants them: nothing to divide but at a block's beginning.
struct SkinnyItems {
  std::int32_t out_dim = 0, groups = 0;
  std::int32_t tile_rows = 0, tile_tokens = 0;
  std::int32_t row_tiles = 0, row_tiles_per_group = 0, splits = 0;
  std::int32_t chunks_per_split = 0, chunks_left_over = 0;  ///< the first `left over` splits have one more
  std::int32_t items_per_block = 0, items_left_over = 0;    ///< likewise the first blocks

  constexpr std::int32_t item_begin(std::int32_t block) const noexcept {
    return block * items_per_block + std::min(block, items_left_over);
  }
};

constexpr SkinnyItems skinny_items(const LinearProblem& problem, const SkinnyPolicy& policy) noexcept {
  const std::int32_t chunks = (problem.in_dim + policy.tile.chunk() - 1) / policy.tile.chunk();
  SkinnyItems items;
  items.out_dim = problem.out_dim, items.groups = problem.groups;
  items.tile_rows = policy.tile.rows(), items.tile_tokens = policy.tile.tokens();
  items.row_tiles = policy.row_tiles, items.row_tiles_per_group = policy.row_tiles / problem.groups, items.splits = policy.splits;
  items.chunks_per_split = chunks / policy.splits, items.chunks_left_over = chunks % policy.splits;
  items.items_per_block = static_cast<std::int32_t>(policy.items() / policy.blocks);
  items.items_left_over = static_cast<std::int32_t>(policy.items() % policy.blocks);
  return items;
}

/// An item: a tile of outputs and a part of K. Items count splits first, then rows, groups and tokens; going on is counting,
/// because divisions take longer than a step's products.
struct SkinnyPlace {
  std::int32_t item = 0, split = 0, group = 0, row_in_group = 0, token = 0;

  static constexpr SkinnyPlace at(const SkinnyItems& items, std::int32_t item) noexcept {
    const auto tile = static_cast<std::uint32_t>(item) / static_cast<std::uint32_t>(items.splits);
    const std::uint32_t row_tiles = items.row_tiles, per_group = items.row_tiles_per_group, row_tile = tile % row_tiles;
    SkinnyPlace place;
    place.item = item;
    place.split = item - static_cast<std::int32_t>(tile) * items.splits;
    place.token = static_cast<std::int32_t>(tile / row_tiles) * items.tile_tokens;
    place.group = static_cast<std::int32_t>(row_tile / per_group);
    place.row_in_group = static_cast<std::int32_t>(row_tile % per_group) * items.tile_rows;
    return place;
  }
  constexpr SkinnyPlace next(const SkinnyItems& items) const noexcept {
    SkinnyPlace place = *this;
    ++place.item;
    if (++place.split < items.splits) return place;
    place.split = 0;
    place.row_in_group += items.tile_rows;
    if (place.row_in_group < items.out_dim) return place;
    place.row_in_group = 0;
    if (++place.group < items.groups) return place;
    place.group = 0;
    place.token += items.tile_tokens;
    return place;
  }
  /// First row of the tile, through all groups, and how many there are.
  constexpr std::int32_t row(const SkinnyItems& items) const noexcept { return group * items.out_dim + row_in_group; }
  constexpr std::int32_t rows(const SkinnyItems& items) const noexcept { return std::min(items.tile_rows, items.out_dim - row_in_group); }
  constexpr std::int32_t chunk_begin(const SkinnyItems& items) const noexcept {
    return split * items.chunks_per_split + std::min(split, items.chunks_left_over);
  }
  constexpr std::int32_t chunk_end(const SkinnyItems& items) const noexcept {
    return (split + 1) * items.chunks_per_split + std::min(split + 1, items.chunks_left_over);
  }
  constexpr bool operator==(const SkinnyPlace&) const = default;
};

}  // namespace fathom
