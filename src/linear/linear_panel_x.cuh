// What the panel kernel of linear multiplies the weights with: the x of one part of K, made once a block.
#pragma once

#include "linear/linear_kernel.cuh"
#include "linear/linear_panel_policy.h"

namespace fathom::linear_kernel {

/// What a launch needs beside the op's arguments.
struct PanelLaunch {
  LinearProblem problem;
  LinearArgs args;
  PanelWork work;
  std::int32_t panel_blocks;  ///< room for x in shared memory
  float4* partials;           ///< [tiles, splits, fragments], where K has parts
  std::int32_t* counters;     ///< [tiles], zero between runs
  bool begins_early;          ///< launched so that it may begin before the launch in front of it has ended
};

/// x of a panel, made by all threads: eight lanes own 128 elements of one token and go through the blocks of K.
template <bool kIsE4m3, int kWarps, int kTokenTiles>
struct PanelX {
  static constexpr int kThreads = 32 * kWarps, kTokens = 8 * kTokenTiles, kBlockK = PanelTile::kBlockK;
  static constexpr int kBlockWords = kTokenTiles * 4 * 32;  ///< uint4 of 128 elements of K, all tokens
  /// Pairs of elements in the order that the weights' decoder gives them.
  static constexpr bool kNaturalPairs = !kIsE4m3 || kConvertsE4m3;
  static constexpr int kPairs = kThreads / kLanesPerBlock;  ///< of token and block at a time
  static constexpr int kTokenTurns = kTokens > kPairs ? kTokens / kPairs : 1,
                       kBlockStep = kTokens > kPairs ? 1 : kPairs / kTokens;
  static constexpr int kTogether = kWarps == 16 ? 6 : 8;  ///< turns whose x is on its way
  static constexpr int kOtherHalf = kIsE4m3 ? 32 : 1;     ///< uint4 from one half's place to the other's

  int token, block;     ///< of turn 0
  int blocks, end;      ///< of the panel; of the row, from the lane's first element of turn 0 on
  std::int64_t origin;  ///< of the lane's first element
  uint4* to;
  float* scales;
  Lane16 x[kTogether];

  __device__ __forceinline__ PanelX(const PanelLaunch& launch, const PanelPlace& place, std::byte* x_buffer,
                                    float* x_scales) {
    const int pair = static_cast<int>(threadIdx.x) / kLanesPerBlock,
              lane_of_block = static_cast<int>(threadIdx.x) % kLanesPerBlock;
    token = pair % kTokens, block = pair / kTokens;
    blocks = place.blocks(launch.work);
    const int k = (place.begin(launch.work) + block) * kBlockK + lane_of_block * kPerLane,
              of_all = place.token_tile * kTokens + token;
    end = launch.problem.in_dim - k;
    origin = of_all * launch.args.x.strides[0] + place.group * launch.problem.in_dim + k;
    // Eight elements are one lane's part of a quarter of the block: two products' worth.
    const int quarter = kIsE4m3 ? lane_of_block / 4 * 2 : lane_of_block / 2,
              t = kIsE4m3 ? lane_of_block % 4 : lane_of_block % 2 * 2;
    to =
        reinterpret_cast<uint4*>(x_buffer) + ((block * kTokenTiles + token / 8) * 4 + quarter) * 32 + token % 8 * 4 + t;
    scales = lane_of_block == 0 ? x_scales + block * kTokens + token : nullptr;
    token += place.token_tile * kTokens;
  }

  __device__ __forceinline__ void load(const PanelLaunch& launch, int first_turn) {
    if (launch.args.x.dtype == DType::bf16) {
      load_as<bf16>(launch, first_turn, [](Lane16& to, const bf16* at, int left) { to.load_bf16(at, left); });
    } else {
      load_as<float>(launch, first_turn, [](Lane16& to, const float* at, int left) { to.load_f32(at, left); });
    }
  }
  template <class Element, class Load>
  __device__ __forceinline__ void load_as(const PanelLaunch& launch, int first_turn, const Load& load_one) {
    const int num_tokens = static_cast<int>(launch.args.x.shape[0]);
    const auto* first = static_cast<const Element*>(launch.args.x.data) + origin;
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int turn = first_turn + i, step = turn / kTokenTurns * kBlockStep, more = turn % kTokenTurns * kPairs;
      const bool is_there = token + more < num_tokens && block + step < blocks;
      load_one(x[i], first + more * launch.args.x.strides[0] + step * kBlockK, is_there ? end - step * kBlockK : 0);
    }
  }
  /// All of the panel, in the order of the products' fragments.
  __device__ __forceinline__ void finish(const PanelLaunch& launch) {
    const bool quantises = launch.problem.activation_quant == ActivationQuant::e4m3_128;
    const int turns = (blocks + kBlockStep - 1) / kBlockStep * kTokenTurns;
    for (int first = 0;;) {
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int turn = first + i, step = turn / kTokenTurns * kBlockStep;
        if (turn >= turns) break;
        float scale = 0;
        if constexpr (kIsE4m3) {
          scale = quantises ? exp2_of(quantise_to_f16(x[i])) : scale_to_f16(x[i]);
        } else if (quantises) {
          quantise_and_back(x[i]);
        }
        if (block + step >= blocks) continue;
        if (kIsE4m3 && scales != nullptr) scales[step * kTokens + turn % kTokenTurns * kPairs] = scale;
        uint4* place = to + step * kBlockWords + turn % kTokenTurns * (kPairs / 8 * 4 * 32);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::uint32_t p[4] = {x[i].pairs[4 * half], x[i].pairs[4 * half + 1], x[i].pairs[4 * half + 2],
                                      x[i].pairs[4 * half + 3]};
          place[half * kOtherHalf] = kNaturalPairs
                                         ? make_uint4(p[0], p[1], p[2], p[3])
                                         : make_uint4(__byte_perm(p[0], p[1], 0x7632), __byte_perm(p[0], p[1], 0x5410),
                                                      __byte_perm(p[2], p[3], 0x7632), __byte_perm(p[2], p[3], 0x5410));
        }
      }
      first += kTogether;
      if (first >= turns) break;
      load(launch, first);
    }
  }
};

}  // namespace fathom::linear_kernel
