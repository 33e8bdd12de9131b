// attend on Hopper: the feeding warps. Each brings four of a tile's 32 rows: looks them up, copies them raw, 584 bytes
// each, into its part of a ring (cp.async, some 37 KB under way in all), and turns them into bf16 rows of the tile,
// swizzled for the tensor cores. A lane reads only what it copied itself, so that the ring needs no barrier.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// What a lane has of its warp's four rows. Eight lanes share two rows; of each they have every second block of 64
/// elements, a 16-byte chunk of it each. Neighbouring rows are rotated differently in a tile, so that the eight lanes'
/// stores meet eight different places. The last block is rotary: 128 bytes of bf16, two chunks a lane.
struct Feeder {
  static constexpr int kSteps = 4;  ///< blocks of a lane
  int row;   ///< of the warp's
  int odd;   ///< blocks odd, odd + 2, odd + 4, odd + 6
  int part;  ///< which 16 bytes of a block of codes
  // Bytes from the tile's start.
  int codes_at;   ///< of the first half of chunk `part` widened, in the lane's first block; the second half lies at ^ 16
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

/// Looks rows up for a whole warp, a lane each, for eight tiles at a time and some tiles before they are asked for. Everything that is known lies in shared memory: registers are for rows.
class Lookup {
 public:
  __device__ Lookup(const Launch& launch, Found& found, const Range& range, int warp)
      : launch_(launch), found_(found), first_(range.first_row + warp * kFeedRows), end_(range.end_row) {
    ask_for_numbers(Rows(launch, found.walks), 0);
    copy::commit();
    copy::wait<0>();
    find(0);
    __syncwarp();
  }
  /// To be called when the copies of tile `turn` have come: then the rows of the tiles under way are known.
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
    return first_ + (batch * kBatch + lane / kFeedRows) * kTileRows + lane % kFeedRows;
  }
  // Its copies, and find's, are of the group that is committed next.
  __device__ __forceinline__ void ask_for_numbers(const Rows& rows, int batch) {
    const int i = row_of(batch);
    if (i < end_) copy::async<4>(&found_.numbers[threadIdx.x % 32], rows.number_at(i));
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
    ask_for_numbers(rows, batch + 1);
  }

  const Launch& launch_;
  Found& found_;
  const int first_, end_;
};

/// Starts the copies of this lane's chunks of a row. An absent row is zeros.
__device__ __forceinline__ void copy_chunks(std::uint8_t* raw, const std::uint8_t* row, const Feeder& feeder) {
  const bool is_there = row != nullptr;
  row += feeder.raw_at();
#pragma unroll
  for (int c = 0; c < Feeder::kSteps; ++c) copy::async_or_zeros<16>(raw + c * 128, row + c * 128, is_there);
  if (feeder.odd) copy::async_or_zeros<16>(raw + 3 * 128 + 64, row + 3 * 128 + 64, is_there);
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
__device__ __noinline__ void dequantise_any(const std::uint8_t* raw, std::uint64_t scales, std::uint8_t* block, int at,
                                            int blocks) {
#pragma unroll 1
  for (int c = 0; c < blocks; ++c, raw += 128, block += 2 * kTileSlabBytes, scales >>= 16) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(raw);
    const std::uint32_t scale = static_cast<std::uint32_t>(scales) & 0xff;
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = widen_any(words[i], words[i] >> 16, scale);
      w[2 * i + 1] = widen_any(words[i] >> 8, words[i] >> 24, scale);
    }
    store_block(block, at, w);
  }
}

/// A chunk of codes widened into its block.
__device__ __forceinline__ void widen_chunk(const uint4& chunk, std::uint32_t code, std::uint8_t* block, int at,
                                            std::uint32_t& largest) {
  const std::uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w}, factor = factor_of(code);
  std::uint32_t w[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint2 four = widen(words[i], factor, largest);
    w[2 * i] = four.x;
    w[2 * i + 1] = four.y;
  }
  store_block(block, at, w);
}

/// A lane's chunks of a row, from the ring into a tile; `chunk` is the first. A loop, not unrolled: its code stays in the
/// smallest instruction cache, and a chunk is asked for while the one before it is worked on.
__device__ __forceinline__ void dequantise(const Feeder& feeder, const std::uint8_t* raw, uint4 chunk, std::uint64_t scales,
                                           std::uint8_t* tile) {
  const std::uint64_t mine = scales >> 8 * feeder.odd;  // the lane's codes are every second
  std::uint64_t codes = mine;
  std::uint32_t largest = 0;  // magnitudes of two codes
  std::uint8_t* block = tile;
  const std::uint8_t* from = raw;
#pragma unroll 1
  for (int c = 1; c < Feeder::kSteps; ++c, block += 2 * kTileSlabBytes, codes >>= 16) {
    from += 128;
    const uint4 now = chunk;
    chunk = *reinterpret_cast<const uint4*>(from);
    widen_chunk(now, static_cast<std::uint32_t>(codes) & 0xff, block, feeder.codes_at, largest);
  }
  if (feeder.odd == 0) {
    widen_chunk(chunk, static_cast<std::uint32_t>(codes) & 0xff, block, feeder.codes_at, largest);
  } else {
    *reinterpret_cast<uint4*>(tile + feeder.rotary_at) = chunk;
    *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ 64)) = *reinterpret_cast<const uint4*>(from + 64);
  }
  // The pad byte behind the scales can only cost time.
  const bool is_rare = (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0 ||
                       (has_large_code(static_cast<std::uint32_t>(scales)) | has_large_code(scales >> 32)) != 0;
  if (is_rare) dequantise_any(raw, mine, tile, feeder.codes_at, Feeder::kSteps - feeder.odd);
}

/// The work of feeding warp `warp` (0..7) on one unit; `base` is the number of tiles before it.
__device__ __forceinline__ void feed_unit(const Launch& launch, Shared& shared, const Range& range, int base,
                                          const Feeder& feeder, int warp) {
  const bool is_first_lane = threadIdx.x % 32 == 0;
  const int at = feeder.row * kRowBytes + feeder.raw_at();
  Lookup lookup(launch, shared.found[warp], range, warp);
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    copy_chunks(shared.raw[warp][i] + at, lookup.row(i, feeder.row), feeder);
    copy::commit();
  }
#pragma unroll 1
  for (int i = 0; i < range.tiles; ++i) {
    const int tile = base + i, slot = tile % kTiles;
    std::uint8_t* const raw = shared.raw[warp][i % kAhead] + at;
    copy::wait<kAhead - 1>();
    lookup.reach(i);
    const uint4 chunk = *reinterpret_cast<const uint4*>(raw);
    const std::uint64_t scales = lookup.scales(i, feeder.row);
    barrier::wait(&shared.tile_empty[slot], (tile / kTiles & 1) ^ 1);
    dequantise(feeder, raw, chunk, scales, shared.tiles[slot]);
    if (is_first_lane) shared.present[slot][warp] = static_cast<std::uint8_t>(lookup.present(i));
    // What makes the stores visible to the tensor cores is up to the math groups.
    __syncwarp();
    if (is_first_lane) barrier::arrive(&shared.tile_full[slot]);
    copy_chunks(raw, lookup.row(i + kAhead, feeder.row), feeder);
    copy::commit();
  }
}

__device__ __forceinline__ void feed(const Launch& launch, Shared& shared, int warp) {
  const Feeder feeder(warp);
  Found& found = shared.found[warp];
  int base = 0;
#pragma unroll 1
  for (std::int64_t number = blockIdx.x; number < launch.units; number += gridDim.x) {
    const Rows rows(launch, Unit(launch, number).t);
    const Range range(launch, rows);
    copy::wait<0>();
    __syncwarp();
    if (threadIdx.x % 32 == 0) found.walks = rows.walks();
    __syncwarp();
    feed_unit(launch, shared, range, base, feeder, warp);
    base += range.tiles;
  }
  copy::wait<0>();
}

}  // namespace fathom::attend_sm90_kernel
