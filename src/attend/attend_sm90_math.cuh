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

/// Zeros, and not before this point: the registers are the queries' until then.
__device__ __forceinline__ void clear(float (&out)[2][64]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) asm volatile("mov.b32 %0, 0;" : "=f"(out[i / 64][i % 64]));
}
/// Logits may be under way meanwhile: they are in other registers.
__device__ __forceinline__ void rescale(float (&out)[2][64], const float (&factor)[2]) {
  if (!__any_sync(kAllLanes, factor[0] != 1.f || factor[1] != 1.f)) return;
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i / 64][i % 64] *= factor[i / 2 % 2];
}

/// Where the values of a tile begin for a group, which has one half of the elements.
__device__ __forceinline__ std::uint64_t values_of(const Shared& shared, int tile_slot, int group) {
  return wgmma::descriptor(shared.tiles[tile_slot], kTileSlabBytes, 1024) + group * 4 * kTileSlabBytes / 16;
}
/// Where in them `half` of the group's elements begin for rows 16 k and on.
constexpr int value_step(int k, int half) { return (half * 2 * kTileSlabBytes + k * 16 * wgmma::kSlabRowBytes) / 16; }

/// Starts out += weights x values of the other group's tile.
__device__ __forceinline__ void start_values(const Shared& shared, int tile_slot, int owner, int group,
                                             float (&out)[2][64]) {
  const std::uint64_t weights = wgmma::descriptor(shared.weights, 16, 1024) + owner * 64 / 16,
                      values = values_of(shared, tile_slot, group);
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      wgmma::add_64x128x16<1>(out[half], weights + k * 32 / 16, values + value_step(k, half), 1);
  }
  wgmma::commit();
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
/// rounding, and most tiles have the same. It follows from the tiles before, whoever's they are, and from the tile's own
/// logits; never from timing.
struct Weights {
  std::uint32_t pairs[kTileRows / 16][4];  ///< as an operand of products, for each 16 rows
  float sum[2];
};
/// Starts out += weights x values of the group's own tile, weights straight from the registers they were found in.
__device__ __forceinline__ void start_own_values(const Shared& shared, int tile_slot, int group, const Weights& weights,
                                                 float (&out)[2][64]) {
  const std::uint64_t values = values_of(shared, tile_slot, group);
  wgmma::fence();
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      wgmma::add_64x128x16<1>(out[half], weights.pairs[k], values + value_step(k, half));
  }
  wgmma::commit();
}
/// Scales logits to base 2, hides absent rows, and finds what the tile's weights are relative to. `present` has a bit
/// for each row of the tile.
__device__ __forceinline__ void find_base(std::uint32_t present, float scale_log2, float (&s)[16], HeadPair& heads) {
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
  }
}
/// Logits to weights, sixteen rows at a time, so that weights take the registers of their logits.
__device__ __forceinline__ void soften(const float (&s)[16], const HeadPair& heads, Weights& weights) {
  weights.sum[0] = weights.sum[1] = 0;
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float base = heads.known[i % 2] == -kInfinity ? 0.f : heads.known[i % 2];
      const float* logits = s + 8 * k + 2 * i;
      const float p0 = power_of_two(logits[0] - base), p1 = power_of_two(logits[1] - base);
      weights.sum[i % 2] += p0 + p1;
      weights.pairs[k][i] = mma::pack_bf16x2(p0, p1);
    }
  }
}
/// Writes them down for the other group; `publish` is to follow.
__device__ __forceinline__ void write_down(Shared& shared, int group, const Weights& weights, const HeadPair& heads) {
  const int thread = threadIdx.x % kGroup, lane = thread % 32, first = thread / 32 * 16;
  const int place = wgmma::chunk_at(first + lane % 16, 4 * group + lane / 16);
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
    const std::uint32_t(&w)[4] = weights.pairs[k];
    mma::store_matrix_x4(shared.weights + (place ^ k << 5), w[0], w[1], w[2], w[3]);
  }
  if (lane % 4 != 0) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) shared.base[group][first + lane / 4 + 8 * r] = heads.known[r];
}
__device__ __forceinline__ void publish(Shared& shared, int group) {
  barrier::publish_to_tensor_cores();
  __syncwarp();
  if (threadIdx.x % 4 == 0) barrier::arrive(&shared.weights_full[group]);  // who wrote a base
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

/// Runs tiles [begin, end) of all that the block has, a unit's; a group owns every second of all. A round of the loop
/// is one owned tile and the values of the tile before it: while the tensor cores add those, the owned tile's logits
/// become weights.
__device__ __forceinline__ void attend_tiles(const Launch& launch, Shared& shared, int begin, int end, int group,
                                             HeadPair& heads, float (&out)[2][64]) {
  const float scale_log2 = launch.problem.softmax_scale * kLog2e;
  const int other = group ^ 1;
  // The other group's weights of a tile: their values go into the sums.
  const auto start_others = [&](int tile) {
    const int head = threadIdx.x % kGroup / 32 * 16 + threadIdx.x % 32 / 4;
    barrier::wait(&shared.weights_full[other], tile >> 1 & 1);
    const float theirs[2] = {shared.base[other][head], shared.base[other][head + 8]};
    turn_to(theirs, heads, out);
    start_values(shared, tile % kTiles, other, group, out);
#pragma unroll
    for (int r = 0; r < 2; ++r) heads.known[r] = fmaxf(heads.known[r], theirs[r]);
  };
  const auto end_values = [&] {
    wgmma::wait<0>();
    wgmma::hold(out[0]);
    wgmma::hold(out[1]);
  };
  // A tile has been used by this warp, and the weights that the other group made for it.
  const auto release = [&](int tile, bool is_others) {
    __syncwarp();  // all lanes have read what goes with them
    if (threadIdx.x % 32 >= barrier::kArrivalsOfWarp) return;
    barrier::arrive(&shared.tile_empty[tile % kTiles]);
    if (is_others) barrier::arrive(&shared.weights_empty[other]);
  };
  const auto round = [&]<bool kFollows>(int tile) {
    float s[16];
    const int slot = tile % kTiles;
    barrier::wait(&shared.tile_full[slot], tile / kTiles & 1);
    barrier::publish_to_tensor_cores();  // the feeding warps' stores; the other group comes after this one's weights
    start_logits(shared, slot, s);
    if constexpr (kFollows) start_others(tile - 1);
    wgmma::wait<kFollows ? 1 : 0>();
    wgmma::hold(s);
    find_base(shared.present[slot], scale_log2, s, heads);
    if constexpr (kFollows) {  // as early as can be: the feeding warps wait for the slot
      end_values();
      release(tile - 1, true);
    }
    Weights weights;
    soften(s, heads, weights);
    const float mine[2] = {heads.known[0], heads.known[1]};
    barrier::wait(&shared.weights_empty[group], (tile >> 1 & 1) ^ 1);
    write_down(shared, group, weights, heads);
    turn_to(mine, heads, out);
#pragma unroll
    for (int r = 0; r < 2; ++r) heads.total[r] += weights.sum[r];
    start_own_values(shared, slot, group, weights, out);
    publish(shared, group);  // its fence takes time, which the products hide
    end_values();
    release(tile, false);
  };
  int tile = begin + ((group ^ begin) & 1);
  if (tile == begin && begin < end) {
    round.template operator()<false>(tile);
    tile += 2;
  }
#pragma unroll 1
  for (; tile < end; tile += 2) round.template operator()<true>(tile);
  if (begin < end && ((end - 1) & 1) != group) {  // the last tile is the other group's
    start_others(end - 1);
    end_values();
    release(end - 1, true);
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
