// attend on Hopper: the feeding warps. Each brings four of a tile's 32 rows: looks them up, copies them raw, 584 bytes each, into
// a ring (cp.async, some 50 KB under way), and turns them into bf16 rows of a tile, swizzled for the tensor cores. Only the
// warp that copied a row reads it from the ring, so that the ring needs no barrier.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// What a lane has of its warp's four rows. Eight lanes share two rows; of each they have every second block of 64 elements,
/// a 16-byte chunk of it each. Neighbouring rows are rotated differently in a tile, so that the eight lanes' stores meet
/// eight different places. The last block is rotary: 128 bytes of bf16, two chunks a lane.
struct Feeder {
  int row;   ///< of the tile
  int part;  ///< which 16 bytes of a block of codes
  int odd;   ///< blocks odd, odd + 2, odd + 4, odd + 6
  int codes_at, rotary_at;  ///< bytes from the tile's start of the first half of chunk `part` widened, in the first block; of rotary chunk `part`

  __device__ explicit Feeder(int warp) {
    const int lane = threadIdx.x % 32;
    row = warp * kFeedRows + (lane / 8 % 2) * 2 + lane / 4 % 2;
    part = lane % 4;
    odd = lane / 16;
    codes_at = odd * kTileSlabBytes + wgmma::chunk_at(row, 2 * part);  // the second half: chunk 2 * part + 1, at ^ 16
    rotary_at = 7 * kTileSlabBytes + wgmma::chunk_at(row, part);       // the second chunk: part + 4, at ^ 64
  }
  /// Bytes from a raw row's start of the lane's chunk in its first block; its next is 128 further.
  __device__ int raw_at() const { return odd * 64 + part * 16; }
};
constexpr int kFeederBlocks = 4;  ///< of a lane

/// Where a row lies: a third word has its scales' distance.
struct Found {
  std::uint64_t row = 0;
  std::int32_t to_scales = 0;
};

/// Looks rows up for a whole warp: a lane each, for eight tiles at a time, a batch ahead of their copies.
class Lookup {
 public:
  __device__ Lookup(const Rows& rows, const Range& range, int warp)
      : rows_(rows), range_(range), first_(range.first_row + threadIdx.x % 32 / kFeedRows * kTileRows + warp * kFeedRows + threadIdx.x % kFeedRows) {
    number_ = rows.number(row_of(0));
    find(0);
  }
  /// The lane's row of the next tile; `present` gets a bit for each of the warp's rows of it.
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
    const int i = first_ + batch * kBatch * kTileRows;
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
  int first_, tile_ = 0;
  std::int32_t number_;
  std::uint32_t present_;
  Found mine_;
};

/// Starts the copies of this lane's chunks of a row. An absent row is zeros.
__device__ __forceinline__ void copy_chunks(const Feeder& feeder, std::uint8_t* raw, std::uint8_t* scales, const Found& found) {
  const bool is_there = found.row != 0;
  const auto* from = reinterpret_cast<const std::uint8_t*>(found.row);
#pragma unroll
  for (int c = 0; c < kFeederBlocks; ++c) copy::async_or_zeros<16>(raw + c * 128, from + feeder.raw_at() + c * 128, is_there);
  if (feeder.odd) copy::async_or_zeros<16>(raw + 3 * 128 + 64, from + feeder.raw_at() + 3 * 128 + 64, is_there);
  if (feeder.odd == 0 && feeder.part == 0) copy::async_or_zeros<8>(scales, from + found.to_scales, is_there);
}

/// 2^(code - 7) twice as bf16: turns a placed code (value * 2^-120) into value * 2^(code - 127). Codes above kLargestCode are
/// more than bf16 holds and go the slow way.
constexpr std::uint32_t kLargestCode = 134;
__device__ __forceinline__ std::uint32_t factor_of(std::uint32_t code) { return code * 0x00800080u + (120u << 7) * 0x10001u; }
/// Whether a byte of four is above kLargestCode.
__device__ __forceinline__ std::uint32_t has_large_code(std::uint32_t codes) {
  return ((codes & 0x7f7f7f7fu) + (127u - (kLargestCode - 128u)) * 0x01010101u) & codes & 0x80808080u;
}
/// Code of block odd + 2 c.
__device__ __forceinline__ std::uint32_t scale_code(const uint2& codes, int odd, int c) {
  return (c < 2 ? codes.x : codes.y) >> (8 * odd + 16 * (c % 2)) & 0xff;
}

/// Two codes to bf16, with NaN codes and scales of any size: rare.
__device__ __forceinline__ std::uint32_t widen_any(std::uint32_t codes, std::uint32_t scale) {
  std::uint32_t pair = 0;
  for (int i = 0; i < 2; ++i) pair |= std::uint32_t{to_bf16(decode_e4m3(codes >> (8 * i) & 0xff) * decode_ue8m0(scale)).bits} << (16 * i);
  return pair;
}

__device__ __forceinline__ void store_block(std::uint8_t* tile, int at, int c, const std::uint32_t (&w)[8]) {
  tile += c * 2 * kTileSlabBytes;
  *reinterpret_cast<uint4*>(tile + at) = uint4{w[0], w[1], w[2], w[3]};
  *reinterpret_cast<uint4*>(tile + (at ^ 16)) = uint4{w[4], w[5], w[6], w[7]};
}

/// A row with a NaN or a scale beyond bf16. Rare: out of the way of the common path.
__device__ __noinline__ void dequantise_any(const Feeder& feeder, const std::uint8_t* raw, const std::uint8_t* scales, std::uint8_t* tile) {
  const uint2 codes = *reinterpret_cast<const uint2*>(scales);
#pragma unroll 1
  for (int c = 0; c < kFeederBlocks - feeder.odd; ++c) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(raw + c * 128);
    const std::uint32_t scale = scale_code(codes, feeder.odd, c);
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = widen_any(words[i / 2] >> (16 * (i % 2)), scale);
    store_block(tile, feeder.codes_at, c, w);
  }
}

/// This lane's chunks of a row, from the ring into the tile. `raw` is where its first chunk lies.
__device__ __forceinline__ void dequantise(const Feeder& feeder, const std::uint8_t* raw, const std::uint8_t* scales, std::uint8_t* tile) {
  uint4 v[kFeederBlocks];
#pragma unroll
  for (int c = 0; c < kFeederBlocks; ++c) v[c] = *reinterpret_cast<const uint4*>(raw + c * 128);
  const uint2 codes = *reinterpret_cast<const uint2*>(scales);
  std::uint32_t largest = 0;  // magnitudes of two codes
#pragma unroll
  for (int c = 0; c < kFeederBlocks; ++c) {
    const std::uint32_t words[4] = {v[c].x, v[c].y, v[c].z, v[c].w}, factor = factor_of(scale_code(codes, feeder.odd, c));
    std::uint32_t w[8], largest_here = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t low = __byte_perm(words[i], 0, 0x1404), high = __byte_perm(words[i], 0, 0x3424);
      const std::uint32_t low_size = low >> 4 & 0x07f007f0u, high_size = high >> 4 & 0x07f007f0u;
      largest_here = __vimax3_u16x2(largest_here, low_size, high_size);
      w[2 * i] = mma::multiply_bf16x2(low_size | (low & 0x80008000u), factor);
      w[2 * i + 1] = mma::multiply_bf16x2(high_size | (high & 0x80008000u), factor);
    }
    if (c < kFeederBlocks - 1 || feeder.odd == 0) {
      store_block(tile, feeder.codes_at, c, w);
      largest = __vmaxu2(largest, largest_here);
    }
  }
  if (feeder.odd) {
    *reinterpret_cast<uint4*>(tile + feeder.rotary_at) = v[3];
    *reinterpret_cast<uint4*>(tile + (feeder.rotary_at ^ 64)) = *reinterpret_cast<const uint4*>(raw + 3 * 128 + 64);
  }
  // The pad byte behind the scales can only cost time.
  const bool has_nan = (largest & 0xffff) == 0x07f0 || largest >> 16 == 0x07f0;
  if (has_nan || (has_large_code(codes.x) | has_large_code(codes.y)) != 0) dequantise_any(feeder, raw, scales, tile);
}

/// The work of feeding warp `warp` (0..7).
__device__ __forceinline__ void feed(Shared& shared, const Rows& rows, const Range& range, int warp) {
  const Feeder feeder(warp);
  const int lane = threadIdx.x % 32, row_of_warp = feeder.row % kFeedRows;
  std::uint8_t* const raw = shared.raw[0] + feeder.row * kRowBytes + feeder.raw_at();
  std::uint8_t* const scales = shared.scales[0] + feeder.row * kScaleBytes;
  Lookup lookup(rows, range, warp);
  std::uint32_t present[kAhead];  // of the tiles under way, the oldest first
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const Found found = lookup.next(row_of_warp, present[i]);
    copy_chunks(feeder, raw + i * kTileRows * kRowBytes, scales + i * kTileRows * kScaleBytes, found);
    copy::commit();
  }
  Ring<kTiles> tile;
  int slot = 0;  // of the ring of raw tiles
#pragma unroll 1
  for (int i = 0; i < range.tiles; ++i, tile.next()) {
    std::uint8_t* const raw_here = raw + slot * kTileRows * kRowBytes;
    std::uint8_t* const scales_here = scales + slot * kTileRows * kScaleBytes;
    copy::wait<kAhead - 1>();
    __syncwarp();  // the row's scales came through one of its lanes
    barrier::wait(&shared.tile_empty[tile.slot], tile.parity ^ 1);
    dequantise(feeder, raw_here, scales_here, shared.tiles[tile.slot]);
    if (lane == 0) shared.present[tile.slot][warp] = static_cast<std::uint8_t>(present[0]);
    barrier::publish_to_tensor_cores();
    __syncwarp();
    if (lane == 0) barrier::arrive(&shared.tile_full[tile.slot]);
    // The ring's slot is used up by the whole warp: the tile after those under way may come.
#pragma unroll
    for (int k = 1; k < kAhead; ++k) present[k - 1] = present[k];
    const Found found = lookup.next(row_of_warp, present[kAhead - 1]);
    copy_chunks(feeder, raw_here, scales_here, found);
    copy::commit();
    slot = slot == kAhead - 1 ? 0 : slot + 1;
  }
  copy::wait<0>();
}

}  // namespace fathom::attend_sm90_kernel
