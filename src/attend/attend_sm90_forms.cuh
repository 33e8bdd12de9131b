// attend on Hopper: queries that come raw, and results that leave turned back or as codes. The math groups do both with
// whole heads in hand, between the units of their block.
#pragma once

#include "attend/attend_sm90_math.cuh"

namespace fathom::attend_sm90_kernel {

/// A math warp's share of raw queries: every eighth head, whole, in the words of head_squares. Heads past the last are
/// zeros.
constexpr int kMathWarps = 2 * kGroup / 32;
static_assert(kQueriesOfThread == kHeads / kMathWarps * 2);

struct Fetched {
  Queries queries;  ///< raw: of head warp + i * kMathWarps words 2 i and 2 i + 1
  bool is_padding = false;
  Rotation rotation = {};  ///< raw: of the second word, where it is rotary
  float rope = 0;          ///< out_form: a thread's number of the query's row of the rotary table
};
__device__ __forceinline__ bool has_rotary_word(int lane) { return column_of(1, lane) >= kDim - kRotary; }

__device__ __forceinline__ void fetch_raw_queries(const Launch& launch, const Unit& unit, Queries& queries) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = warp + i / 2 * kMathWarps;
    queries.chunks[i] = uint4{0, 0, 0, 0};
    if (h < unit.num_heads) {
      const bf16* const head = launch.args.q.row<const bf16>(unit.t, unit.first_head + h);
      queries.chunks[i] = *reinterpret_cast<const uint4*>(head + column_of(i % 2, lane));
    }
  }
}
/// Whatever the forms ask for beside the queries. The position's load is under way while those of the queries start.
__device__ __forceinline__ Fetched fetch(const Launch& launch, const Unit& unit) {
  const bool is_raw = launch.problem.q_form == QForm::raw, is_plain = launch.problem.out_form == OutForm::plain;
  Fetched fetched;
  std::int32_t position = 0;
  if (is_raw || !is_plain) position = __ldg(&launch.args.positions.at<const std::int32_t>(unit.t));
  is_raw ? fetch_raw_queries(launch, unit, fetched.queries) : fetch_queries(launch, unit, fetched.queries);
  if (!is_raw && is_plain) return fetched;
  const Turn turn = turn_by(launch.args.rope_table, position);
  const int lane = threadIdx.x % 32;
  fetched.is_padding = turn.is_padding;
  if (turn.is_padding) return fetched;
  if (is_raw && has_rotary_word(lane))
    fetched.rotation = rotation_at(turn.rope, kRotary, column_of(1, lane) - (kDim - kRotary));
  if (!is_plain && threadIdx.x < kRotary) fetched.rope = __ldg(turn.rope + threadIdx.x);
  return fetched;
}
/// keep_queries of raw ones: head-normed and rotated on the way. The warp's heads go in step, so that their chains of
/// sums hide each other, and each of eight lanes works out one head's factor for all.
__device__ __forceinline__ void keep_raw_queries(const Launch& launch, Shared& shared, const Fetched& fetched) {
  constexpr int kCount = kHeads / kMathWarps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float sums[kCount] = {};
#pragma unroll
  for (int word = 0; word < 8; ++word) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      add_squares(reinterpret_cast<const std::uint32_t*>(&fetched.queries.chunks[2 * i + word / 4])[word % 4], sums[i]);
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {  // as warp_sum
#pragma unroll
    for (float& sum : sums) sum += __shfl_xor_sync(kAllLanes, sum, d);
  }
  float mine = sums[0];
#pragma unroll
  for (int i = 1; i < kCount; ++i) mine = lane == i ? sums[i] : mine;
  const float factor = head_factor(mine, kDim, launch.problem.norm_eps, DType::bf16);
#pragma unroll
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = warp + i / 2 * kMathWarps, chunk = column_of(i % 2, lane) / 8;
    const std::uint32_t twice = factor_pair(__shfl_sync(kAllLanes, factor, i / 2));
    const uint4& v = fetched.queries.chunks[i];
    std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (std::uint32_t& pair : pairs) pair = fetched.is_padding ? 0u : mma::multiply_bf16x2(pair, twice);
    if (i % 2 == 1 && !fetched.is_padding && has_rotary_word(lane)) rotate_pairs(pairs, fetched.rotation);
    *reinterpret_cast<uint4*>(shared.q + chunk / 8 * kQuerySlabBytes + wgmma::chunk_at(h, chunk % 8)) =
        in_tile_order(uint4{pairs[0], pairs[1], pairs[2], pairs[3]}, chunk);
  }
  barrier::publish_to_tensor_cores();
}

__device__ __forceinline__ void keep(const Launch& launch, Shared& shared, const Fetched& fetched) {
  launch.problem.q_form == QForm::raw ? keep_raw_queries(launch, shared, fetched)
                                      : keep_queries(shared, fetched.queries);
  if (threadIdx.x < kRotary && launch.problem.out_form != OutForm::plain) shared.rope[threadIdx.x] = fetched.rope;
  if (threadIdx.x == 0) shared.is_zero = fetched.is_padding && launch.problem.out_form != OutForm::plain;
}

/// A pair of a result, turned back: pair number `pair` of the rotary part.
__device__ __forceinline__ std::uint32_t turned_back(const Shared& shared, std::uint32_t word, int pair) {
  return rotated_pair(word, shared.rope[pair], -shared.rope[kRotary / 2 + pair]);
}

/// Sends staged results as codes. `result_of(h, chunk)` is eight staged elements, in the caller's order.
template <class ResultOf>
__device__ __forceinline__ void send_codes(const Launch& launch, const Unit& unit, const ResultOf& result_of) {
  const int chunk = threadIdx.x % kQueryChunks, first = threadIdx.x / kQueryChunks;
#pragma unroll 4
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = first + i * kQueryStep;
    if (h >= unit.num_heads) break;  // in a whole warp
    const uint4 v = result_of(h, chunk);
    const std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
    store_codes(launch, unit.t, unit.first_head + h, 8 * chunk, pairs,
                largest_of_lanes(largest_of_pairs(pairs), kOutScaleBlock / 8));
  }
}

}  // namespace fathom::attend_sm90_kernel
