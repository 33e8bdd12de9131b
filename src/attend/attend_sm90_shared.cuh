// attend on Hopper: 64 heads of one query to a thread block of four warpgroups.
//
//   math 0, 1   the products and the softmax (attend_sm90_math.cuh)
//   feed 0..2   rows from the pages, dequantised, tile by tile (attend_sm90_feed.cuh)
//
// Where a query is split among blocks, they are a cluster and merge their parts through each other's shared memory
// (attend_sm90_merge.cuh). This file has what all of them share.
//
// A tile is read twice, as keys along its rows and as values across them, from the same bytes (device/wgmma.cuh). Feeders and
// math groups meet at mbarriers: a tile is full, or empty again.
//
// Bytes: a row costs 584 from memory, 1 KB written and 4 KB read in shared memory. What should bind is the gather of rows, at
// some 59 clocks a row and multiprocessor; products need 40, shared memory 51 (docs/design/0013).
#pragma once

#include <cstddef>

#include "attend/attend_kernel.cuh"
#include "device/barrier.cuh"
#include "device/copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/wgmma.cuh"

namespace fathom::attend_sm90_kernel {

using namespace attend_rows;

constexpr int kHeads = 64;
constexpr int kGroup = 128;                       ///< threads of a warpgroup
constexpr int kThreads = 5 * kGroup;              ///< math 0, 1; feed 0, 1, 2
constexpr int kTileRows = 32, kTiles = 3;         ///< dequantised tiles kept
constexpr int kFeedWarps = 12;
constexpr int kFeedRows = 4, kFeedJobs = kTileRows / kFeedRows;  ///< a tile is eight jobs of four rows
constexpr int kAhead = 2;                         ///< jobs of a feeding warp whose rows are under way
constexpr int kSlabs = kDim / wgmma::kSlabElements;
constexpr int kQuerySlabBytes = kHeads * wgmma::kSlabRowBytes, kTileSlabBytes = kTileRows * wgmma::kSlabRowBytes;
constexpr float kSlack = 8;                       ///< as attend_sm80_kernel.cuh

struct alignas(1024) Shared {
  std::uint8_t q[kSlabs * kQuerySlabBytes];
  std::uint8_t tiles[kTiles][kSlabs * kTileSlabBytes];
  std::uint8_t weights[kHeads * wgmma::kSlabRowBytes];  ///< 32 columns of each math group's tile
  std::uint8_t raw[kFeedWarps][kAhead][kFeedRows * kRowBytes];
  std::uint8_t scales[kFeedWarps][kAhead][kFeedRows * kScaleBytes];
  alignas(8) std::uint8_t present[kTiles][kFeedJobs];   ///< a bit for each of a job's rows
  float base[2][kHeads], factor[2][kHeads];             ///< after each math group's last tile: what weights are relative to, how sums change
  float totals[2][kHeads], largest[2][kHeads], sinks[kHeads];
  std::uint64_t tile_full[kTiles], tile_empty[kTiles], weights_full[2], weights_empty[2];
  float states[3][kHeads];  ///< of the block's part, for the blocks of its cluster: base, total, largest
  int is_last;
};

/// A ring's slot and the parity of its round.
template <int kSlots>
struct Ring {
  int slot = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++slot == kSlots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

/// Elements of a tile's E4M3 blocks lie in the order 0, 2, 1, 3, as dequantise leaves them; this puts chunk `chunk` of a head's
/// eight elements into that order, or back. The rotary block keeps its own.
__device__ __forceinline__ uint4 in_tile_order(const uint4& v, int chunk) {
  if (chunk >= 7 * wgmma::kSlabElements / 8) return v;
  return {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410), __byte_perm(v.z, v.w, 0x7632)};
}

/// The tiles of this block. Rows past the end are absent.
struct Range {
  int first_row, end_row, tiles;
};

/// Two heads of a math thread: rows g and g + 8 of its warp's 16.
struct HeadPair {
  float base[2] = {-kInfinity, -kInfinity}, most[2] = {-kInfinity, -kInfinity}, total[2] = {0, 0};
};

}  // namespace fathom::attend_sm90_kernel
