// attend on Hopper: the feeding warps. Each brings eight of a tile's 64 rows: looks them up, loads them raw, 584 bytes
// each, into registers, and when their slot is free turns them into bf16 rows of the tile, swizzled for the tensor
// cores. As a chunk leaves its registers the next row's chunk is already asked for: some 37 KB are under way in all.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// What a lane has of its warp's eight rows: a row has four lanes, and each of them a 16-byte chunk of every block of 64
/// codes, and two chunks of the rotary block, 128 bytes of bf16. Odd rows take their two rotary chunks the other way
/// round, so that eight lanes' stores meet eight different places.
struct Feeder {
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
    rotary_at = kCodeBlocks * kTileSlabBytes + wgmma::chunk_at(warp * kFeedRows + row, part + row % 2 * 4);
  }
  static constexpr int kCodeBlocks = 7;
};

/// A lane's chunks of a row as they lie in the cache.
struct Raw {
  uint4 codes[Feeder::kCodeBlocks], rotary[2];
};
__device__ __forceinline__ uint4 load_chunk(const std::uint8_t* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
/// Rotary chunk i (0, 1) of the lane; `codes` is its chunk of block 0.
__device__ __forceinline__ uint4 load_rotary(const Feeder& feeder, const std::uint8_t* codes, int i) {
  return load_chunk(codes + Feeder::kCodeBlocks * 64 + (feeder.row % 2 ^ i) * 64);
}

/// An absent row: zeros, so that nothing comes of its weight, which is 0.
__device__ const uint4 no_row[kRowBytes / 16] = {};

/// Looks rows up for a whole warp, a lane each, for four tiles at a time and four tiles before they are asked for.
/// Everything that is known lies in shared memory: registers are for rows under way.
class Lookup {
 public:
  static constexpr int kBatch = 32 / kFeedRows;  ///< tiles

  __device__ Lookup(const Launch& launch, Found& found, const Range& range, int warp)
      : launch_(launch), found_(found), range_(range), warp_(warp) {
    ask_for_number(Rows(launch, found.walks), 0);
    copy::wait<0>();
    find(0);
    __syncwarp();
  }
  /// To be called before anything of tile `tile` is read; the rows of the tile behind it are known then, too.
  __device__ __forceinline__ void reach(int tile) {
    if (tile % kBatch > 1) return;
    copy::wait<0>();
    if (tile % kBatch == 1) find(tile / kBatch + 1);
    __syncwarp();
  }
  __device__ __forceinline__ const std::uint8_t* row(int tile, int row_of_warp) const {
    return found_.rows[tile / kBatch % 2][tile % kBatch * kFeedRows + row_of_warp];
  }
  __device__ __forceinline__ const uint2& scales(int tile, int row_of_warp) const {
    return found_.scales[tile / kBatch % 2][tile % kBatch * kFeedRows + row_of_warp];
  }
  /// A bit for each of the warp's rows that is there.
  __device__ __forceinline__ std::uint32_t present(int tile) const {
    return found_.present[tile / kBatch % 2] >> (tile % kBatch * kFeedRows) & ((1u << kFeedRows) - 1);
  }

 private:
  /// The lane's row in a batch.
  __device__ __forceinline__ int row_of(int batch) const {
    const int lane = threadIdx.x % 32;
    return range_.first_row + (batch * kBatch + lane / kFeedRows) * kTileRows + warp_ * kFeedRows + lane % kFeedRows;
  }
  __device__ __forceinline__ void ask_for_number(const Rows& rows, int batch) {
    const int i = row_of(batch);
    if (i < range_.end_row) copy::async<4>(&found_.numbers[threadIdx.x % 32], rows.number_at(i));
    copy::commit();
  }
  __device__ __forceinline__ void find(int batch) {
    const int lane = threadIdx.x % 32, i = row_of(batch);
    const Rows rows(launch_, found_.walks);
    RowAddress at{nullptr, nullptr};
    if (i < range_.end_row) at = rows.address(i, found_.numbers[lane]);
    const bool is_there = at.row != nullptr;
    const std::uint32_t present = __ballot_sync(kAllLanes, is_there);
    if (lane == 0) found_.present[batch % 2] = present;
    found_.rows[batch % 2][lane] = is_there ? reinterpret_cast<const std::uint8_t*>(at.row) : reinterpret_cast<const std::uint8_t*>(no_row);
    copy::async_or_zeros<8>(&found_.scales[batch % 2][lane], at.scales, is_there);
    ask_for_number(rows, batch + 1);
  }

  const Launch& launch_;
  Found& found_;
  const Range range_;
  const int warp_;
};

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

/// A lane's chunks of a row with a NaN or a scale beyond bf16, from the cache again. Rare: out of the way of the common
/// path.
__device__ __noinline__ void dequantise_any(const std::uint8_t* row, uint2 codes, std::uint8_t* tile, int warp) {
  const Feeder feeder(warp);
#pragma unroll 1
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) {
    const uint4 v = load_chunk(row + feeder.part * 16 + b * 64);
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w}, scale = scale_code(codes, b);
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = widen_any(words[i], words[i] >> 16, scale);
      w[2 * i + 1] = widen_any(words[i] >> 8, words[i] >> 24, scale);
    }
    store_block(tile, feeder.codes_at, b, w);
  }
}

/// Rows come and are widened in two parts, so that one part is under way while the other is worked on. A part is asked
/// for all together: a wait for one load is a wait for every later one that shares its scoreboard, of which a warp has six.
constexpr int kFirstPart = 4;  ///< blocks of codes in part 0; the others and the rotary block are part 1
template <int kPart>
__device__ __forceinline__ void load_part(const Feeder& feeder, const std::uint8_t* row, Raw& raw) {
  const std::uint8_t* const codes = row + feeder.part * 16;
  if constexpr (kPart == 0) {
#pragma unroll
    for (int b = 0; b < kFirstPart; ++b) raw.codes[b] = load_chunk(codes + b * 64);
  } else {
#pragma unroll
    for (int b = kFirstPart; b < Feeder::kCodeBlocks; ++b) raw.codes[b] = load_chunk(codes + b * 64);
#pragma unroll
    for (int i = 0; i < 2; ++i) raw.rotary[i] = load_rotary(feeder, codes, i);
  }
}

/// A part of a lane's chunks of a row into a tile. `largest` gathers magnitudes of codes, two at a time.
template <int kPart>
__device__ __forceinline__ void widen_part(const Feeder& feeder, const Raw& raw, const uint2& scales, std::uint8_t* tile,
                                           std::uint32_t& largest) {
#pragma unroll
  for (int b = kPart * kFirstPart; b < (kPart == 0 ? kFirstPart : Feeder::kCodeBlocks); ++b) {
    const uint4 v = raw.codes[b];
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w}, factor = factor_of(scale_code(scales, b));
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint2 four = widen(words[i], factor, largest);
      w[2 * i] = four.x;
      w[2 * i + 1] = four.y;
    }
    store_block(tile, feeder.codes_at, b, w);
  }
  if constexpr (kPart == 1) {
#pragma unroll
    for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ i << 6)) = raw.rotary[i];
  }
}
/// Whether a row needs dequantise_any. The pad byte behind the scales can only cost time.
__device__ __forceinline__ bool is_rare(std::uint32_t largest, const uint2& scales) {
  return (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0 ||
         (has_large_code(scales.x) | has_large_code(scales.y)) != 0;
}

/// The work of feeding warp `warp` (0..7) on one unit; `base` is the number of tiles before it.
__device__ __forceinline__ void feed_unit(Shared& shared, Lookup& lookup, int tiles, int base, const Feeder& feeder,
                                          int warp) {
  const bool is_first_lane = threadIdx.x % 32 == 0;
  Raw raw;
  load_part<0>(feeder, lookup.row(0, feeder.row), raw);
  load_part<1>(feeder, lookup.row(0, feeder.row), raw);
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
    const int tile = base + i, slot = tile % kTiles;
    std::uint8_t* const to = shared.tiles[slot];
    lookup.reach(i);
    const std::uint8_t* const next = lookup.row(i + 1, feeder.row);
    const uint2 scales = lookup.scales(i, feeder.row);
    barrier::wait(&shared.tile_empty[slot], (tile / kTiles & 1) ^ 1);
    std::uint32_t largest = 0;
    widen_part<0>(feeder, raw, scales, to, largest);
    load_part<0>(feeder, next, raw);
    __syncwarp();  // or the compiler asks for the rows only when it needs their registers
    widen_part<1>(feeder, raw, scales, to, largest);
    if (is_rare(largest, scales)) dequantise_any(lookup.row(i, feeder.row), scales, to, warp);
    if (is_first_lane) shared.present[slot][warp] = static_cast<std::uint8_t>(lookup.present(i));
    // What makes the stores visible to the tensor cores is up to the math groups: here it would wait for the loads.
    __syncwarp();
    if (is_first_lane) barrier::arrive(&shared.tile_full[slot]);
    load_part<1>(feeder, next, raw);
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
    __syncwarp();
    if (threadIdx.x % 32 == 0) found.walks = rows.walks();
    __syncwarp();
    Lookup lookup(launch, found, range, warp);
    feed_unit(shared, lookup, range.tiles, base, feeder, warp);
    base += range.tiles;
  }
}

}  // namespace fathom::attend_sm90_kernel
