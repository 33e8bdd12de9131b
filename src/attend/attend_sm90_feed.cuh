// attend on Hopper: the feeding warps. Each brings four of a tile's 32 rows: looks them up, copies them raw, 584 bytes
// each, into its part of a ring (cp.async, some 50 KB under way in all), and turns them into bf16 rows of the tile,
// swizzled for the tensor cores. Only the warp that copied a row reads it from the ring, so that the ring needs no
// barrier.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// What a lane has of its warp's four rows. Eight lanes share two rows; of each they have every second block of 64
/// elements, a 16-byte chunk of it each. Neighbouring rows are rotated differently in a tile, so that the eight lanes'
/// stores meet eight different places. The last block is rotary: 128 bytes of bf16, two chunks a lane.
struct Feeder {
  int row;   ///< of the warp's
  int odd;   ///< blocks odd, odd + 2, odd + 4, odd + 6
  int part;  ///< which 16 bytes of a block of codes
  // Bytes from the tile's start.
  int codes_at;  ///< of the first half of chunk `part` widened, in the lane's first block; the second half lies at ^ 16
  int rotary_at;  ///< of rotary chunk `part`; chunk part + 4 lies at ^ 64

  __device__ explicit Feeder(int warp) {
    const int lane = threadIdx.x % 32;
    row = (lane / 8 % 2) * 2 + lane / 4 % 2;
    odd = lane / 16;
    part = lane % 4;
    const int row_of_tile = warp * kFeedRows + row;
    codes_at = odd * kTileSlabBytes + wgmma::chunk_at(row_of_tile, 2 * part);
    rotary_at = 7 * kTileSlabBytes + wgmma::chunk_at(row_of_tile, part);
  }
  /// Bytes from a raw row's start of the lane's chunk in its first block; its next is 128 further.
  __device__ int raw_at() const { return odd * 64 + part * 16; }
};
constexpr int kFeederBlocks = 4;  ///< of a lane

__device__ __forceinline__ std::uint8_t* raw_of(Shared& shared, const Feeder& feeder, int warp, int slot) {
  return shared.raw[warp][slot] + feeder.row * kRowBytes + feeder.raw_at();
}
__device__ __forceinline__ std::uint8_t* scales_of(Shared& shared, const Feeder& feeder, int warp, int slot) {
  return shared.scales[warp][slot] + feeder.row * kScaleBytes;
}

/// Where a row lies: a third word has its scales' distance.
struct Found {
  std::uint64_t row = 0;
  std::int32_t to_scales = 0;
};

/// Looks rows up for a whole warp: a lane each, for eight tiles at a time, a batch ahead of their copies.
class Lookup {
 public:
  __device__ Lookup(const Rows& rows, const Range& range, int warp) : rows_(rows), range_(range), warp_(warp) {
    number_ = rows.number(row_of(0));
    find(0);
  }
  /// The lane's row of the next tile; `present` gets a bit for each of the warp's four.
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
    const int i =
        range_.first_row + (batch * kBatch + lane / kFeedRows) * kTileRows + warp_ * kFeedRows + lane % kFeedRows;
    return i < range_.end_row ? i : rows_.count();
  }
  __device__ __forceinline__ void find(int batch) {
    const RowAddress at = rows_.address(row_of(batch), number_);
    number_ = rows_.number(row_of(batch + 1));
    present_ = __ballot_sync(kAllLanes, at.row != nullptr);
    mine_ = {reinterpret_cast<std::uint64_t>(at.row), static_cast<std::int32_t>(at.scales - at.row)};
  }

  const Rows& rows_;
  const Range range_;
  const int warp_;
  int tile_ = 0;
  std::int32_t number_;
  std::uint32_t present_;
  Found mine_;
};

/// Starts the copies of this lane's chunks of a row. An absent row is zeros.
__device__ __forceinline__ void copy_chunks(Shared& shared, const Feeder& feeder, int warp, int slot,
                                            const Found& found) {
  const bool is_there = found.row != 0;
  std::uint8_t* const raw = raw_of(shared, feeder, warp, slot);
  const auto* row = reinterpret_cast<const std::uint8_t*>(found.row);
  const auto* from = row + feeder.raw_at();
#pragma unroll
  for (int c = 0; c < kFeederBlocks; ++c) copy::async_or_zeros<16>(raw + c * 128, from + c * 128, is_there);
  if (feeder.odd) copy::async_or_zeros<16>(raw + 3 * 128 + 64, from + 3 * 128 + 64, is_there);
  if (feeder.odd == 0 && feeder.part == 0)
    copy::async_or_zeros<8>(scales_of(shared, feeder, warp, slot), row + found.to_scales, is_there);
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
/// Code of block odd + 2 c.
__device__ __forceinline__ std::uint32_t scale_code(const uint2& codes, int odd, int c) {
  return (c < 2 ? codes.x : codes.y) >> (8 * odd + 16 * (c % 2)) & 0xff;
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

__device__ __forceinline__ void store_block(std::uint8_t* tile, int at, int c, const std::uint32_t (&w)[8]) {
  tile += c * 2 * kTileSlabBytes;
  *reinterpret_cast<uint4*>(tile + at) = uint4{w[0], w[1], w[2], w[3]};
  *reinterpret_cast<uint4*>(tile + (at ^ 16)) = uint4{w[4], w[5], w[6], w[7]};
}

/// A lane's chunks of a row with a NaN or a scale beyond bf16. Rare: out of the way of the common path.
__device__ __noinline__ void dequantise_any(Shared& shared, int warp, int slot, int tile_slot) {
  const Feeder feeder(warp);
  const uint2 codes = *reinterpret_cast<const uint2*>(scales_of(shared, feeder, warp, slot));
#pragma unroll 1
  for (int c = 0; c < kFeederBlocks - feeder.odd; ++c) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(raw_of(shared, feeder, warp, slot) + c * 128);
    const std::uint32_t scale = scale_code(codes, feeder.odd, c);
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = widen_any(words[i], words[i] >> 16, scale);
      w[2 * i + 1] = widen_any(words[i] >> 8, words[i] >> 24, scale);
    }
    store_block(shared.tiles[tile_slot], feeder.codes_at, c, w);
  }
}

/// A lane's chunks of a row, from the ring into a tile. True if they need dequantise_any.
__device__ __forceinline__ bool dequantise(const Feeder& feeder, const std::uint8_t* raw, const uint2& codes,
                                           std::uint8_t* tile) {
  std::uint32_t largest = 0;  // magnitudes of two codes
#pragma unroll
  for (int c = 0; c < kFeederBlocks; ++c) {
    const uint4 v = *reinterpret_cast<const uint4*>(raw + c * 128);
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w}, factor = factor_of(scale_code(codes, feeder.odd, c));
    std::uint32_t w[8], largest_here = largest;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint2 four = widen(words[i], factor, largest_here);
      w[2 * i] = four.x;
      w[2 * i + 1] = four.y;
    }
    if (c < kFeederBlocks - 1 || feeder.odd == 0) {
      store_block(tile, feeder.codes_at, c, w);
      largest = largest_here;
    } else {
      *reinterpret_cast<uint4*>(tile + feeder.rotary_at) = v;
      *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ 64)) = *reinterpret_cast<const uint4*>(raw + 3 * 128 + 64);
    }
  }
  // The pad byte behind the scales can only cost time.
  const bool has_nan = (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0;
  return has_nan || (has_large_code(codes.x) | has_large_code(codes.y)) != 0;
}

/// The work of feeding warp `warp` (0..7) on one unit; `base` is the number of tiles before it.
__device__ __forceinline__ void feed_unit(Shared& shared, const Rows& rows, const Range& range, int base,
                                          const Feeder& feeder, int warp) {
  const bool is_first_lane = threadIdx.x % 32 == 0;
  Lookup lookup(rows, range, warp);
  std::uint32_t present[kAhead];  // of the tiles under way, the oldest first
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const Found found = lookup.next(feeder.row, present[i]);
    copy_chunks(shared, feeder, warp, i, found);
    copy::commit();
  }
#pragma unroll 1
  for (int i = 0; i < range.tiles; ++i) {
    const int tile = base + i, tile_slot = tile % kTiles, slot = i % kAhead;
    copy::wait<kAhead - 1>();
    __syncwarp();  // the row's scales came through one of its lanes
    const uint2 codes = *reinterpret_cast<const uint2*>(scales_of(shared, feeder, warp, slot));
    barrier::wait(&shared.tile_empty[tile_slot], (tile / kTiles & 1) ^ 1);
    if (dequantise(feeder, raw_of(shared, feeder, warp, slot), codes, shared.tiles[tile_slot]))
      dequantise_any(shared, warp, slot, tile_slot);
    if (is_first_lane) shared.present[tile_slot][warp] = static_cast<std::uint8_t>(present[0]);
    // What makes the stores visible to the tensor cores is up to the math groups: here it would wait for the copies.
    __syncwarp();
    if (is_first_lane) barrier::arrive(&shared.tile_full[tile_slot]);
      // The ring's slot is used up by the whole warp: the tile after those under way may come.
#pragma unroll
    for (int k = 1; k < kAhead; ++k) present[k - 1] = present[k];
    const Found found = lookup.next(feeder.row, present[kAhead - 1]);
    copy_chunks(shared, feeder, warp, slot, found);
    copy::commit();
  }
  copy::wait<0>();
  __syncwarp();
}

__device__ __forceinline__ void feed(const Launch& launch, Shared& shared, int warp) {
  const Feeder feeder(warp);
  int base = 0;
#pragma unroll 1
  for (std::int64_t number = blockIdx.x; number < launch.units; number += gridDim.x) {
    const Rows rows(launch, Unit(launch, number).t);
    const Range range(launch, rows);
    feed_unit(shared, rows, range, base, feeder, warp);
    base += range.tiles;
  }
}

}  // namespace fathom::attend_sm90_kernel
