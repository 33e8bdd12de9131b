// attend on Hopper: 64 heads of one query to a thread block of four warpgroups, each with one job.
//
//   fetch       looks rows up and copies them raw, 584 bytes each, into a ring of units of 16 rows (cp.async, some 50 KB under way)
//   dequantise  turns a unit into bf16 rows of a tile: 32 rows x 512 elements, swizzled for the tensor cores
//   math 0, 1   of a pair of tiles each multiplies q with its own (64 x 32 logits); they agree on the largest logit, write
//               their weights side by side, and each adds both tiles' values to its half of the elements (64 x 256 sums)
//
// A tile is read twice, as keys along its rows and as values across them, from the same bytes (device/wgmma.cuh).
// Producers and consumers meet at mbarriers: a unit or tile is full, or empty again.
//
// Bytes: a row costs 584 from memory, 1 KB written and 4 KB read in shared memory. What binds is the gather of rows, at some
// 59 clocks a row and multiprocessor; products need 40, shared memory 51 (docs/design/0013).
#pragma once

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
constexpr int kThreads = 4 * kGroup;
constexpr int kTileRows = 32, kTiles = 3;         ///< dequantised tiles kept
constexpr int kUnitRows = 16, kUnits = 6;         ///< raw units kept
constexpr int kUnitsPerTile = kTileRows / kUnitRows;
constexpr int kSlabs = kDim / wgmma::kSlabElements;
constexpr int kQuerySlabBytes = kHeads * wgmma::kSlabRowBytes, kTileSlabBytes = kTileRows * wgmma::kSlabRowBytes;
constexpr int kLoaders = kGroup / kUnitRows;      ///< threads that copy or dequantise one row
constexpr int kCodeChunks = 28;                   ///< 16-byte chunks of a row that hold E4M3 codes; eight more hold bf16
constexpr float kSlack = 8;                       ///< as attend_sm80_kernel.cuh

struct alignas(1024) Shared {
  std::uint8_t q[kSlabs * kQuerySlabBytes];
  std::uint8_t tiles[kTiles][kSlabs * kTileSlabBytes];
  std::uint8_t weights[kHeads * wgmma::kSlabRowBytes];  ///< of both tiles: 64 columns
  std::uint8_t raw[kUnits][kUnitRows * kRowBytes];
  std::uint8_t scales[kUnits][kUnitRows * kScaleBytes];
  std::uint8_t present[kUnits][4];                      ///< a bit for each of the four rows of a warp
  std::uint32_t tile_present[kTiles];
  float largest[2][kHeads];                             ///< of each math group's tile
  float totals[2][kHeads];
  std::uint64_t unit_full[kUnits], unit_empty[kUnits], tile_full[kTiles], tile_empty[kTiles];
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

/// The tiles of this block: an even number, so that both math groups always have one. Rows past the end are absent.
struct Range {
  int first_row, end_row, tiles;
};

// ---- fetch -----------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void fetch(const Launch& launch, Shared& shared, const Rows& rows, const Range& range) {
  const int thread = threadIdx.x % kGroup, row = thread / kLoaders, part = thread % kLoaders, lane = threadIdx.x % 32;
  const auto row_of = [&](int unit) {
    const int i = range.first_row + unit * kUnitRows + row;
    return i < range.end_row ? i : rows.count();
  };
  const int units = range.tiles * kUnitsPerTile;
  std::int32_t numbers[2] = {rows.number(row_of(0)), rows.number(row_of(1))};  // looked up two units ahead
  Ring<kUnits> ring;
  for (int unit = 0; unit < units; ++unit, ring.next()) {
    const std::int32_t number = numbers[0];
    numbers[0] = numbers[1];
    numbers[1] = unit + 2 < units ? rows.number(row_of(unit + 2)) : -1;
    const RowAddress from = rows.address(row_of(unit), number);
    barrier::wait(&shared.unit_empty[ring.slot], ring.parity ^ 1);
    const bool present = from.row != nullptr;
    if (present) {
      std::uint8_t* to = shared.raw[ring.slot] + row * kRowBytes + part * 16;
      const std::byte* at = from.row + part * 16;
#pragma unroll
      for (int c = 0; c < 5; ++c) {
        if (c < 4 || part < 4) copy::async<16>(to + c * kLoaders * 16, at + c * kLoaders * 16);
      }
      if (part == 0) copy::async<8>(shared.scales[ring.slot] + row * kScaleBytes, from.scales);
    }
    barrier::arrive_after_copies(&shared.unit_full[ring.slot]);
    const unsigned lanes = __ballot_sync(kAllLanes, present);
    if (lane == 0) {
      shared.present[ring.slot][thread / 32] = static_cast<std::uint8_t>((lanes & 1) | (lanes >> 7 & 2) | (lanes >> 14 & 4) | (lanes >> 21 & 8));
      barrier::arrive(&shared.unit_full[ring.slot]);
    }
  }
  copy::wait<0>();
}

// ---- dequantise ------------------------------------------------------------------------------------------------------------

/// The factor that turns a placed code (value * 2^-120) into the value times 2^(code - 127): 2^(code - 7), twice as bf16. Codes
/// above 134 need more than bf16's largest power; the rest is `beyond`.
struct Factor {
  std::uint32_t first, beyond;
};
__device__ __forceinline__ Factor factor_of(std::uint32_t code) {
  const std::uint32_t first = min(code, 134u) + 120u, beyond = code > 134u ? code - 134u + 127u : 127u;
  const std::uint32_t a = code == 255 ? 0x7fc0u : first << 7, b = beyond << 7;
  return {a << 16 | a, b << 16 | b};
}

/// Four codes to two words of bf16, scaled.
__device__ __forceinline__ uint2 widen(std::uint32_t word, const Factor& factor, bool is_large) {
  // A code of each half in its upper byte: placing moves it from there (mma::place_e4m3_odd).
  uint2 v = {mma::multiply_bf16x2(mma::place_e4m3_odd(__byte_perm(word, 0, 0x1404)), factor.first),
             mma::multiply_bf16x2(mma::place_e4m3_odd(__byte_perm(word, 0, 0x3424)), factor.first)};
  if (is_large) v = {mma::multiply_bf16x2(v.x, factor.beyond), mma::multiply_bf16x2(v.y, factor.beyond)};
  return v;
}

/// Two bf16 with NaN where their codes say so: rare.
__device__ __forceinline__ std::uint32_t restore_nans(std::uint32_t pair, std::uint32_t codes) {
  if ((codes & 0x7f) == 0x7f) pair = (pair & 0xffff0000u) | 0x7fc0u;
  if ((codes >> 8 & 0x7f) == 0x7f) pair = (pair & 0xffffu) | 0x7fc00000u;
  return pair;
}

__device__ __forceinline__ void dequantise(Shared& shared, const Range& range) {
  const int thread = threadIdx.x % kGroup, row = thread / kLoaders, part = thread % kLoaders;
  Ring<kUnits> unit;
  Ring<kTiles> tile;
  for (int i = 0; i < range.tiles; ++i, tile.next()) {
    barrier::wait(&shared.tile_empty[tile.slot], tile.parity ^ 1);
    std::uint32_t tile_present = 0;
#pragma unroll
    for (int u = 0; u < kUnitsPerTile; ++u, unit.next()) {
      barrier::wait(&shared.unit_full[unit.slot], unit.parity);
      const int at = u * kUnitRows + row;
      std::uint8_t* to = shared.tiles[tile.slot];
      const std::uint32_t warps = *reinterpret_cast<const std::uint32_t*>(shared.present[unit.slot]);
      const std::uint32_t present = (warps & 0xf) | (warps >> 4 & 0xf0) | (warps >> 8 & 0xf00) | (warps >> 12 & 0xf000);
      tile_present |= present << (u * kUnitRows);
      const bool is_present = present >> row & 1;
      const auto* from = reinterpret_cast<const uint4*>(shared.raw[unit.slot] + row * kRowBytes);
      const std::uint8_t* codes = shared.scales[unit.slot] + row * kScaleBytes;
      // The halves of a chunk go out in turns, so that eight lanes meet eight different chunks of the row.
      const bool odd_first = part >= 4;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int chunk = part + c * kLoaders;
        if (chunk >= kCodeChunks) continue;
        uint4 halves[2] = {};
        if (is_present) {
          const uint4 v = from[chunk];
          const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
          const std::uint32_t code = codes[chunk / 4];
          const Factor factor = factor_of(code);
#pragma unroll
          for (int w = 0; w < 2; ++w) {
            const uint2 low = widen(words[2 * w], factor, code > 134), high = widen(words[2 * w + 1], factor, code > 134);
            halves[w] = uint4{low.x, low.y, high.x, high.y};
          }
          const std::uint32_t nan = mma::has_e4m3_nan(v.x) | mma::has_e4m3_nan(v.y) | mma::has_e4m3_nan(v.z) | mma::has_e4m3_nan(v.w);
          if ((nan & 0x80808080u) != 0) {
#pragma unroll
            for (int w = 0; w < 2; ++w) {
              halves[w] = uint4{restore_nans(halves[w].x, words[2 * w]), restore_nans(halves[w].y, words[2 * w] >> 16),
                                restore_nans(halves[w].z, words[2 * w + 1]), restore_nans(halves[w].w, words[2 * w + 1] >> 16)};
            }
          }
        }
        std::uint8_t* slab = to + chunk / 4 * kTileSlabBytes;
        const int first = chunk % 4 * 2 + odd_first, second = chunk % 4 * 2 + !odd_first;
        *reinterpret_cast<uint4*>(slab + wgmma::chunk_at(at, first)) = odd_first ? halves[1] : halves[0];
        *reinterpret_cast<uint4*>(slab + wgmma::chunk_at(at, second)) = odd_first ? halves[0] : halves[1];
      }
      const uint4 rotary = is_present ? from[kCodeChunks + part] : uint4{0, 0, 0, 0};
      *reinterpret_cast<uint4*>(to + 7 * kTileSlabBytes + wgmma::chunk_at(at, part)) = rotary;
      barrier::arrive(&shared.unit_empty[unit.slot]);
    }
    if (thread == 0) shared.tile_present[tile.slot] = tile_present;
    barrier::publish_to_tensor_cores();
    barrier::arrive(&shared.tile_full[tile.slot]);
  }
}

// ---- math ------------------------------------------------------------------------------------------------------------------

/// The queries of kHeads heads into shared memory; heads past the last are zeros.
__device__ __forceinline__ void load_queries(const Launch& launch, Shared& shared, std::int64_t t, int first_head) {
  const TensorView& q = launch.args.q;
  for (int i = threadIdx.x; i < kHeads * kDim / 8; i += 2 * kGroup) {
    const int h = i / (kDim / 8), chunk = i % (kDim / 8);
    uint4 v = {0, 0, 0, 0};
    if (first_head + h < launch.problem.num_heads) {
      v = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(q.data) + t * q.strides[0] + (first_head + h) * q.strides[1] + chunk * 8);
    }
    *reinterpret_cast<uint4*>(shared.q + chunk / 8 * kQuerySlabBytes + wgmma::chunk_at(h, chunk % 8)) = v;
  }
  barrier::publish_to_tensor_cores();
}

/// Two heads of a thread: rows g and g + 8 of its warp's 16.
struct HeadPair {
  float base[2] = {-kInfinity, -kInfinity}, most[2] = {-kInfinity, -kInfinity}, total[2] = {0, 0};
};

/// Runs the pairs of tiles. `group` is 0 or 1; sums are of elements 256 * group and on.
__device__ __forceinline__ void attend_tiles(const Launch& launch, Shared& shared, const Range& range, int group, HeadPair& heads,
                                             float (&out)[2][64]) {
  const int thread = threadIdx.x % kGroup, warp = thread / 32, lane = thread % 32, g = lane / 4, quad = lane % 4;
  const int head = warp * 16 + g;  // and head + 8
  const float scale_log2 = launch.problem.softmax_scale * kLog2e;
  const std::uint64_t q = wgmma::descriptor(shared.q, 16, 1024), weights = wgmma::descriptor(shared.weights, 16, 1024);
  Ring<kTiles> first, second;  // the tiles of the pair
  second.next();
  for (int tile = 0; tile < range.tiles; tile += 2) {
    const Ring<kTiles> mine = group == 0 ? first : second, other = group == 0 ? second : first;
    barrier::wait(&shared.tile_full[mine.slot], mine.parity);
    float s[16];
    const std::uint64_t keys = wgmma::descriptor(shared.tiles[mine.slot], 16, 1024);
    wgmma::fence();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      wgmma::add_64x32x16<0>(s, q + (k / 4 * kQuerySlabBytes + k % 4 * 32) / 16, keys + (k / 4 * kTileSlabBytes + k % 4 * 32) / 16, k > 0);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(s);
    const std::uint32_t present = shared.tile_present[mine.slot] >> (2 * quad);

    float now[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[4 * j + i] = (present >> (8 * j + (i & 1)) & 1) != 0 ? s[4 * j + i] * scale_log2 : -kInfinity;
        now[i / 2] = fmaxf(now[i / 2], s[4 * j + i]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], __shfl_xor_sync(kAllLanes, now[r], 1));
      now[r] = fmaxf(now[r], __shfl_xor_sync(kAllLanes, now[r], 2));
      if (quad == 0) shared.largest[group][head + 8 * r] = now[r];
    }
    barrier::sync<1, 2 * kGroup>();
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], shared.largest[group ^ 1][head + 8 * r]);
      heads.most[r] = fmaxf(heads.most[r], now[r]);
      factor[r] = 1.f;
      if (now[r] > heads.base[r] + kSlack) {  // the first logits leave -inf
        factor[r] = exp2f(heads.base[r] - now[r]);
        heads.base[r] = now[r];
      }
      const float base = heads.base[r] == -kInfinity ? 0.f : heads.base[r];
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float p0 = exp2f(s[4 * j + 2 * r] - base), p1 = exp2f(s[4 * j + 2 * r + 1] - base);
        sum += p0 + p1;
        *reinterpret_cast<std::uint32_t*>(shared.weights + wgmma::chunk_at(head + 8 * r, 4 * group + j) + 4 * quad) = mma::pack_bf16x2(p0, p1);
      }
      heads.total[r] = heads.total[r] * factor[r] + sum;
    }
    barrier::publish_to_tensor_cores();
    if (__any_sync(kAllLanes, factor[0] != 1.f || factor[1] != 1.f)) {
#pragma unroll
      for (int i = 0; i < 128; ++i) out[i / 64][i % 64] *= factor[i / 2 % 2];
    }
    barrier::sync<2, 2 * kGroup>();
    barrier::wait(&shared.tile_full[other.slot], other.parity);
    wgmma::fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const std::uint8_t* values = shared.tiles[k < 2 ? first.slot : second.slot] + group * 4 * kTileSlabBytes + k % 2 * 2048;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        wgmma::add_64x128x16<1>(out[half], weights + k * 32 / 16, wgmma::descriptor(values + half * 2 * kTileSlabBytes, kTileSlabBytes, 1024), 1);
      }
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(out[0]);
    wgmma::hold(out[1]);
    if (lane == 0) {
      barrier::arrive(&shared.tile_empty[first.slot]);
      barrier::arrive(&shared.tile_empty[second.slot]);
    }
    first.next();
    first.next();
    second.next();
    second.next();
  }
}

/// Adds up a head's weights over the lanes of a quad and over both groups.
__device__ __forceinline__ void close_totals(Shared& shared, int group, HeadPair& heads) {
  const int thread = threadIdx.x % kGroup, head = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    heads.total[r] += __shfl_xor_sync(kAllLanes, heads.total[r], 1);
    heads.total[r] += __shfl_xor_sync(kAllLanes, heads.total[r], 2);
    if (thread % 4 == 0) shared.totals[group][head + 8 * r] = heads.total[r];
  }
  barrier::sync<1, 2 * kGroup>();
#pragma unroll
  for (int r = 0; r < 2; ++r) heads.total[r] = shared.totals[0][head + 8 * r] + shared.totals[1][head + 8 * r];
}

}  // namespace fathom::attend_sm90_kernel
