// attend on Hopper: 64 heads of one query to a thread block of four warpgroups.
//
//   feed 0, 1   each brings 16 of a tile's 32 rows: looks them up, copies them raw, 584 bytes each, into a ring (cp.async,
//               some 50 KB under way), and turns them into bf16 rows of the tile, swizzled for the tensor cores. A thread
//               dequantises what it copied itself, so the ring needs no barrier.
//   math 0, 1   take tiles in turns: the owner multiplies q with the tile (64 x 32 logits) and writes its weights, while the
//               tensor cores are busy for the other; both add every tile's values to their half of the elements (64 x 256 sums)
//
// A tile is read twice, as keys along its rows and as values across them, from the same bytes (device/wgmma.cuh). Feeders and
// math groups meet at mbarriers: a tile is full, or empty again.
//
// Bytes: a row costs 584 from memory, 1 KB written and 4 KB read in shared memory. What should bind is the gather of rows, at
// some 59 clocks a row and multiprocessor; products need 40, shared memory 51 (docs/design/0013).
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
constexpr int kFeedRows = kTileRows / 2;          ///< rows of a tile that one feed group brings
constexpr int kAhead = 3;                         ///< raw tiles under way
constexpr int kSlabs = kDim / wgmma::kSlabElements;
constexpr int kQuerySlabBytes = kHeads * wgmma::kSlabRowBytes, kTileSlabBytes = kTileRows * wgmma::kSlabRowBytes;
constexpr int kLoaders = kGroup / kFeedRows;      ///< threads that bring one row
constexpr int kCodeChunks = 28;                   ///< 16-byte chunks of a row that hold E4M3 codes; eight more hold bf16
constexpr float kSlack = 8;                       ///< as attend_sm80_kernel.cuh

struct alignas(1024) Shared {
  std::uint8_t q[kSlabs * kQuerySlabBytes];
  std::uint8_t tiles[kTiles][kSlabs * kTileSlabBytes];
  std::uint8_t weights[kHeads * wgmma::kSlabRowBytes];  ///< 32 columns of each math group's tile
  std::uint8_t raw[2][kAhead][kFeedRows * kRowBytes];   ///< by feed group
  std::uint8_t scales[2][kAhead][kFeedRows * kScaleBytes];
  alignas(8) std::uint8_t present[kTiles][kTileRows / 4];          ///< a bit for each of the four rows of a feeding warp
  float base[2][kHeads], factor[2][kHeads];             ///< after each math group's last tile: what weights are relative to, how sums change
  float totals[2][kHeads], largest[2][kHeads];
  std::uint64_t tile_full[kTiles], tile_empty[kTiles], weights_full[2], weights_empty[2];
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

/// The tiles of this block. Rows past the end are absent.
struct Range {
  int first_row, end_row, tiles;
};

// ---- feed ------------------------------------------------------------------------------------------------------------------

/// What a feeding thread has to do with a row: sixteen-byte chunks part, part + 8, part + 16 (and part + 24, if there is one) of its
/// codes and chunk part of its rotary block; and where they go in a tile, which is the same for every tile.
struct Feeder {
  int row, part;
  bool has_fourth;
  int halves[2];  ///< bytes from the tile's start of the two halves of chunk `part`, in the order they are stored
  int rotary;

  __device__ explicit Feeder(int group) {
    const int thread = threadIdx.x % kGroup;
    row = group * kFeedRows + thread / kLoaders;
    part = thread % kLoaders;
    has_fourth = part < kCodeChunks % kLoaders;
    // The halves of a chunk go out in turns, so that eight lanes meet eight different places of the row.
    const int slab = part / 4 * kTileSlabBytes, half = part % 4 * 2;
    halves[0] = slab + wgmma::chunk_at(row, half + (part >= 4));
    halves[1] = slab + wgmma::chunk_at(row, half + (part < 4));
    rotary = 7 * kTileSlabBytes + wgmma::chunk_at(row, part);
  }
};

/// Starts the copies of this thread's chunks of a row. An absent row is zeros.
__device__ __forceinline__ void copy_chunks(const Feeder& feeder, std::uint8_t* raw, std::uint8_t* scales, const RowAddress& from) {
  std::uint8_t* to = raw + feeder.part * 16;
  if (from.row != nullptr) {
    const std::byte* at = from.row + feeder.part * 16;
#pragma unroll
    for (int c = 0; c < 3; ++c) copy::async<16>(to + c * kLoaders * 16, at + c * kLoaders * 16);
    if (feeder.has_fourth) copy::async<16>(to + 3 * kLoaders * 16, at + 3 * kLoaders * 16);
    copy::async<16>(to + kCodeChunks * 16, at + kCodeChunks * 16);
    if (feeder.part == 0) copy::async<8>(scales, from.scales);
  } else {
#pragma unroll
    for (int c = 0; c < 3; ++c) *reinterpret_cast<uint4*>(to + c * kLoaders * 16) = uint4{0, 0, 0, 0};
    if (feeder.has_fourth) *reinterpret_cast<uint4*>(to + 3 * kLoaders * 16) = uint4{0, 0, 0, 0};
    *reinterpret_cast<uint4*>(to + kCodeChunks * 16) = uint4{0, 0, 0, 0};
    if (feeder.part == 0) *reinterpret_cast<uint2*>(scales) = uint2{0, 0};
  }
}

/// 2^(code - 7) twice as bf16: turns a placed code (value * 2^-120) into value * 2^(code - 127). Codes above kLargestCode are
/// more than bf16 holds and go the slow way.
constexpr std::uint32_t kLargestCode = 134;
__device__ __forceinline__ std::uint32_t factor_of(std::uint32_t code) { return (code + 120u << 7) * 0x10001u; }

/// Four codes to four bf16, scaled.
__device__ __forceinline__ uint2 widen(std::uint32_t word, std::uint32_t factor) {
  // A code of each half in its upper byte: placing moves it from there.
  return {mma::multiply_bf16x2(mma::place_e4m3_odd(__byte_perm(word, 0, 0x1404)), factor),
          mma::multiply_bf16x2(mma::place_e4m3_odd(__byte_perm(word, 0, 0x3424)), factor)};
}
/// The same with NaN codes and scales of any size: rare.
__device__ __forceinline__ std::uint32_t widen_any(std::uint32_t codes, std::uint32_t scale) {
  std::uint32_t pair = 0;
  for (int i = 0; i < 2; ++i) pair |= std::uint32_t{to_bf16(decode_e4m3(codes >> (8 * i) & 0xff) * decode_ue8m0(scale)).bits} << (16 * i);
  return pair;
}

/// Stores the halves of chunk part + 8 c: two slabs further for each c.
__device__ __forceinline__ void store_halves(const Feeder& feeder, std::uint8_t* tile, int c, const uint2 (&w)[4]) {
  const uint4 low = {w[0].x, w[0].y, w[1].x, w[1].y}, high = {w[2].x, w[2].y, w[3].x, w[3].y};
  const bool high_first = feeder.part >= 4;
  *reinterpret_cast<uint4*>(tile + feeder.halves[0] + c * 2 * kTileSlabBytes) = high_first ? high : low;
  *reinterpret_cast<uint4*>(tile + feeder.halves[1] + c * 2 * kTileSlabBytes) = high_first ? low : high;
}
__device__ __forceinline__ std::uint32_t scale_code(const uint2& codes, int part, int c) {  // chunk part + 8 c has byte part / 4 + 2 c
  return (c < 2 ? codes.x : codes.y) >> (8 * (part / 4) + 16 * (c % 2)) & 0xff;
}

/// The codes of a row with a NaN or a scale beyond bf16. Rare: out of the way of the common path.
__device__ __noinline__ void dequantise_any(const Feeder& feeder, const std::uint8_t* raw, const std::uint8_t* scales, std::uint8_t* tile) {
  const uint2 codes = *reinterpret_cast<const uint2*>(scales);
#pragma unroll 1
  for (int c = 0; c < 3 + feeder.has_fourth; ++c) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(raw + (feeder.part + c * kLoaders) * 16);
    const std::uint32_t scale = scale_code(codes, feeder.part, c);
    uint2 w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = {widen_any(words[i], scale), widen_any(words[i] >> 16, scale)};
    store_halves(feeder, tile, c, w);
  }
}

/// This thread's chunks of a row, from the ring into the tile.
__device__ __forceinline__ void dequantise(const Feeder& feeder, const std::uint8_t* raw, const std::uint8_t* scales, std::uint8_t* tile) {
  const std::uint8_t* from = raw + feeder.part * 16;
  uint4 v[4];
#pragma unroll
  for (int c = 0; c < 3; ++c) v[c] = *reinterpret_cast<const uint4*>(from + c * kLoaders * 16);
  v[3] = feeder.has_fourth ? *reinterpret_cast<const uint4*>(from + 3 * kLoaders * 16) : uint4{0, 0, 0, 0};
  *reinterpret_cast<uint4*>(tile + feeder.rotary) = *reinterpret_cast<const uint4*>(from + kCodeChunks * 16);
  const uint2 codes = *reinterpret_cast<const uint2*>(scales);
  std::uint32_t nan = 0, largest = 0;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    nan |= mma::has_e4m3_nan(v[c].x) | mma::has_e4m3_nan(v[c].y) | mma::has_e4m3_nan(v[c].z) | mma::has_e4m3_nan(v[c].w);
    largest = max(largest, scale_code(codes, feeder.part, c));  // the pad byte that a missing fourth chunk reads can only cost time
  }
  if ((nan & 0x80808080u) != 0 || largest > kLargestCode) return dequantise_any(feeder, raw, scales, tile);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const std::uint32_t words[4] = {v[c].x, v[c].y, v[c].z, v[c].w}, factor = factor_of(scale_code(codes, feeder.part, c));
    uint2 w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = widen(words[i], factor);
    if (c < 3 || feeder.has_fourth) store_halves(feeder, tile, c, w);
  }
}

__device__ __forceinline__ void feed(const Launch& launch, Shared& shared, const Rows& rows, const Range& range, int group) {
  const Feeder feeder(group);
  const int lane = threadIdx.x % 32;
  std::uint8_t* const raw = shared.raw[group][0] + (feeder.row - group * kFeedRows) * kRowBytes;
  std::uint8_t* const scales = shared.scales[group][0] + (feeder.row - group * kFeedRows) * kScaleBytes;
  const auto row_of = [&](int tile) {
    const int i = range.first_row + tile * kTileRows + feeder.row;
    return tile < range.tiles && i < range.end_row ? i : rows.count();
  };
  // Three tiles' numbers are looked up, then their copies started, and one more is on its way.
  std::uint32_t present = 0;  // of the tiles under way, the oldest in bit 0
  std::int32_t number;
  {
    std::int32_t numbers[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) numbers[i] = rows.number(row_of(i));
    number = rows.number(row_of(kAhead));
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const RowAddress from = rows.address(row_of(i), numbers[i]);
      copy_chunks(feeder, raw + i * kFeedRows * kRowBytes, scales + i * kFeedRows * kScaleBytes, from);
      copy::commit();
      present |= std::uint32_t{from.row != nullptr} << i;
    }
  }
  Ring<kTiles> tile;
  int slot = 0;  // of the ring of raw tiles
  for (int i = 0; i < range.tiles; ++i, tile.next()) {
    copy::wait<kAhead - 1>();
    __syncwarp();  // the row's scales came through one of its threads
    barrier::wait(&shared.tile_empty[tile.slot], tile.parity ^ 1);
    dequantise(feeder, raw + slot * kFeedRows * kRowBytes, scales + slot * kFeedRows * kScaleBytes, shared.tiles[tile.slot]);
    const unsigned lanes = __ballot_sync(kAllLanes, present & 1);
    if (lane == 0) {
      shared.present[tile.slot][feeder.row / 4] = static_cast<std::uint8_t>((lanes & 1) | (lanes >> 7 & 2) | (lanes >> 14 & 4) | (lanes >> 21 & 8));
    }
    barrier::publish_to_tensor_cores();
    barrier::arrive(&shared.tile_full[tile.slot]);
    // The ring's slot is used up, by all threads of the row (the ballot): the next tile but two may come.
    const RowAddress from = rows.address(row_of(i + kAhead), number);
    number = rows.number(row_of(i + kAhead + 1));
    copy_chunks(feeder, raw + slot * kFeedRows * kRowBytes, scales + slot * kFeedRows * kScaleBytes, from);
    copy::commit();
    present = present >> 1 | std::uint32_t{from.row != nullptr} << (kAhead - 1);
    slot = slot == kAhead - 1 ? 0 : slot + 1;
  }
  copy::wait<0>();
}

// ---- math ------------------------------------------------------------------------------------------------------------------

/// The queries of kHeads heads into shared memory; heads past the last are zeros.
__device__ __forceinline__ void load_queries(const Launch& launch, Shared& shared, std::int64_t t, int first_head) {
  const TensorView& q = launch.args.q;
  constexpr int kEach = kHeads * kDim / 8 / (2 * kGroup);
  const int chunk = threadIdx.x % (kDim / 8), first = threadIdx.x / (kDim / 8);  // a thread keeps its chunk, heads go by
  uint4 v[kEach];  // all loads are under way before the first is stored
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int h = first + i * (2 * kGroup / (kDim / 8));
    v[i] = uint4{0, 0, 0, 0};
    if (first_head + h < launch.problem.num_heads) {
      v[i] = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(q.data) + t * q.strides[0] + (first_head + h) * q.strides[1] + chunk * 8);
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int h = first + i * (2 * kGroup / (kDim / 8));
    *reinterpret_cast<uint4*>(shared.q + chunk / 8 * kQuerySlabBytes + wgmma::chunk_at(h, chunk % 8)) = v[i];
  }
  barrier::publish_to_tensor_cores();
}

/// Two heads of a thread: rows g and g + 8 of its warp's 16.
struct HeadPair {
  float base[2] = {-kInfinity, -kInfinity}, most[2] = {-kInfinity, -kInfinity}, total[2] = {0, 0};
};

/// A bit for each row of a tile that is there.
__device__ __forceinline__ std::uint32_t present_rows(const Shared& shared, int slot) {
  const uint2 fours = *reinterpret_cast<const uint2*>(shared.present[slot]);
  const auto pack = [](std::uint32_t v) { return (v & 0xf) | (v >> 4 & 0xf0) | (v >> 8 & 0xf00) | (v >> 12 & 0xf000); };
  return pack(fours.x) | pack(fours.y) << 16;
}

__device__ __forceinline__ void rescale(float (&out)[2][64], const float (&factor)[2]) {
  if (!__any_sync(kAllLanes, factor[0] != 1.f || factor[1] != 1.f)) return;
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i / 64][i % 64] *= factor[i / 2 % 2];
}

/// Starts out += weights x values of a tile, for the group's half of the elements. `owner` is the group whose weights they are.
__device__ __forceinline__ void start_values(const Shared& shared, int tile_slot, int owner, int group, float (&out)[2][64]) {
  const std::uint64_t weights = wgmma::descriptor(shared.weights, 16, 1024) + owner * 64 / 16;
  const std::uint64_t values = wgmma::descriptor(shared.tiles[tile_slot], kTileSlabBytes, 1024) + group * 4 * kTileSlabBytes / 16;
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      wgmma::add_64x128x16<1>(out[half], weights + k * 32 / 16, values + (half * 2 * kTileSlabBytes + k * 16 * wgmma::kSlabRowBytes) / 16, 1);
    }
  }
  wgmma::commit();
}

/// A tile and its weights have been used by this warp.
__device__ __forceinline__ void release(Shared& shared, int tile_slot, int owner) {
  if (threadIdx.x % 32 != 0) return;
  barrier::arrive(&shared.tile_empty[tile_slot]);
  barrier::arrive(&shared.weights_empty[owner]);
}

/// The other group's weights of `tile` are there: what they are relative to, and how sums so far have to change.
__device__ __forceinline__ void meet_other(Shared& shared, int tile, int group, HeadPair& heads, float (&factor)[2]) {
  const int thread = threadIdx.x % kGroup, head = thread / 32 * 16 + thread % 32 / 4, owner = group ^ 1;
  barrier::wait(&shared.weights_full[owner], tile >> 1 & 1);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    factor[r] = shared.factor[owner][head + 8 * r];
    heads.base[r] = shared.base[owner][head + 8 * r];
    heads.total[r] *= factor[r];
  }
}

/// Starts the logits of a tile: q times its rows.
__device__ __forceinline__ void start_logits(const Shared& shared, int tile_slot, float (&s)[16]) {
  const std::uint64_t q = wgmma::descriptor(shared.q, 16, 1024), keys = wgmma::descriptor(shared.tiles[tile_slot], 16, 1024);
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    wgmma::add_64x32x16<0>(s, q + (k / 4 * kQuerySlabBytes + k % 4 * 32) / 16, keys + (k / 4 * kTileSlabBytes + k % 4 * 32) / 16, k > 0);
  }
  wgmma::commit();
}

/// Logits to weights, relative to a base that follows the largest logit only once that has left it by kSlack: weights up to
/// 2^kSlack do no harm, and sums are rarely rescaled. `present` has a bit for each column, from this thread's first on.
__device__ __forceinline__ void soften(Shared& shared, int group, std::uint32_t present, float scale_log2, float (&s)[16], HeadPair& heads,
                                       float (&factor)[2]) {
  const int thread = threadIdx.x % kGroup, quad = thread % 4, head = thread / 32 * 16 + thread % 32 / 4;
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
    if (quad == 0) {
      shared.factor[group][head + 8 * r] = factor[r];
      shared.base[group][head + 8 * r] = heads.base[r];
    }
  }
}

/// Runs the tiles; `group` (0 or 1) owns every second one: it multiplies that with q and turns logits into weights, while the
/// other group is busy with products. Both add every tile's values, each to its half of the elements.
__device__ __forceinline__ void attend_tiles(const Launch& launch, Shared& shared, const Range& range, int group, HeadPair& heads,
                                             float (&out)[2][64]) {
  const float scale_log2 = launch.problem.softmax_scale * kLog2e;
  Ring<kTiles> mine, other;  // of tiles group, group + 2, ... and of the tiles between
  const auto pass = [](Ring<kTiles>& ring) {
    ring.next();
    ring.next();
  };
  const auto weigh = [&](int tile, float (&s)[16], float (&factor)[2]) {
    barrier::wait(&shared.weights_empty[group], (tile >> 1 & 1) ^ 1);
    soften(shared, group, present_rows(shared, mine.slot) >> (2 * (threadIdx.x % 4)), scale_log2, s, heads, factor);
    barrier::publish_to_tensor_cores();
    barrier::arrive(&shared.weights_full[group]);
  };
  const auto add_own = [&](int tile, const float (&factor)[2]) {
    rescale(out, factor);
    barrier::wait(&shared.weights_full[group], tile >> 1 & 1);
    start_values(shared, mine.slot, group, group, out);
    wgmma::wait<0>();
    wgmma::hold(out[0]);
    wgmma::hold(out[1]);
    release(shared, mine.slot, group);
    pass(mine);
  };
  int tile = group;
  if (group == 0) {  // the first tile has none before it
    other.next();
    if (tile < range.tiles) {
      barrier::wait(&shared.tile_full[mine.slot], mine.parity);
      float s[16], factor[2];
      start_logits(shared, mine.slot, s);
      wgmma::wait<0>();
      wgmma::hold(s);
      weigh(tile, s, factor);
      add_own(tile, factor);
    }
    tile += 2;
  } else {
    mine.next();
  }
  for (; tile < range.tiles; tile += 2) {
    float s[16], factor[2], other_factor[2];
    meet_other(shared, tile - 1, group, heads, other_factor);
    rescale(out, other_factor);
    barrier::wait(&shared.tile_full[mine.slot], mine.parity);
    start_logits(shared, mine.slot, s);
    start_values(shared, other.slot, group ^ 1, group, out);
    wgmma::wait<1>();
    wgmma::hold(s);
    weigh(tile, s, factor);
    wgmma::wait<0>();
    wgmma::hold(out[0]);
    wgmma::hold(out[1]);
    release(shared, other.slot, group ^ 1);
    pass(other);
    add_own(tile, factor);
  }
  if (tile - 1 < range.tiles) {  // the last tile is the other group's
    float factor[2];
    meet_other(shared, tile - 1, group, heads, factor);
    rescale(out, factor);
    start_values(shared, other.slot, group ^ 1, group, out);
    wgmma::wait<0>();
    wgmma::hold(out[0]);
    wgmma::hold(out[1]);
  }
}

/// Adds up a head's weights over the lanes of a quad and over both groups.
__device__ __forceinline__ void close_totals(Shared& shared, int group, HeadPair& heads) {
  const int thread = threadIdx.x % kGroup, head = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    heads.total[r] += __shfl_xor_sync(kAllLanes, heads.total[r], 1);
    heads.total[r] += __shfl_xor_sync(kAllLanes, heads.total[r], 2);
    if (thread % 4 == 0) {
      shared.totals[group][head + 8 * r] = heads.total[r];
      shared.largest[group][head + 8 * r] = heads.most[r];
    }
  }
  barrier::sync<1, 2 * kGroup>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    heads.total[r] = shared.totals[0][head + 8 * r] + shared.totals[1][head + 8 * r];
    heads.most[r] = fmaxf(shared.largest[0][head + 8 * r], shared.largest[1][head + 8 * r]);
  }
}

}  // namespace fathom::attend_sm90_kernel
