// attend on Hopper: queries that come raw, and results that leave turned back or as codes. The math groups do both with
// whole heads in hand, between the units of their block.
#pragma once

#include "attend/attend_sm90_math.cuh"

namespace fathom::attend_sm90_kernel {

/// A math warp's share of raw queries: every eighth head, whole, in the words of head_squares. Heads past the last are
/// zeros.
constexpr int kMathWarps = 2 * kGroup / 32;
static_assert(kQueriesOfThread == kHeads / kMathWarps * 2);

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
/// keep_queries of raw ones: head-normed and rotated on the way.
__device__ __forceinline__ void keep_raw_queries(const Launch& launch, Shared& shared, const Unit& unit,
                                                 const Queries& queries) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Turn turn = turn_at(launch.args, unit.t);
#pragma unroll
  for (int i = 0; i < kQueriesOfThread / 2; ++i) {
    HeadWords head;
#pragma unroll
    for (int k = 0; k < 2; ++k) head.words[k] = unpack(reinterpret_cast<const PackedEight&>(queries.chunks[2 * i + k]));
    const float factor = head_factor(head_squares(head), kDim, launch.problem.norm_eps, DType::bf16);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int chunk = column_of(k, lane) / 8, h = warp + i * kMathWarps;
      Eight& word = head.words[k];
      if (turn.is_padding) {
        word = Eight{};
      } else {
        finish_query(word, 8 * chunk, factor, turn.rope, kRotary, kDim - kRotary);
      }
      const PackedEight packed = pack(word);
      *reinterpret_cast<uint4*>(shared.q + chunk / 8 * kQuerySlabBytes + wgmma::chunk_at(h, chunk % 8)) =
          in_tile_order(reinterpret_cast<const uint4&>(packed), chunk);
    }
  }
  barrier::publish_to_tensor_cores();
}

/// Sends staged results in a form that is not plain. `result_of(h, chunk)` is eight staged elements, in the caller's
/// order.
template <class ResultOf>
__device__ __forceinline__ void send_formed_results(const Launch& launch, const Unit& unit, const ResultOf& result_of) {
  const int chunk = threadIdx.x % kQueryChunks, first = threadIdx.x / kQueryChunks;
  const Turn turn = turn_of_result(launch, unit.t);
  for (int h = first; h < unit.num_heads; h += kQueryStep) {  // the same in a whole warp
    const uint4 v = turn.is_padding ? uint4{0, 0, 0, 0} : result_of(h, chunk);
    std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
    const int rotary = 8 * chunk - (kDim - kRotary);
    if (rotary >= 0 && turn.rope != nullptr) rotate_back(pairs, turn.rope + rotary / 2, kRotary / 2);
    if (launch.problem.out_form == OutForm::unrotated) {
      store_pairs(launch, unit.t, unit.first_head + h, 8 * chunk, pairs);
    } else {
      store_codes(launch, unit.t, unit.first_head + h, 8 * chunk, pairs,
                  largest_of_lanes(largest_of_pairs(pairs), kOutScaleBlock / 8));
    }
  }
}

}  // namespace fathom::attend_sm90_kernel
