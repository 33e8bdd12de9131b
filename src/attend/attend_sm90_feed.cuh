// attend on Hopper: the two feeding groups. They take tiles in turns; each of a group's four warps brings eight of a
// tile's 32 rows: looks them up, copies them raw, 584 bytes each, into shared memory (cp.async, some 37 KB under way in
// all), takes them into registers, and when the tile's slot is free turns them into bf16 rows of the tile, swizzled for the
// tensor cores. A lane reads only what it copied itself.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// What a lane has of its warp's eight rows: a row has four lanes, and each of them a 16-byte chunk of every block of 64
/// codes, and two chunks of the rotary block, 128 bytes of bf16. Odd rows take their two rotary chunks the other way
/// round, so that eight lanes' stores meet eight different places.
struct Feeder {
  static constexpr int kCodeBlocks = 7;
  int row;   ///< of the warp's
  int part;  ///< which 16 bytes of a block of codes
  // Bytes from the tile's start.
  int codes_at;   ///< of the first half of chunk `part` widened, in block 0; the second half lies at ^ 16
  int rotary_at;  ///< of the lane's first rotary chunk; the second lies at ^ 64

  __device__ explicit Feeder(int warp) {
    const int lane = threadIdx.x % 32;
    row = lane / 4;
    part = lane % 4;
    const int row_of_tile = warp * kFeedRows + row;
    codes_at = wgmma::chunk_at(row_of_tile, 2 * part);
    rotary_at = kCodeBlocks * kTileSlabBytes + wgmma::chunk_at(row_of_tile, part + row % 2 * 4);
  }
  /// Bytes from a raw row's start of the lane's chunk in block 0, and of its first rotary chunk.
  __device__ int raw_at() const { return part * 16; }
  __device__ int raw_rotary_at() const { return kCodeBlocks * 64 + row % 2 * 64 + part * 16; }
  __device__ int raw_other_rotary_at() const { return kCodeBlocks * 64 + (row + 1) % 2 * 64 + part * 16; }
};

/// Where a row lies: a third word has its scales' distance.
struct Found {
  std::uint64_t row = 0;
  std::int32_t to_scales = 0;
};

/// Looks rows up for a whole warp: a lane each, for four of the group's tiles at a time, a batch ahead of their copies.
class Lookup {
 public:
  /// `first` is the warp's first row of the group's first tile, counted in the unit's rows.
  __device__ Lookup(const Rows& rows, int first, int end) : rows_(rows), first_(first), end_(end) {
    number_ = rows.number(row_of(0));
    find(0);
  }
  /// The lane's row of the group's next tile; `present` gets a bit for each of the warp's eight.
  __device__ __forceinline__ Found next(int row_of_warp, std::uint32_t& present) {
    const int turn = tile_ % kBatch;
    if (turn == 0 && tile_ != 0) find(tile_ / kBatch);
    ++tile_;
    present = present_ >> (turn * kFeedRows) & ((1u << kFeedRows) - 1);
    const int lane = turn * kFeedRows + row_of_warp;
    Found found;
    found.row = __shfl_sync(kAllLanes, mine_.row, lane);
    found.to_scales = __shfl_sync(kAllLanes, mine_.to_scales, lane);
    return found;
  }

 private:
  static constexpr int kBatch = 32 / kFeedRows;

  __device__ __forceinline__ int row_of(int batch) const {
    const int lane = threadIdx.x % 32;
    const int i = first_ + (batch * kBatch + lane / kFeedRows) * 2 * kTileRows + lane % kFeedRows;
    return i < end_ ? i : rows_.count();
  }
  __device__ __forceinline__ void find(int batch) {
    const RowAddress at = rows_.address(row_of(batch), number_);
    number_ = rows_.number(row_of(batch + 1));
    present_ = __ballot_sync(kAllLanes, at.row != nullptr);
    mine_ = {reinterpret_cast<std::uint64_t>(at.row), static_cast<std::int32_t>(at.scales - at.row)};
  }

  const Rows& rows_;
  const int first_, end_;
  int tile_ = 0;
  std::int32_t number_;
  std::uint32_t present_;
  Found mine_;
};

/// A lane's chunks of a row as they lie in the cache.
struct Raw {
  uint4 codes[Feeder::kCodeBlocks], rotary[2];
  uint2 scales;
};

/// Starts the copies of this lane's chunks of a row. An absent row is zeros.
__device__ __forceinline__ void copy_row(std::uint8_t* raw, std::uint8_t* scales, const Feeder& feeder, const Found& found) {
  const bool is_there = found.row != 0;
  raw += feeder.row * kRowBytes;
  const auto* row = reinterpret_cast<const std::uint8_t*>(found.row);
#pragma unroll
  for (int b = 0; b < Feeder::kCodeBlocks; ++b)
    copy::async_or_zeros<16>(raw + feeder.raw_at() + b * 64, row + feeder.raw_at() + b * 64, is_there);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = Feeder::kCodeBlocks * 64 + feeder.part * 16 + i * 64;
    copy::async_or_zeros<16>(raw + at, row + at, is_there);
  }
  if (feeder.part == 0) copy::async_or_zeros<8>(scales + feeder.row * kScaleBytes, row + found.to_scales, is_there);
  copy::commit();
}
/// Takes them, when they have come.
__device__ __forceinline__ void take_row(const std::uint8_t* raw, const std::uint8_t* scales, const Feeder& feeder, Raw& taken) {
  copy::wait<0>();
  __syncwarp();  // the row's scales came through one of its lanes
  raw += feeder.row * kRowBytes;
  taken.scales = *reinterpret_cast<const uint2*>(scales + feeder.row * kScaleBytes);
#pragma unroll
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) taken.codes[b] = *reinterpret_cast<const uint4*>(raw + feeder.raw_at() + b * 64);
  taken.rotary[0] = *reinterpret_cast<const uint4*>(raw + feeder.raw_rotary_at());
  taken.rotary[1] = *reinterpret_cast<const uint4*>(raw + feeder.raw_other_rotary_at());
  __syncwarp();  // taken by all: the next rows may come
}

/// 2^(code - 7) twice as bf16: turns a placed code (value * 2^-120) into value * 2^(code - 127). Codes above
/// kLargestCode are more than bf16 holds and go the slow way.
constexpr std::uint32_t kLargestCode = 134;
__device__ __forceinline__ std::uint32_t factor_of(std::uint32_t code) {
  return code * 0x00800080u + (120u << 7) * 0x10001u;
}
/// Whether a byte of four is above kLargestCode.
__device__ __forceinline__ std::uint32_t has_large_code(std::uint32_t codes) {
  return ((codes & 0x7f7f7f7fu) + (127u - (kLargestCode - 128u)) * 0x01010101u) & codes & 0x80808080u;
}
/// Code of block b.
__device__ __forceinline__ std::uint32_t scale_code(const uint2& codes, int b) {
  return (b < 4 ? codes.x : codes.y) >> (8 * (b % 4)) & 0xff;
}

/// Four codes to bf16, scaled, in the order 0, 2, 1, 3: that is how moving bits finds them, and q and the results
/// follow it (in_tile_order). Magnitudes join `largest`.
__device__ __forceinline__ uint2 widen(std::uint32_t word, std::uint32_t factor, std::uint32_t& largest) {
  const std::uint32_t even = (word << 4) & 0x07f007f0u, odd = (word >> 4) & 0x07f007f0u;
  largest = __vimax3_u16x2(largest, even, odd);
  return {mma::multiply_bf16x2(even | ((word << 8) & 0x80008000u), factor),
          mma::multiply_bf16x2(odd | (word & 0x80008000u), factor)};
}
/// The same with NaN codes and scales of any size: rare.
__device__ __forceinline__ std::uint32_t widen_any(std::uint32_t first, std::uint32_t second, std::uint32_t scale) {
  const auto one = [&](std::uint32_t code) {
    return std::uint32_t{to_bf16(decode_e4m3(code & 0xff) * decode_ue8m0(scale)).bits};
  };
  return one(first) | one(second) << 16;
}

__device__ __forceinline__ void store_block(std::uint8_t* tile, int at, int b, const std::uint32_t (&w)[8]) {
  tile += b * kTileSlabBytes;
  *reinterpret_cast<uint4*>(tile + at) = uint4{w[0], w[1], w[2], w[3]};
  *reinterpret_cast<uint4*>(tile + (at ^ 16)) = uint4{w[4], w[5], w[6], w[7]};
}

/// A lane's chunks of a row with a NaN or a scale beyond bf16, from the cache once more. Rare: out of the way of the
/// common path.
__device__ __noinline__ void dequantise_any(std::uint64_t row, uint2 scales, std::uint8_t* tile, int warp) {
  const Feeder feeder(warp);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(row) + feeder.raw_at();
#pragma unroll 1
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(codes + b * 64);
    const std::uint32_t scale = scale_code(scales, b);
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = widen_any(words[i], words[i] >> 16, scale);
      w[2 * i + 1] = widen_any(words[i] >> 8, words[i] >> 24, scale);
    }
    store_block(tile, feeder.codes_at, b, w);
  }
}

/// A lane's chunks of a row into a tile. True if they need dequantise_any.
__device__ __forceinline__ bool dequantise(const Feeder& feeder, const Raw& raw, std::uint8_t* tile) {
  std::uint32_t largest = 0;  // magnitudes of two codes
#pragma unroll
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) {
    const std::uint32_t words[4] = {raw.codes[b].x, raw.codes[b].y, raw.codes[b].z, raw.codes[b].w},
                        factor = factor_of(scale_code(raw.scales, b));
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint2 four = widen(words[i], factor, largest);
      w[2 * i] = four.x;
      w[2 * i + 1] = four.y;
    }
    store_block(tile, feeder.codes_at, b, w);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ i << 6)) = raw.rotary[i];
  // The pad byte behind the scales can only cost time.
  return (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0 ||
         (has_large_code(raw.scales.x) | has_large_code(raw.scales.y)) != 0;
}

/// The work of warp `warp` (0..3) of feeding group `group` on one unit; `base` is the number of tiles before it.
__device__ __forceinline__ void feed_unit(Shared& shared, const Rows& rows, const Range& range, int base,
                                          const Feeder& feeder, int group, int warp) {
  const bool is_first_lane = threadIdx.x % 32 == 0;
  const int end = base + range.tiles, first = base + ((group ^ base) & 1);
  if (first >= end) return;
  std::uint8_t* const ring = shared.raw[group * kFeedWarps + warp];
  std::uint8_t* const scales = shared.scales[group * kFeedWarps + warp];
  Lookup lookup(rows, range.first_row + (first - base) * kTileRows + warp * kFeedRows, range.end_row);
  std::uint32_t present;
  Found found = lookup.next(feeder.row, present);
  copy_row(ring, scales, feeder, found);
#pragma unroll 1
  for (int tile = first; tile < end; tile += 2) {
    const int slot = tile % kTiles;
    Raw raw;
    take_row(ring, scales, feeder, raw);
    const std::uint32_t present_here = present;
    const std::uint64_t row_here = found.row;
    if (tile + 2 < end) {
      found = lookup.next(feeder.row, present);
      copy_row(ring, scales, feeder, found);
    }
    barrier::wait(&shared.tile_empty[slot], (tile / kTiles & 1) ^ 1);
    std::uint8_t* const to = shared.tiles[slot];
    if (dequantise(feeder, raw, to)) dequantise_any(row_here, raw.scales, to, warp);
    if (is_first_lane) reinterpret_cast<std::uint8_t*>(&shared.present[slot])[warp] = static_cast<std::uint8_t>(present_here);
    // What makes the stores visible to the tensor cores is up to the math groups.
    __syncwarp();
    if (is_first_lane) barrier::arrive(&shared.tile_full[slot]);
  }
}

__device__ __forceinline__ void feed(const Launch& launch, Shared& shared, int group, int warp) {
  const Feeder feeder(warp);
  int base = 0;
#pragma unroll 1
  for (std::int64_t number = blockIdx.x; number < launch.units; number += gridDim.x) {
    const Rows rows(launch, Unit(launch, number).t);
    const Range range(launch, rows);
    feed_unit(shared, rows, range, base, feeder, group, warp);
    base += range.tiles;
  }
}

}  // namespace fathom::attend_sm90_kernel
