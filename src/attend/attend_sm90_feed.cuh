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
  uint2 scales;
};
__device__ __forceinline__ uint4 load_chunk(const std::uint8_t* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
__device__ __forceinline__ uint2 load_scales(const std::uint8_t* from) {
  uint2 v;
  asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
/// Where a lane's chunks lie: chunks of codes 64 bytes apart.
struct Source {
  const std::uint8_t *codes, *scales;
  int first_rotary;  ///< bytes from `codes`
  __device__ Source(const Feeder& feeder, const Found& found)
      : codes(found.row + feeder.part * 16), scales(found.row + found.to_scales),
        first_rotary(Feeder::kCodeBlocks * 64 + feeder.row % 2 * 64) {}
  __device__ uint4 rotary(int i) const { return load_chunk(codes + (i == 0 ? first_rotary : 15 * 64 - first_rotary)); }
};

/// An absent row: zeros, so that nothing comes of its weight, which is 0.
__device__ const uint4 no_row[(kRowBytes + kScaleBytes + 15) / 16] = {};

/// Looks rows up for a whole warp: a lane each, for four tiles at a time, a batch ahead of their loads.
class Lookup {
 public:
  __device__ Lookup(const Rows& rows, const Range& range, int warp, Found (&found)[2][32])
      : rows_(rows), range_(range), warp_(warp), found_(found) {
    number_ = rows.number(row_of(0));
    find(0);
  }
  /// The lane's row of tile `tile`, the next; `present` gets a bit for each of the warp's eight.
  __device__ __forceinline__ Found next(int tile, int row_of_warp, std::uint32_t& present) {
    const int turn = tile % kBatch;
    if (turn == 0 && tile != 0) find(tile / kBatch);
    present = present_ >> (turn * kFeedRows) & ((1u << kFeedRows) - 1);
    return at(tile, row_of_warp);
  }
  /// The lane's row of a tile that `next` has given, the last or the one before.
  __device__ __forceinline__ const Found& at(int tile, int row_of_warp) const {
    return found_[tile / kBatch % 2][tile % kBatch * kFeedRows + row_of_warp];
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
    const bool is_there = at.row != nullptr;
    present_ = __ballot_sync(kAllLanes, is_there);
    Found& mine = found_[batch % 2][threadIdx.x % 32];
    mine.row = is_there ? reinterpret_cast<const std::uint8_t*>(at.row) : reinterpret_cast<const std::uint8_t*>(no_row);
    mine.to_scales = is_there ? static_cast<std::int32_t>(at.scales - at.row) : kRowBytes;
    __syncwarp();
  }

  const Rows& rows_;
  const Range range_;
  const int warp_;
  Found (&found_)[2][32];
  std::int32_t number_;
  std::uint32_t present_;
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
__device__ __noinline__ void dequantise_any(const Found& found, std::uint8_t* tile, int warp) {
  const Feeder feeder(warp);
  const Source source(feeder, found);
  const uint2 codes = load_scales(source.scales);
#pragma unroll 1
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) {
    const uint4 v = load_chunk(source.codes + b * 64);
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

/// Asks for a lane's chunks of a row, all together: a wait for one load is a wait for every later one that shares its
/// scoreboard, of which a warp has six.
__device__ __forceinline__ void load_row(const Source& source, Raw& raw) {
  raw.scales = load_scales(source.scales);
#pragma unroll
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) raw.codes[b] = load_chunk(source.codes + b * 64);
#pragma unroll
  for (int i = 0; i < 2; ++i) raw.rotary[i] = source.rotary(i);
}

/// A lane's chunks of a row into a tile. True if the row needs dequantise_any.
__device__ __forceinline__ bool dequantise(const Feeder& feeder, const Raw& raw, std::uint8_t* tile) {
  std::uint32_t largest = 0;  // magnitudes of two codes
  const uint2 scales = raw.scales;
#pragma unroll
  for (int b = 0; b < Feeder::kCodeBlocks; ++b) {
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
#pragma unroll
  for (int i = 0; i < 2; ++i) *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ i << 6)) = raw.rotary[i];
  // The pad byte behind the scales can only cost time.
  const bool has_nan = (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0;
  return has_nan || (has_large_code(scales.x) | has_large_code(scales.y)) != 0;
}

/// The work of feeding warp `warp` (0..7) on one unit; `base` is the number of tiles before it.
__device__ __forceinline__ void feed_unit(Shared& shared, const Rows& rows, const Range& range, int base,
                                          const Feeder& feeder, int warp) {
  const bool is_first_lane = threadIdx.x % 32 == 0;
  Lookup lookup(rows, range, warp, shared.found[warp]);
  std::uint32_t present;
  Raw raw;
  load_row(Source(feeder, lookup.next(0, feeder.row, present)), raw);
#pragma unroll 1
  for (int i = 0; i < range.tiles; ++i) {
    const int tile = base + i, slot = tile % kTiles;
    std::uint8_t* const to = shared.tiles[slot];
    barrier::wait(&shared.tile_empty[slot], (tile / kTiles & 1) ^ 1);
    if (dequantise(feeder, raw, to)) dequantise_any(lookup.at(i, feeder.row), to, warp);
    if (is_first_lane) shared.present[slot][warp] = static_cast<std::uint8_t>(present);
    barrier::publish_to_tensor_cores();  // waits for loads, too: none may be under way
    __syncwarp();
    if (is_first_lane) barrier::arrive(&shared.tile_full[slot]);
    load_row(Source(feeder, lookup.next(i + 1, feeder.row, present)), raw);
  }
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
