// attend on Hopper: queries that come raw, and results that leave turned back or as codes. The math groups do both with
// whole heads in hand, between the units of their block.
#pragma once

#include "attend/attend_sm90_math.cuh"

namespace fathom::attend_sm90_kernel {

/// A math warp's share of raw queries: every eighth head, whole, in the words of head_squares. Heads past the last are
/// zeros.
constexpr int kMathWarps = 2 * kGroup / 32;
static_assert(kQueriesOfThread == kHeads / kMathWarps * 2);

struct RawQueries {
  Queries words;  ///< of head warp + i * kMathWarps: 2 i and 2 i + 1
  Turn turn;
  Rotation rotation;  ///< of the second word, where it is rotary
};
__device__ __forceinline__ bool has_rotary_word(int lane) { return column_of(1, lane) >= kDim - kRotary; }

__device__ __forceinline__ void fetch_raw_queries(const Launch& launch, const Unit& unit, RawQueries& queries) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::int32_t position = __ldg(&launch.args.positions.at<const std::int32_t>(unit.t));
#pragma unroll
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = warp + i / 2 * kMathWarps;
    queries.words.chunks[i] = uint4{0, 0, 0, 0};
    if (h < unit.num_heads) {
      const bf16* const head = launch.args.q.row<const bf16>(unit.t, unit.first_head + h);
      queries.words.chunks[i] = *reinterpret_cast<const uint4*>(head + column_of(i % 2, lane));
    }
  }
  queries.turn = turn_by(launch.args.rope_table, position);
  if (queries.turn.rope != nullptr && has_rotary_word(lane))
    queries.rotation = rotation_at(queries.turn.rope, kRotary, column_of(1, lane) - (kDim - kRotary));
}
/// keep_queries of raw ones: head-normed and rotated on the way. The warp's heads go in step, so that their chains of
/// sums hide each other, and each of eight lanes works out one head's factor for all.
__device__ __forceinline__ void keep_raw_queries(const Launch& launch, Shared& shared, const RawQueries& queries) {
  constexpr int kCount = kHeads / kMathWarps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float sums[kCount] = {};
#pragma unroll
  for (int word = 0; word < 8; ++word) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      add_squares(reinterpret_cast<const std::uint32_t*>(&queries.words.chunks[2 * i + word / 4])[word % 4], sums[i]);
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
    const uint4& v = queries.words.chunks[i];
    std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (std::uint32_t& pair : pairs) pair = queries.turn.is_padding ? 0u : mma::multiply_bf16x2(pair, twice);
    if (i % 2 == 1 && queries.turn.rope != nullptr && has_rotary_word(lane)) rotate_pairs(pairs, queries.rotation);
    *reinterpret_cast<uint4*>(shared.q + chunk / 8 * kQuerySlabBytes + wgmma::chunk_at(h, chunk % 8)) =
        in_tile_order(uint4{pairs[0], pairs[1], pairs[2], pairs[3]}, chunk);
  }
  barrier::publish_to_tensor_cores();
}

/// How the eight elements of a thread's chunk are turned back, the same for all heads of a query.
struct TurnBack {
  bool is_padding = false, is_rotary = false;
  Rotation rotation;
};
__device__ __forceinline__ TurnBack turn_back_by(const Launch& launch, std::int32_t position) {
  if (launch.problem.out_form == OutForm::plain) return {};
  const Turn turn = turn_by(launch.args.rope_table, position);
  const int rotary = 8 * static_cast<int>(threadIdx.x % kQueryChunks) - (kDim - kRotary);
  TurnBack back{turn.is_padding, turn.rope != nullptr && rotary >= 0, {}};
  if (back.is_rotary) back.rotation = reversed(rotation_at(turn.rope, kRotary, rotary));
  return back;
}

/// Sends staged results in a form that is not plain. `result_of(h, chunk)` is eight staged elements, in the caller's
/// order.
template <class ResultOf>
__device__ __forceinline__ void send_formed_results(const Launch& launch, const Unit& unit, const TurnBack& back,
                                                    const ResultOf& result_of) {
  const int chunk = threadIdx.x % kQueryChunks, first = threadIdx.x / kQueryChunks;
#pragma unroll 4
  for (int i = 0; i < kQueriesOfThread; ++i) {
    const int h = first + i * kQueryStep;
    if (h >= unit.num_heads) break;  // in a whole warp
    const uint4 v = back.is_padding ? uint4{0, 0, 0, 0} : result_of(h, chunk);
    std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
    if (back.is_rotary) rotate_pairs(pairs, back.rotation);
    if (launch.problem.out_form == OutForm::unrotated) {
      store_pairs(launch, unit.t, unit.first_head + h, 8 * chunk, pairs);
    } else {
      store_codes(launch, unit.t, unit.first_head + h, 8 * chunk, pairs,
                  largest_of_lanes(largest_of_pairs(pairs), kOutScaleBlock / 8));
    }
  }
}

}  // namespace fathom::attend_sm90_kernel
