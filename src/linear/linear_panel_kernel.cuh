// The panel kernel of linear: 9 to 64 tokens, so the weights are still what moves, and what is done beside must not hold them up.
//
// A block makes the x of one part of K ready once, in the order of the products' fragments, and keeps it while its warps go through
// rows of weights, each warp by itself: it copies 16 rows x 128 bytes a step into a ring that no other warp sees (every lane reads back
// what it copied, so there is no barrier), multiplies, and ends its 16 rows on its own. The tensor cores' product has the weights on its
// 16-row side and the tokens on its 8-column side; K may be numbered as one likes as long as both sides do the same, so a lane's 16 bytes
// are its operands of several products.
//
// E4M3 weights are f16 codes, and x is f16 with a power of two per token and 128 elements (its Q8 codes where it is quantised): both
// scales go to each sum over 128 elements (spec 0.5). bf16 weights and x are multiplied as they are. Where K has parts, the last warp of
// 16 rows adds all parts in order: the sum never depends on timing.
#pragma once

#include "device/last_arriver.cuh"
#include "linear/linear_kernel.cuh"
#include "linear/linear_panel_policy.h"

#include <cuda_bf16.h>

#include <type_traits>

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

template <bool kIsE4m3, int kWarps, int kTokenTiles>
struct Panel {
  static constexpr PanelTile kTile{kWarps, kTokenTiles};
  static constexpr int kThreads = kTile.threads(), kTokens = kTile.tokens(), kBlockK = PanelTile::kBlockK;
  static constexpr int kStages = PanelTile::kStages, kStepBytes = PanelTile::kStepBytes, kRowBytes = 128;
  static constexpr int kRingBytes = kTile.ring_bytes(), kXBlockBytes = kTile.x_bytes(1);
  static constexpr int kElementBytes = kIsE4m3 ? 1 : 2;
  static constexpr int kStepsOfBlock = kElementBytes, kQuartersOfStep = 4 / kStepsOfBlock;
  static constexpr int kXBlockWords = kTokenTiles * 4 * 32;  ///< uint4 of x, 128 elements of K
  static constexpr int kCalledEarly = 8;                     ///< steps of weights that a warp calls into L2 before it may touch them
  static constexpr bool kLooksForNan = kIsE4m3 && !kConvertsE4m3;
  /// Pairs of elements in the order that the weights' decoder gives them.
  static constexpr bool kNaturalPairs = !kIsE4m3 || kConvertsE4m3;

  /// A thread's place, and the rows and steps of every panel that are its warp's.
  struct Me {
    int lane, warp, g, t;
    int unit_begin, unit_end, unit_stride;  ///< of 16 rows
    int step_begin, step_stride;            ///< of the panel's, 128 bytes of a row each
    __device__ explicit Me(const PanelWork& work)
        : lane(threadIdx.x % 32), warp(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0)), g(lane / 4), t(lane % 4) {
      const int block = static_cast<int>(blockIdx.x) % work.blocks_per_panel;
      step_stride = work.warps_per_unit, step_begin = warp % step_stride;
      unit_begin = work.unit_begin(block) + warp / step_stride, unit_end = work.unit_begin(block + 1), unit_stride = kWarps / step_stride;
    }
    /// How many steps of a panel are the warp's.
    __device__ __forceinline__ int steps(const PanelWork& work, const PanelPlace& place) const {
      return (place.blocks(work) * kStepsOfBlock - step_begin + step_stride - 1) / step_stride;
    }
  };
  static __device__ __forceinline__ int panel_stride(const PanelWork& work) { return static_cast<int>(gridDim.x) / work.blocks_per_panel; }

  /// Where the lane's weights are fetched: a few steps ahead of the products. Rows beyond the last are read as the last one, their sums go
  /// nowhere; elements beyond the last are zeros, because a product of zero and a NaN is one.
  struct Fetcher {
    PanelPlace place;
    int panel, unit;
    int steps_left;          ///< of this unit; none: there is nothing more to fetch
    int bytes_left;          ///< of the row, from the step's first on
    const std::byte* at[2];  ///< the lane's 16 bytes of the step's first half, rows g and g + 8

    __device__ __forceinline__ void open(const PanelLaunch& launch, const Me& me) {
      const PanelWork& work = launch.work;
      const int first = place.begin(work) * kBlockK * kElementBytes + me.step_begin * kRowBytes, last = place.rows(work, unit) - 1;
      steps_left = me.steps(work, place);
      bytes_left = launch.problem.in_dim * kElementBytes - first;
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        at[low] = static_cast<const std::byte*>(launch.args.weight.data) + first + me.t * 16 +
                  (place.row(work, unit) + min(me.g + 8 * low, last)) * launch.args.weight.strides[0] * kElementBytes;
      }
    }
    __device__ __forceinline__ void begin(const PanelLaunch& launch, const Me& me, int first_panel, const PanelPlace& first_place) {
      panel = first_panel, place = first_place, unit = me.unit_begin, steps_left = 0;
      if (unit < me.unit_end) open(launch, me);
    }
    __device__ __forceinline__ void advance(const PanelLaunch& launch, const Me& me) {
      if (--steps_left > 0) {
        const int bytes = me.step_stride * kRowBytes;
        at[0] += bytes, at[1] += bytes, bytes_left -= bytes;
        return;
      }
      unit += me.unit_stride;
      if (unit >= me.unit_end) {
        unit = me.unit_begin;
        panel += panel_stride(launch.work);
        if (panel >= launch.work.panels) return;
        place = place.after(launch.work, panel_stride(launch.work));
      }
      open(launch, me);
    }
    __device__ __forceinline__ void fetch(const PanelLaunch& launch, const Me& me, std::byte* stage) const {
      std::byte* to = stage + me.lane * 16;
      if (bytes_left >= kRowBytes) {
#pragma unroll
        for (int piece = 0; piece < 4; ++piece) copy_line_part(to + piece * 512, at[piece % 2] + piece / 2 * 64);
      } else {
#pragma unroll
        for (int piece = 0; piece < 4; ++piece) {
          const bool inside = piece / 2 * 64 + me.t * 16 < bytes_left;
          copy_or_zero(to + piece * 512, inside ? at[piece % 2] + piece / 2 * 64 : launch.args.weight.data, inside);
        }
      }
    }
    __device__ __forceinline__ void prefetch(const Me& me) const {
#pragma unroll
      for (int piece = 0; piece < 4; ++piece) {
        if (me.t % 2 == 0 && piece / 2 * 64 + me.t * 16 < bytes_left) prefetch_to_l2(at[piece % 2] + piece / 2 * 64);  // two lanes share a sector
      }
    }
  };

  /// The scale bytes of the 16 rows, one a lane: block by block of the part of K.
  static __device__ __forceinline__ std::uint32_t load_scales(const PanelLaunch& launch, const PanelPlace& place, int unit, const Me& me) {
    if (!kIsE4m3 || unit >= me.unit_end || me.lane >= place.blocks(launch.work)) return 127;
    return launch.args.weight_scale.row<const std::uint8_t>(place.row(launch.work, unit) / kQuantBlock)[place.begin(launch.work) + me.lane];
  }

  /// x of a panel, made by all threads: eight lanes own 128 elements of one token and go through the blocks of K.
  struct XMaker {
    static constexpr int kPairs = kThreads / kLanesPerBlock;  ///< of token and block at a time
    static constexpr int kTokenTurns = kTokens > kPairs ? kTokens / kPairs : 1, kBlockStep = kTokens > kPairs ? 1 : kPairs / kTokens;

    int lane_of_block, token, block;  ///< of turn 0
    int turns;
    Lane16 x, next, after;  ///< of turns whose x is on its way

    __device__ __forceinline__ XMaker() {
      const int pair = static_cast<int>(threadIdx.x) / kLanesPerBlock;
      lane_of_block = static_cast<int>(threadIdx.x) % kLanesPerBlock, token = pair % kTokens, block = pair / kTokens;
    }
    __device__ __forceinline__ int token_of(int turn) const { return token + turn % kTokenTurns * kPairs; }
    __device__ __forceinline__ int block_of(int turn) const { return block + turn / kTokenTurns * kBlockStep; }

    __device__ __forceinline__ void load(const PanelLaunch& launch, const PanelPlace& place, int turn, Lane16& to) const {
      const int in_panel = block_of(turn), of_all = place.token_tile * kTokens + token_of(turn);
      const int k = (place.begin(launch.work) + in_panel) * kBlockK + lane_of_block * kPerLane;
      const bool is_token = of_all < launch.args.x.shape[0] && in_panel < place.blocks(launch.work);
      to.load(launch.args.x, of_all * launch.args.x.strides[0] + place.group * launch.problem.in_dim, k, is_token ? launch.problem.in_dim : 0);
    }
    __device__ __forceinline__ void begin(const PanelLaunch& launch, const PanelPlace& place) {
      turns = (place.blocks(launch.work) + kBlockStep - 1) / kBlockStep * kTokenTurns;
      load(launch, place, 0, x);
      load(launch, place, 1, next);
    }
    /// All of the panel, in the order of the products' fragments. One loop and no copies of its body: instructions that run once have to be
    /// fetched too.
    __device__ __forceinline__ void finish(const PanelLaunch& launch, const PanelPlace& place, std::byte* x_buffer, float* scales) {
      const int blocks = place.blocks(launch.work);
      const bool quantises = launch.problem.activation_quant == ActivationQuant::e4m3_128;
      // Eight elements are one lane's part of a quarter of the block: two products' worth.
      const int quarter = kIsE4m3 ? lane_of_block / 4 * 2 : lane_of_block / 2, t = kIsE4m3 ? lane_of_block % 4 : lane_of_block % 2 * 2;
      constexpr int kOtherHalf = kIsE4m3 ? 32 : 1;  // uint4 from one half's place to the other's
#pragma unroll 1
      for (int turn = 0; turn < turns; ++turn) {
        load(launch, place, turn + 2, after);
        float scale = 0;
        if constexpr (kIsE4m3) {
          scale = quantises ? exp2_of(quantise_to_f16(x)) : scale_to_f16(x);
        } else if (quantises) {
          quantise_and_back(x);
        }
        const int in_panel = block_of(turn), of_tile = token_of(turn);
        if (in_panel < blocks) {
          if (kIsE4m3 && lane_of_block == 0) scales[in_panel * kTokens + of_tile] = scale;
          uint4* to = reinterpret_cast<uint4*>(x_buffer) + ((in_panel * kTokenTiles + of_tile / 8) * 4 + quarter) * 32 + of_tile % 8 * 4 + t;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const std::uint32_t* p = x.pairs + 4 * half;
            to[half * kOtherHalf] = kNaturalPairs ? make_uint4(p[0], p[1], p[2], p[3])
                                                  : make_uint4(__byte_perm(p[0], p[1], 0x7632), __byte_perm(p[0], p[1], 0x5410),
                                                               __byte_perm(p[2], p[3], 0x7632), __byte_perm(p[2], p[3], 0x5410));
          }
        }
        x = next, next = after;
      }
    }
  };

  /// A step: 16 rows x 128 bytes of K times the panel's tokens. `x` and `scales` are the block's, the former the lane's.
  static __device__ __forceinline__ void multiply(const Me& me, const std::byte* step, const uint4* x, const float* scales, std::uint32_t scale,
                                                  float (&sums)[kTokenTiles][4], std::uint32_t (&nans)[2]) {
    float dots[kTokenTiles][4] = {};
#pragma unroll
    for (int slab = 0; slab < 2; ++slab) {
      std::uint32_t raw[2][4];  // rows g and g + 8
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        const uint4 words = *reinterpret_cast<const uint4*>(step + (2 * slab + low) * 512 + me.lane * 16);
        raw[low][0] = words.x, raw[low][1] = words.y, raw[low][2] = words.z, raw[low][3] = words.w;
      }
      if constexpr (kLooksForNan) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
#pragma unroll
          for (const std::uint32_t word : raw[low]) look_for_nan(nans[low], word);
        }
      }
#pragma unroll
      for (int quarter = 0; quarter < kQuartersOfStep / 2; ++quarter) {
        std::uint32_t a[2][4];  // of two products
#pragma unroll
        for (int product = 0; product < 2; ++product) {
#pragma unroll
          for (int low = 0; low < 2; ++low) {
            if constexpr (kIsE4m3) {
              decode_f16(raw[low][2 * quarter + product], a[product][low], a[product][low + 2]);
            } else {
              a[product][low] = raw[low][2 * product], a[product][low + 2] = raw[low][2 * product + 1];
            }
          }
        }
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const uint4 b = x[(n * 4 + slab * (kQuartersOfStep / 2) + quarter) * 32];
          if constexpr (kIsE4m3) {
            mma_f16(dots[n], a[0], b.x, b.y);
            mma_f16(dots[n], a[1], b.z, b.w);
          } else {
            mma::bf16_16x8x16(dots[n], a[0], b.x, b.y);
            mma::bf16_16x8x16(dots[n], a[1], b.z, b.w);
          }
        }
      }
    }
    if constexpr (kIsE4m3) {
      const float weight_scale = shifted_scale(scale, kF16Shift);
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const float2 x_scale = *reinterpret_cast<const float2*>(scales + n * 8 + 2 * me.t);
        sums[n][0] = fmaf(dots[n][0] * weight_scale, x_scale.x, sums[n][0]);
        sums[n][1] = fmaf(dots[n][1] * weight_scale, x_scale.y, sums[n][1]);
        sums[n][2] = fmaf(dots[n][2] * weight_scale, x_scale.x, sums[n][2]);
        sums[n][3] = fmaf(dots[n][3] * weight_scale, x_scale.y, sums[n][3]);
      }
    } else {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] += dots[n][i];
      }
    }
  }

  /// A NaN among a row's codes makes the row's sums NaN.
  static __device__ __forceinline__ void mark_nans(float (&sums)[kTokenTiles][4], std::uint32_t (&nans)[2]) {
    if constexpr (kLooksForNan) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        std::uint32_t seen = nans[low];
        seen |= __shfl_xor_sync(kAllLanes, seen, 1);
        seen |= __shfl_xor_sync(kAllLanes, seen, 2);
        nans[low] = 0;
        if (!saw_nan(seen)) continue;
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) sums[n][2 * low] = sums[n][2 * low + 1] = __uint_as_float(0x7fc00000u);
      }
    }
  }

  /// Rows g and g + 8 of the lane, columns 2t and 2t + 1 of every eight tokens.
  static __device__ __forceinline__ void store(const PanelLaunch& launch, const PanelPlace& place, int unit, const Me& me,
                                               const float (&sums)[kTokenTiles][4]) {
    const int rows = place.rows(launch.work, unit), first = place.token_tile * kTokens + 2 * me.t;
    const int tokens_left = static_cast<int>(launch.args.x.shape[0]) - first;
    const std::int64_t stride = launch.args.out.strides[0], origin = first * stride + place.row(launch.work, unit) + me.g;
    const auto put = [&](auto* to) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (me.g + i / 2 * 8 >= rows || n * 8 + i % 2 >= tokens_left) continue;
          if constexpr (std::is_same_v<decltype(to), float*>) {
            to[(n * 8 + i % 2) * stride + i / 2 * 8] = sums[n][i];
          } else {
            to[(n * 8 + i % 2) * stride + i / 2 * 8] = __float2bfloat16_rn(sums[n][i]);
          }
        }
      }
    };
    if (launch.args.out.dtype == DType::f32) {
      put(static_cast<float*>(launch.args.out.data) + origin);
    } else {
      put(static_cast<__nv_bfloat16*>(launch.args.out.data) + origin);
    }
  }

  static __device__ __forceinline__ void add(float (&sum)[4], const float4& more) {
    sum[0] += more.x, sum[1] += more.y, sum[2] += more.z, sum[3] += more.w;
  }

  /// The end of 16 rows: the parts of K meet, and out.
  static __device__ __forceinline__ void finish(const PanelLaunch& launch, const PanelPlace& place, int unit, const Me& me,
                                                float (&sums)[kTokenTiles][4]) {
    const int splits = launch.work.splits;
    if (splits > 1) {
      const int tile = place.tile(launch.work, unit);
      float4* parts = launch.partials + std::int64_t{tile} * splits * (kTokenTiles * 32) + me.lane;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        __stcg(parts + (place.split * kTokenTiles + n) * 32, make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]));
      }
      if (!is_last_warp(launch.counters + tile, splits)) return;
      // Eight parts of two fragments are on the way at a time; the additions keep their order.
      constexpr int kParts = 8, kFragments = 2;
#pragma unroll
      for (int first = 0; first < kTokenTiles; first += kFragments) {
#pragma unroll
        for (int n = 0; n < kFragments; ++n) sums[first + n][0] = sums[first + n][1] = sums[first + n][2] = sums[first + n][3] = 0;
        for (int begin = 0; begin < splits; begin += kParts) {
          float4 more[kParts][kFragments] = {};
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
#pragma unroll
            for (int n = 0; n < kFragments; ++n) {
              if (begin + part < splits) more[part][n] = __ldcg(parts + ((begin + part) * kTokenTiles + first + n) * 32);
            }
          }
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
#pragma unroll
            for (int n = 0; n < kFragments; ++n) add(sums[first + n], more[part][n]);
          }
        }
      }
    }
    store(launch, place, unit, me, sums);
  }

  /// The sums of warps side by side along K, added by the first of them, in their order; all threads come.
  static __device__ __forceinline__ void gather_warps(const Me& me, std::byte* ring, float (&sums)[kTokenTiles][4]) {
    static_assert(kTokenTiles * 32 * 16 <= kStages * kStepBytes, "sums go where the warp's weights were");
    auto* own = reinterpret_cast<float4*>(ring) + me.lane;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) own[n * 32] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
    __syncthreads();
    if (me.step_begin != 0) return;
    for (int part = 1; part < me.step_stride; ++part) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) add(sums[n], own[part * (kStages * kStepBytes / 16) + n * 32]);
    }
  }

  static __device__ __forceinline__ void run(const PanelLaunch& launch) {
    extern __shared__ __align__(128) std::byte shared[];
    const Me me(launch.work);
    std::byte* const ring = shared + me.warp * (kStages * kStepBytes);
    std::byte* const x_buffer = shared + kRingBytes;
    float* const x_scales = reinterpret_cast<float*>(x_buffer + launch.panel_blocks * kXBlockBytes);
    int panel = static_cast<int>(blockIdx.x) / launch.work.blocks_per_panel;
    PanelPlace place = PanelPlace::at(launch.work, panel);
    Fetcher ahead;
    ahead.begin(launch, me, panel, place);
    if (launch.begins_early) {
      // The weights themselves may be what the launch before writes: until it has ended they are only called into L2.
      Fetcher early = ahead;
#pragma unroll 1
      for (int step = 0; step < kCalledEarly && early.steps_left > 0; ++step) {
        early.prefetch(me);
        early.advance(launch, me);
      }
    }
    let_next_launch_begin();
    wait_for_launch_before();

    {
      XMaker maker;
      maker.begin(launch, place);
#pragma unroll 1
      for (int stage = 0; stage < kStages - 1; ++stage) {
        if (ahead.steps_left > 0) {
          ahead.fetch(launch, me, ring + stage * kStepBytes);
          ahead.advance(launch, me);
        }
        copy::commit();
      }
      maker.finish(launch, place, x_buffer, x_scales);
    }
    __syncthreads();
    int stage = 0;
    while (true) {
      const int steps = me.steps(launch.work, place);
      float sums[kTokenTiles][4] = {};
      std::uint32_t nans[2] = {};
      std::uint32_t next_scales = load_scales(launch, place, me.unit_begin, me);
      for (int unit = me.unit_begin; unit < me.unit_end; unit += me.unit_stride) {
        const std::uint32_t lane_scales = next_scales;
        next_scales = load_scales(launch, place, unit + me.unit_stride, me);
        const uint4* fragments = reinterpret_cast<const uint4*>(x_buffer) + me.lane;
        for (int i = 0, step = me.step_begin; i < steps; ++i, step += me.step_stride) {
          if (ahead.steps_left > 0) {
            ahead.fetch(launch, me, ring + (stage + kStages - 1) % kStages * kStepBytes);
            ahead.advance(launch, me);
          }
          copy::commit();
          copy::wait<kStages - 1>();
          const int block = step / kStepsOfBlock;
          const std::uint32_t scale = __shfl_sync(kAllLanes, lane_scales, block);
          multiply(me, ring + stage * kStepBytes, fragments + block * kXBlockWords + step % kStepsOfBlock * (kQuartersOfStep * 32),
                   x_scales + block * kTokens, scale, sums, nans);
          stage = (stage + 1) % kStages;
        }
        mark_nans(sums, nans);
        if (me.step_stride > 1) break;  // warps side by side have one unit at most
        finish(launch, place, unit, me, sums);
#pragma unroll
        for (auto& row : sums) row[0] = row[1] = row[2] = row[3] = 0;
      }
      if (me.step_stride > 1) {
        gather_warps(me, ring, sums);
        if (me.step_begin == 0 && me.unit_begin < me.unit_end) finish(launch, place, me.unit_begin, me, sums);
      }
      panel += panel_stride(launch.work);
      if (panel >= launch.work.panels) break;
      place = place.after(launch.work, panel_stride(launch.work));
      XMaker maker;
      maker.begin(launch, place);
      __syncthreads();  // nobody reads the panel before any more
      maker.finish(launch, place, x_buffer, x_scales);
      __syncthreads();
    }
  }
};

template <bool kIsE4m3, int kWarps, int kTokenTiles>
__global__ void __launch_bounds__(32 * kWarps, 1) panel_kernel(const __grid_constant__ PanelLaunch launch) {
  Panel<kIsE4m3, kWarps, kTokenTiles>::run(launch);
}

}  // namespace fathom::linear_kernel
