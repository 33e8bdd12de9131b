// attend on Hopper: 64 heads of one query to a thread block of four warpgroups.
//
//   math 0, 1   the products and the softmax (attend_sm90_math.cuh)
//   feed 0, 1   rows from the pages, dequantised, tile by tile (attend_sm90_feed.cuh)
//
// Where a query is split among blocks, they are a cluster and merge their parts through each other's shared memory
// (attend_sm90_merge.cuh). Queries that come raw, and results that leave turned back, are attend_sm90_forms.cuh. This
// file has what all of them share.
//
// A tile is read twice, as keys along its rows and as values across them, from the same bytes (device/wgmma.cuh).
// Feeders and math groups meet at mbarriers: a tile is full, or empty again. How long a tile's slot is held, from empty to
// empty, is what the kernel's speed hangs on.
//
// A row costs 584 bytes from memory. The floors are 59 clocks a row and multiprocessor for the gather, 52 for shared
// memory, 40 for products; docs/design/0013 says what binds.
#pragma once

#include <cstddef>

#include "attend/attend_kernel.cuh"
#include "attend/attend_policy.h"
#include "device/barrier.cuh"
#include "device/copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/wgmma.cuh"

namespace fathom::attend_sm90_kernel {

using namespace attend_rows;

constexpr int kHeads = AttendSm90Policy::kHeads;
constexpr int kGroup = 128;                                         ///< threads of a warpgroup
constexpr int kThreads = 4 * kGroup;                                ///< math 0, 1; feed 0, 1
constexpr int kTileRows = AttendSm90Policy::kTileRows, kTiles = 3;  ///< dequantised tiles kept
constexpr int kFeedWarps = 4, kFeedRows = kTileRows / kFeedWarps;   ///< of a group; rows of a tile that a warp brings
constexpr int kSlabs = kDim / wgmma::kSlabElements;
constexpr int kQuerySlabBytes = kHeads * wgmma::kSlabRowBytes, kTileSlabBytes = kTileRows * wgmma::kSlabRowBytes;

/// What a feeding warp knows of the rows that it brings, a lane each: those of four tiles, and of the four after them.
struct alignas(16) Found {
  const std::uint8_t* rows[2][32];  ///< null = absent
  std::uint64_t scales[2][32];      ///< codes, a byte for each block of 64 elements
  std::int32_t numbers[32];         ///< slots or pages of the rows to be looked up next
  std::uint32_t present[2];         ///< a bit for each row
  Rows::Walks walks;
};

struct alignas(1024) Shared {
  std::uint8_t q[kSlabs * kQuerySlabBytes];
  std::uint8_t tiles[kTiles][kSlabs * kTileSlabBytes];
  std::uint8_t weights[kHeads * wgmma::kSlabRowBytes];      ///< 32 columns of each math group's tile
  std::uint8_t raw[2 * kFeedWarps][kFeedRows * kRowBytes];  ///< rows under way to each feeding warp
  Found found[2 * kFeedWarps];
  std::uint32_t present[kTiles];  ///< a bit for each row of a tile, a byte from each feeding warp
  float base[2][kHeads];          ///< what the weights of each math group's tile are relative to (base 2)
  float totals[2][kHeads], largest[2][kHeads], sinks[kHeads];
  std::uint64_t tile_full[kTiles], tile_empty[kTiles], weights_full[2], weights_empty[2];
  float rope[kRotary];      ///< of the query whose results are turned back: cosines, then sines
  bool is_zero;             ///< it is padding: its results are zeros
  float states[3][kHeads];  ///< of the block's part, for the blocks of its cluster: base, total, largest
  int is_last;
};

/// Elements of a tile's E4M3 blocks lie in the order 0, 2, 1, 3, as dequantise leaves them; this puts chunk `chunk` of
/// a head's eight elements into that order, or back. The rotary block keeps its own.
__device__ __forceinline__ uint4 in_tile_order(const uint4& v, int chunk) {
  if (chunk >= 7 * wgmma::kSlabElements / 8) return v;
  return {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
          __byte_perm(v.z, v.w, 0x7632)};
}

/// True if a math group's eight columns number j are rotary, which keep their own order.
__device__ __forceinline__ bool is_rotary(int group, int j) { return group == 1 && j >= 24; }

/// What a block works on: some heads of a query, and this block's share of its rows. A block takes every gridDim.x-th
/// unit.
struct Unit {
  std::int64_t number, t;
  int first_head, num_heads;
  __device__ Unit(const Launch& launch, std::int64_t number) : number(number) {
    const int head_blocks = (launch.problem.num_heads + launch.heads - 1) / launch.heads;
    t = number / head_blocks;
    first_head = static_cast<int>(number % head_blocks) * launch.heads;
    num_heads = min(launch.heads, launch.problem.num_heads - first_head);
  }
};
/// The tiles of a unit that are the block's. Rows past the end are absent.
struct Range {
  int first_row, end_row, tiles;
  __device__ Range(const Launch& launch, const Rows& rows) {
    const TileShare share =
        share_of((rows.count() + kTileRows - 1) / kTileRows, blockIdx.y, launch.splits, launch.problem.split);
    first_row = share.begin * kTileRows;
    end_row = min(share.end * kTileRows, rows.count());
    tiles = share.end - share.begin;
  }
};

/// Two heads of a math thread: rows g and g + 8 of its warp's 16.
struct HeadPair {
  float base[2] = {-kInfinity, -kInfinity};   ///< what sums and total are relative to (base 2)
  float known[2] = {-kInfinity, -kInfinity};  ///< the base that the group's next weights start from
  float most[2] = {-kInfinity, -kInfinity};   ///< largest logit
  float total[2] = {0, 0};                    ///< of the group's own weights
};

}  // namespace fathom::attend_sm90_kernel
