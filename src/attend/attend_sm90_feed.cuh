// attend on Hopper: the two feeding groups. They take tiles in turns; each of a group's four warps brings eight of a
// tile's 32 rows: looks them up, copies them raw, 584 bytes each, into shared memory (cp.async, some 37 KB under way in
// all), takes them into registers, and when the tile's slot is free turns them into bf16 rows of the tile, swizzled for
// the tensor cores. A lane reads only what it copied itself.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// What a lane has of its warp's eight rows: a row has four lanes, and each of them a 16-byte chunk of every block of
/// 64 codes, and two chunks of the rotary block, 128 bytes of bf16.
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
    codes_at = wgmma::chunk_at(warp * kFeedRows + row, 2 * part);
    rotary_at = kCodeBlocks * kTileSlabBytes + wgmma::chunk_at(warp * kFeedRows + row, part);
  }
  /// Bytes from a raw row's start of the lane's first chunk; the next are 64 further each, the last two rotary.
  __device__ int raw_at() const { return part * 16; }
};

/// Looks rows up for a whole warp, a lane each, for four of the group's tiles at a time and some tiles before they are
/// asked for. Everything that is known lies in shared memory: registers are for rows.
class Lookup {
 public:
  /// `first` is the warp's first row of the group's first tile, counted in the unit's rows.
  __device__ Lookup(const Launch& launch, Found& found, int first, int end)
      : launch_(launch), found_(found), first_(first), end_(end) {
    ask_for_number(Rows(launch, found.walks), 0);
    copy::wait<0>();
    find(0);
    __syncwarp();
  }
  /// To be called when the copies of the group's tile `turn` have come: then the rows of the next turn are known.
  __device__ __forceinline__ void reach(int turn) {
    if (turn % kBatch == 1) find(turn / kBatch + 1);
    __syncwarp();
  }
  __device__ __forceinline__ const std::uint8_t* row(int turn, int row_of_warp) const {
    return found_.rows[turn / kBatch % 2][turn % kBatch * kFeedRows + row_of_warp];
  }
  /// The row's seven scale codes, block 0 lowest.
  __device__ __forceinline__ std::uint64_t scales(int turn, int row_of_warp) const {
    return found_.scales[turn / kBatch % 2][turn % kBatch * kFeedRows + row_of_warp];
  }
  /// A bit for each of the warp's rows that is there.
  __device__ __forceinline__ std::uint32_t present(int turn) const {
    return found_.present[turn / kBatch % 2] >> (turn % kBatch * kFeedRows) & ((1u << kFeedRows) - 1);
  }

 private:
  static constexpr int kBatch = 32 / kFeedRows;

  /// The lane's row in a batch.
  __device__ __forceinline__ int row_of(int batch) const {
    const int lane = threadIdx.x % 32;
    return first_ + (batch * kBatch + lane / kFeedRows) * 2 * kTileRows + lane % kFeedRows;
  }
  __device__ __forceinline__ void ask_for_number(const Rows& rows, int batch) {
    const int i = row_of(batch);
    if (i < end_) copy::async<4>(&found_.numbers[threadIdx.x % 32], rows.number_at(i));
    copy::commit();
  }
  __device__ __forceinline__ void find(int batch) {
    const int lane = threadIdx.x % 32, i = row_of(batch);
    const Rows rows(launch_, found_.walks);
    RowAddress at{nullptr, nullptr};
    if (i < end_) at = rows.address(i, found_.numbers[lane]);
    const bool is_there = at.row != nullptr;
    const std::uint32_t present = __ballot_sync(kAllLanes, is_there);
    if (lane == 0) found_.present[batch % 2] = present;
    found_.rows[batch % 2][lane] = reinterpret_cast<const std::uint8_t*>(at.row);
    copy::async_or_zeros<8>(&found_.scales[batch % 2][lane], at.scales, is_there);
    ask_for_number(rows, batch + 1);
  }

  const Launch& launch_;
  Found& found_;
  const int first_, end_;
};

/// Starts the copies of this lane's chunks of a row. An absent row is zeros.
__device__ __forceinline__ void copy_row(std::uint8_t* raw, const std::uint8_t* row, const Feeder& feeder) {
  const bool is_there = row != nullptr;
  row += feeder.raw_at();
#pragma unroll
  for (int b = 0; b < Feeder::kCodeBlocks + 2; ++b) copy::async_or_zeros<16>(raw + b * 64, row + b * 64, is_there);
  copy::commit();
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

__device__ __forceinline__ void store_block(std::uint8_t* block, int at, const std::uint32_t (&w)[8]) {
  *reinterpret_cast<uint4*>(block + at) = uint4{w[0], w[1], w[2], w[3]};
  *reinterpret_cast<uint4*>(block + (at ^ 16)) = uint4{w[4], w[5], w[6], w[7]};
}

/// A lane's chunks of a row with a NaN or a scale beyond bf16. Rare: out of the way of the common path.
__device__ __noinline__ void dequantise_any(const std::uint8_t* raw, std::uint64_t scales, std::uint8_t* tile, int at) {
#pragma unroll 1
  for (int b = 0; b < Feeder::kCodeBlocks; ++b, raw += 64, tile += kTileSlabBytes, scales >>= 8) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(raw);
    const std::uint32_t scale = static_cast<std::uint32_t>(scales) & 0xff;
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = widen_any(words[i], words[i] >> 16, scale);
      w[2 * i + 1] = widen_any(words[i] >> 8, words[i] >> 24, scale);
    }
    store_block(tile, at, w);
  }
}

/// A lane's chunks of a row, from where they were copied to into a tile. A loop, not unrolled: its code stays in the
/// smallest instruction cache, and a chunk is asked for while the one before it is worked on.
__device__ __forceinline__ void dequantise(const Feeder& feeder, const std::uint8_t* raw, uint4 chunk,
                                           std::uint64_t scales, std::uint8_t* tile) {
  const auto next_chunk = [&](int b) { return *reinterpret_cast<const uint4*>(raw + b * 64); };
  std::uint32_t largest = 0;  // magnitudes of two codes
  std::uint8_t* block = tile;
  std::uint64_t codes = scales;
#pragma unroll 1
  for (int b = 1; b <= Feeder::kCodeBlocks; ++b, block += kTileSlabBytes, codes >>= 8) {
    const std::uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w},
                        factor = factor_of(static_cast<std::uint32_t>(codes) & 0xff);
    chunk = next_chunk(b);
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint2 four = widen(words[i], factor, largest);
      w[2 * i] = four.x;
      w[2 * i + 1] = four.y;
    }
    store_block(block, feeder.codes_at, w);
  }
  *reinterpret_cast<uint4*>(tile + feeder.rotary_at) = chunk;
  *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ 64)) = next_chunk(Feeder::kCodeBlocks + 1);
  // The pad byte behind the scales can only cost time.
  const bool is_rare = (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0 ||
                       (has_large_code(static_cast<std::uint32_t>(scales)) | has_large_code(scales >> 32)) != 0;
  if (is_rare) dequantise_any(raw, scales, tile, feeder.codes_at);
}

/// The work of warp `warp` (0..3) of feeding group `group` on one unit; `base` is the number of tiles before it.
__device__ __forceinline__ void feed_unit(const Launch& launch, Shared& shared, const Range& range, int base,
                                          const Feeder& feeder, int group, int warp) {
  const bool is_first_lane = threadIdx.x % 32 == 0;
  const int first = (group ^ base) & 1, turns = (range.tiles - first + 1) / 2;  // tiles of the group's
  if (turns <= 0) return;
  std::uint8_t* const raw = shared.raw[group * kFeedWarps + warp] + feeder.row * kRowBytes + feeder.raw_at();
  Lookup lookup(launch, shared.found[group * kFeedWarps + warp], range.first_row + first * kTileRows + warp * kFeedRows,
                range.end_row);
  copy_row(raw, lookup.row(0, feeder.row), feeder);
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    const int tile = base + first + 2 * turn, slot = tile % kTiles;
    copy::wait<0>();
    lookup.reach(turn);
    const uint4 chunk = *reinterpret_cast<const uint4*>(raw);
    const std::uint64_t scales = lookup.scales(turn, feeder.row);
    barrier::wait(&shared.tile_empty[slot], (tile / kTiles & 1) ^ 1);
    dequantise(feeder, raw, chunk, scales, shared.tiles[slot]);
    if (is_first_lane)
      reinterpret_cast<std::uint8_t*>(&shared.present[slot])[warp] = static_cast<std::uint8_t>(lookup.present(turn));
    // What makes the stores visible to the tensor cores is up to the math groups.
    __syncwarp();
    if (is_first_lane) barrier::arrive(&shared.tile_full[slot]);
    if (turn + 1 < turns) copy_row(raw, lookup.row(turn + 1, feeder.row), feeder);
  }
}

__device__ __forceinline__ void feed(const Launch& launch, Shared& shared, int group, int warp) {
  const Feeder feeder(warp);
  Found& found = shared.found[group * kFeedWarps + warp];
  int base = 0;
#pragma unroll 1
  for (std::int64_t number = blockIdx.x; number < launch.units; number += gridDim.x) {
    const Rows rows(launch, Unit(launch, number).t);
    const Range range(launch, rows);
    __syncwarp();
    if (threadIdx.x % 32 == 0) found.walks = rows.walks();
    __syncwarp();
    feed_unit(launch, shared, range, base, feeder, group, warp);
    base += range.tiles;
  }
}

}  // namespace fathom::attend_sm90_kernel
