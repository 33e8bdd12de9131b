// attend on Hopper: the blocks that share a query are a cluster, and merge their parts through each other's shared
// memory. Where a query has more blocks than a cluster may have, clusters leave their sums in memory, and the last to
// come merges those.
#pragma once

#include "attend/attend_sm90_shared.cuh"
#include "device/cluster.cuh"

namespace fathom::attend_sm90_kernel {

/// A block's unnormalised sums, where its queries and tiles were.
constexpr int kPartPitch = kDim + 8;  ///< floats from a head to the next: fragments of eight heads meet different banks
static_assert(kHeads * kPartPitch * sizeof(float) <= offsetof(Shared, weights));

__device__ __forceinline__ void keep_part(Shared& shared, int num_heads, int group, const HeadPair& heads,
                                          const float (&out)[2][64]) {
  const int thread = threadIdx.x % kGroup, quad = thread % 4, head = thread / 32 * 16 + thread % 32 / 4;
  float* const sums = reinterpret_cast<float*>(shared.q);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int h = head + 8 * r;
    if (h >= num_heads) continue;
    float* row = sums + h * kPartPitch + group * 256;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      // Out of the tiles' order: a pair of elements lies two apart.
      const bool rotary = is_rotary(group, j);
      float* const at = row + 8 * j + (rotary ? 2 * quad : quad / 2 * 4 + quad % 2);
      at[0] = out[j / 16][j % 16 * 4 + 2 * r];
      at[rotary ? 1 : 2] = out[j / 16][j % 16 * 4 + 2 * r + 1];
    }
    if (group != 0 || quad != 0) continue;
    shared.states[0][h] = heads.base[r];
    shared.states[1][h] = heads.total[r];
    shared.states[2][h] = heads.most[r];
  }
}

/// Leaves a cluster's sums of one head, or of a piece of it, as a part of the unit.
__device__ __forceinline__ void leave_part(const Launch& launch, std::int64_t part, int h, const JoinedHead& head,
                                           unsigned chunks, const float (&sums)[4][4]) {
  const int lane = threadIdx.x % 32;
  auto* to = reinterpret_cast<float4*>(launch.sums + (part * kHeads + h) * kDim) + lane;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if ((chunks >> i & 1) != 0) to[32 * i] = float4{sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
  }
  if (lane != 0 || (chunks & 1) == 0) return;
  float* state = launch.states + part * 3 * kHeads + h;
  state[0] = head.base;
  state[kHeads] = head.total;
  state[2 * kHeads] = head.most;
}

/// Merges the cluster's parts. All threads of both math groups call it. Where blocks have few heads, each is merged in
/// pieces, a warp each: a unit's pieces are dealt out to the cluster's warps, block by block.
__device__ __forceinline__ void merge_cluster(const Launch& launch, Shared& shared, const Unit& unit) {
  constexpr int kWarps = 2 * kGroup / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int blocks = launch.splits / launch.parts, rank = static_cast<int>(blockIdx.y) % blocks;
  const std::int64_t part = unit.number * launch.parts + blockIdx.y / blocks;
  const Turn turn = turn_of_result(launch, unit.t);
  // Parts that go to memory are merged again by whole heads, in blocks that count whole heads as theirs.
  int pieces = 1;
  while (launch.parts == 1 && pieces < 4 && 2 * pieces * unit.num_heads <= kWarps * blocks)
    pieces *= 2;  // at most one for a warp
  cluster::arrive();
  cluster::wait();
  for (int item = rank + warp * blocks; item < unit.num_heads * pieces; item += kWarps * blocks) {
    const int h = item / pieces;
    const unsigned chunks = (kAllChunks >> (4 - 4 / pieces)) << (item % pieces * (4 / pieces));
    const std::uint32_t states = cluster::address_in(&shared.states[0][h], lane < blocks ? lane : rank);
    const float base = cluster::load(states), total = cluster::load(states + sizeof(shared.states[0])),
                most = cluster::load(states + 2 * sizeof(shared.states[0]));
    const bool has_part = lane < blocks;
    const JoinedHead head =
        join_head(has_part ? base : -kInfinity, has_part ? total : 0.f, has_part ? most : -kInfinity);
    float sums[4][4] = {};
    const float* row = reinterpret_cast<const float*>(shared.q) + h * kPartPitch + 4 * lane;
#pragma unroll 8
    for (int p = 0; p < blocks; ++p) {
      const std::uint32_t from = cluster::address_in(row, p);
      add_part(head, p, chunks, sums, [&](int i) { return cluster::load4(from + i * 32 * sizeof(float4)); });
    }
    if (launch.parts == 1) {
      store_joined(launch, unit.t, unit.first_head + h, head, chunks, sums, 1.f, turn);
    } else {
      leave_part(launch, part, h, head, chunks, sums);
    }
  }
  cluster::arrive_relaxed();  // no block ends while another reads its memory
  if (launch.parts > 1) {
    barrier::sync<1, 2 * kGroup>();
    if (threadIdx.x == 0) {
      int* const counter = launch.counters + unit.number * blocks + rank;
      __threadfence();  // the block's stores, ordered before it by the barrier, are seen by whoever sees the count
      shared.is_last = atomicAdd(counter, 1) == launch.parts - 1;
      if (shared.is_last) *counter = 0;
      __threadfence();
    }
    barrier::sync<1, 2 * kGroup>();
    if (shared.is_last)
      merge_parts<kHeads>(launch, unit.number, unit.t, unit.first_head, rank + warp * blocks, kWarps * blocks, 1.f);
  }
  cluster::wait();
}

}  // namespace fathom::attend_sm90_kernel
