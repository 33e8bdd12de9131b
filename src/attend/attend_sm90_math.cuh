// attend on Hopper: the two math groups. They take tiles in turns: the owner multiplies q with the tile (64 x 32
// logits) and writes its weights, while the tensor cores are busy for the other; both add every tile's values, each to
// its half of the elements.
#pragma once

#include "attend/attend_sm90_shared.cuh"

namespace fathom::attend_sm90_kernel {

/// A math thread's share of the queries: chunk threadIdx % 64 of every fourth head; heads past the last are zeros.
constexpr int kQueryChunks = kDim / 8, kQueryStep = 2 * kGroup / kQueryChunks, kQueriesOfThread = kHeads / kQueryStep;
struct Queries {
  uint4 chunks[kQueriesOfThread];
};
__device__ __forceinline__ void fetch_queries(const Launch& launch, const Unit& unit, Queries& queries) {
  const TensorView& q = launch.args.q;
  const int chunk = threadIdx.x % kQueryChunks, first = threadIdx.x / kQueryChunks;
  const bf16* const from =
      static_cast<const bf16*>(q.data) + unit.t * q.strides[0] + (unit.first_head + first) * q.strides[1] + chunk * 8;
#pragma unroll
  for (int i = 0; i < kQueriesOfThread; ++i) {
    queries.chunks[i] = uint4{0, 0, 0, 0};
    if (first + i * kQueryStep < unit.num_heads) {
      queries.chunks[i] = *reinterpret_cast<const uint4*>(from + i * kQueryStep * q.strides[1]);
    }
  }
}
__device__ __forceinline__ void keep_queries(Shared& shared, const Queries& queries) {
  const int chunk = threadIdx.x % kQueryChunks, first = threadIdx.x / kQueryChunks;
#pragma unroll
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = first + i * kQueryStep;
    *reinterpret_cast<uint4*>(shared.q + chunk / 8 * kQuerySlabBytes + wgmma::chunk_at(h, chunk % 8)) =
        in_tile_order(queries.chunks[i], chunk);
  }
  barrier::publish_to_tensor_cores();
}

/// A bit for each row of a tile that is there.
__device__ __forceinline__ std::uint32_t present_rows(const Shared& shared, int slot) {
  const uint2 fours = *reinterpret_cast<const uint2*>(shared.present[slot]);
  const auto pack = [](std::uint32_t v) { return (v & 0xf) | (v >> 4 & 0xf0) | (v >> 8 & 0xf00) | (v >> 12 & 0xf000); };
  return pack(fours.x) | pack(fours.y) << 16;
}

/// Zeros, and not before this point: the registers are the queries' until then.
__device__ __forceinline__ void clear(float (&out)[2][64]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) asm volatile("mov.b32 %0, 0;" : "=f"(out[i / 64][i % 64]));
}
__device__ __forceinline__ void rescale(float (&out)[2][64], const float (&factor)[2]) {
  if (!__any_sync(kAllLanes, factor[0] != 1.f || factor[1] != 1.f)) return;
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i / 64][i % 64] *= factor[i / 2 % 2];
}

/// Starts out += weights x values of a tile, for the group's half of the elements. `owner` is the group whose weights
/// they are.
__device__ __forceinline__ void start_values(const Shared& shared, int tile_slot, int owner, int group,
                                             float (&out)[2][64]) {
  const std::uint64_t weights = wgmma::descriptor(shared.weights, 16, 1024) + owner * 64 / 16;
  const std::uint64_t values =
      wgmma::descriptor(shared.tiles[tile_slot], kTileSlabBytes, 1024) + group * 4 * kTileSlabBytes / 16;
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      wgmma::add_64x128x16<1>(out[half], weights + k * 32 / 16,
                              values + (half * 2 * kTileSlabBytes + k * 16 * wgmma::kSlabRowBytes) / 16, 1);
    }
  }
}

/// A tile and its weights have been used by this warp.
__device__ __forceinline__ void release(Shared& shared, int tile_slot, int owner) {
  __syncwarp();  // all lanes have read what goes with them
  if (threadIdx.x % 32 >= barrier::kArrivalsOfWarp) return;
  barrier::arrive(&shared.tile_empty[tile_slot]);
  barrier::arrive(&shared.weights_empty[owner]);
}

/// Starts the logits of a tile: q times its rows.
__device__ __forceinline__ void start_logits(const Shared& shared, int tile_slot, float (&s)[16]) {
  const std::uint64_t q = wgmma::descriptor(shared.q, 16, 1024),
                      keys = wgmma::descriptor(shared.tiles[tile_slot], 16, 1024);
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    wgmma::add_64x32x16<0>(s, q + (k / 4 * kQuerySlabBytes + k % 4 * 32) / 16,
                           keys + (k / 4 * kTileSlabBytes + k % 4 * 32) / 16, k > 0);
  }
  wgmma::commit();
}

__device__ __forceinline__ float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

/// A tile's weights, and what they are relative to: a multiple of eight (base 2), so that sums change base without
/// rounding, and most tiles have the same. A group finds it from what it knows, its own last tile and the other's last
/// but one: waiting for the other's last would make the softmax of all tiles one chain.
struct Weights {
  std::uint32_t pairs[2][4];
  float sum[2];
};
/// Logits to weights. `present` has a bit for each row of the tile.
__device__ __forceinline__ void soften(std::uint32_t present, float scale_log2, float (&s)[16], HeadPair& heads,
                                       Weights& weights) {
  float now[2] = {-kInfinity, -kInfinity};
#pragma unroll
  for (int i = 0; i < 16; ++i) s[i] *= scale_log2;
  if (present != 0xffffffffu) {
    present >>= 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < 16; ++i) s[i] = (present >> (8 * (i / 4) + i % 2) & 1) != 0 ? s[i] : -kInfinity;
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) now[i / 2 % 2] = fmaxf(now[i / 2 % 2], s[i]);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    now[r] = fmaxf(now[r], __shfl_xor_sync(kAllLanes, now[r], 1));
    now[r] = fmaxf(now[r], __shfl_xor_sync(kAllLanes, now[r], 2));
    heads.most[r] = fmaxf(heads.most[r], now[r]);
    if (now[r] > heads.known[r] + kSlack)
      heads.known[r] = kSlack * ceilf(now[r] / kSlack);  // the first logits leave -inf
    const float base = heads.known[r] == -kInfinity ? 0.f : heads.known[r];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float p0 = power_of_two(s[4 * j + 2 * r] - base), p1 = power_of_two(s[4 * j + 2 * r + 1] - base);
      sum += p0 + p1;
      weights.pairs[r][j] = mma::pack_bf16x2(p0, p1);
    }
    weights.sum[r] = sum;
  }
}
/// Hands them to both groups.
__device__ __forceinline__ void publish(Shared& shared, int group, const Weights& weights, const HeadPair& heads) {
  const int thread = threadIdx.x % kGroup, quad = thread % 4, head = thread / 32 * 16 + thread % 32 / 4;
  int at =
      wgmma::chunk_at(head, 4 * group) + 4 * quad;  // of the first columns' weights; the next are at ^ 16, ^ 32, ^ 48
  asm volatile("" : "+r"(at));                      // or the compiler keeps all of them in registers, which are scarce
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      *reinterpret_cast<std::uint32_t*>(shared.weights + (at ^ j << 4) + r * 8 * wgmma::kSlabRowBytes) =
          weights.pairs[r][j];
    if (quad == 0) shared.base[group][head + 8 * r] = heads.known[r];
  }
  barrier::publish_to_tensor_cores();
  __syncwarp();
  if (quad == 0)
    barrier::arrive(&shared.weights_full[group]);  // who wrote a base
}

/// Makes sums ready for weights relative to `base`. Weights that are next to nothing beside the sums may count for
/// more, but no more than 2^-50: sums must not overflow on their way down.
__device__ __forceinline__ void turn_to(const float (&base)[2], HeadPair& heads, float (&out)[2][64]) {
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    factor[r] = 1.f;
    if (base[r] == heads.base[r] || base[r] == -kInfinity) continue;
    const bool is_first = heads.base[r] == -kInfinity;
    const float to = is_first ? base[r] : fmaxf(base[r], heads.base[r] - 60.f);
    if (!is_first) factor[r] = power_of_two(heads.base[r] - to);
    heads.base[r] = to;
    heads.total[r] *= factor[r];
  }
  rescale(out, factor);
}

/// Runs the tiles of a unit; `base` is the number of tiles before it, and a group owns every second of all. A round of
/// the loop is one owned tile and the values of the tile before it.
__device__ __forceinline__ void attend_tiles(const Launch& launch, Shared& shared, int base, int tiles, int group,
                                             HeadPair& heads, float (&out)[2][64]) {
  const float scale_log2 = launch.problem.softmax_scale * kLog2e;
  // The other group's weights of a tile: their values go into the sums.
  const auto start_others = [&](int tile) {
    const int head = threadIdx.x % kGroup / 32 * 16 + threadIdx.x % 32 / 4;
    barrier::wait(&shared.weights_full[group ^ 1], tile >> 1 & 1);
    const float theirs[2] = {shared.base[group ^ 1][head], shared.base[group ^ 1][head + 8]};
    turn_to(theirs, heads, out);
    start_values(shared, tile % kTiles, group ^ 1, group, out);
    wgmma::commit();
#pragma unroll
    for (int r = 0; r < 2; ++r) heads.known[r] = fmaxf(heads.known[r], theirs[r]);
  };
  const auto end_values = [&] {
    wgmma::wait<0>();
    wgmma::hold(out[0]);
    wgmma::hold(out[1]);
  };
#pragma unroll 1
  for (int i = (group ^ base) & 1; i < tiles; i += 2) {
    const int tile = base + i, slot = tile % kTiles;
    float s[16];
    barrier::wait(&shared.tile_full[slot], tile / kTiles & 1);
    start_logits(shared, slot, s);
    wgmma::wait<0>();
    wgmma::hold(s);
    Weights weights;
    soften(present_rows(shared, slot), scale_log2, s, heads, weights);
    const float mine[2] = {heads.known[0], heads.known[1]};
    barrier::wait(&shared.weights_empty[group], (tile >> 1 & 1) ^ 1);
    publish(shared, group, weights, heads);
    if (i > 0) {
      start_others(tile - 1);
      end_values();
      release(shared, (tile - 1) % kTiles, group ^ 1);
    }
    turn_to(mine, heads, out);
#pragma unroll
    for (int r = 0; r < 2; ++r) heads.total[r] += weights.sum[r];
    barrier::wait(&shared.weights_full[group], tile >> 1 & 1);
    start_values(shared, slot, group, group, out);
    wgmma::commit();
    end_values();
    release(shared, slot, group);
  }
  if (tiles > 0 && ((base + tiles - 1) & 1) != group) {  // the last tile is the other group's
    start_others(base + tiles - 1);
    end_values();
    release(shared, (base + tiles - 1) % kTiles, group ^ 1);
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
