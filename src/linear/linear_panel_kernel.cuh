// The panel kernel of linear: 9 to 64 tokens, so the weights are still what moves, and what is done beside must not
// hold them up.
//
// A block makes the x of one part of K ready once, in the order of the products' fragments, and keeps it while its
// warps go through rows of weights, each warp by itself: it copies 16 rows x 128 bytes a step into a ring that no other
// warp sees (every lane reads back what it copied, so there is no barrier), multiplies, and ends its 16 rows on its
// own. The tensor cores' product has the weights on its 16-row side and the tokens on its 8-column side; K may be
// numbered as one likes as long as both sides do the same, so a lane's 16 bytes are its operands of several products.
//
// E4M3 weights are f16 codes, and x is f16 with a power of two per token and 128 elements (its Q8 codes where it is
// quantised): both scales go to each sum over 128 elements (spec 0.5). bf16 weights and x are multiplied as they are.
// Where K has parts, the last warp of 16 rows adds all parts in order: the sum never depends on timing.
#pragma once

#include "device/last_arriver.cuh"
#include "linear/linear_panel_x.cuh"

#include <cuda_bf16.h>

#include <type_traits>

namespace fathom::linear_kernel {

template <bool kIsE4m3, int kWarps, int kRowTiles, int kTokenTiles>
struct Panel {
  static constexpr PanelTile kTile{kWarps, kRowTiles, kTokenTiles};
  static constexpr int kThreads = kTile.threads(), kTokens = kTile.tokens(), kBlockK = PanelTile::kBlockK;
  static constexpr int kStages = PanelTile::kStages, kStepBytes = kTile.step_bytes(), kRowBytes = 128;
  static constexpr int kRowTileBytes = 16 * kRowBytes;
  static constexpr int kRingBytes = kTile.ring_bytes(), kXBlockBytes = kTile.x_bytes(1);
  static constexpr int kElementBytes = kIsE4m3 ? 1 : 2;
  static constexpr int kStepsOfBlock = kElementBytes, kQuartersOfStep = 4 / kStepsOfBlock;
  using XMaker = PanelX<kIsE4m3, kWarps, kTokenTiles>;
  static constexpr int kXBlockWords = XMaker::kBlockWords;
  static constexpr int kCalledEarly = 32 / (kWarps * kRowTiles);  ///< steps of weights: 64 KB of a block
  static constexpr bool kLooksForNan = kIsE4m3 && !kConvertsE4m3;

  /// A thread's place, and the rows and steps of every panel that are its warp's.
  struct Me {
    int lane, warp, g, t;
    int unit_begin, unit_end, unit_stride;
    int step_begin, step_stride;  ///< of the panel's, 128 bytes of a row each
    __device__ explicit Me(const PanelWork& work)
        : lane(threadIdx.x % 32),
          warp(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0)),
          g(lane / 4),
          t(lane % 4) {
      const int block = static_cast<int>(blockIdx.x) % work.blocks_per_panel;
      step_stride = work.warps_per_unit, step_begin = warp % step_stride;
      unit_begin = work.unit_begin(block) + warp / step_stride, unit_end = work.unit_begin(block + 1),
      unit_stride = kWarps / step_stride;
    }
    /// How many steps of a panel are the warp's.
    __device__ __forceinline__ int steps(const PanelWork& work, const PanelPlace& place) const {
      return (place.blocks(work) * kStepsOfBlock - step_begin + step_stride - 1) / step_stride;
    }
  };
  static __device__ __forceinline__ int panel_stride(const PanelWork& work) {
    return static_cast<int>(gridDim.x) / work.blocks_per_panel;
  }

  /// Where the lane's weights are fetched: a few steps ahead of the products. Rows beyond the last are read as the last
  /// one, their sums go nowhere; elements beyond the last are zeros, because a product of zero and a NaN is one.
  struct Fetcher {
    PanelPlace place;
    int panel, unit;
    int steps_left;                     ///< of this unit; none: there is nothing more to fetch
    int bytes_left;                     ///< of the row, from the step's first on
    const std::byte* at;                ///< the lane's 16 bytes of the step's first half in the unit's first row
    std::uint32_t rows[2 * kRowTiles];  ///< bytes from there to rows g, g + 8 and so on

    __device__ __forceinline__ void open(const PanelLaunch& launch, const Me& me) {
      const PanelWork& work = launch.work;
      const int first = place.begin(work) * kBlockK * kElementBytes + me.step_begin * kRowBytes,
                last = place.rows(work, unit) - 1;
      const std::int64_t stride = launch.args.weight.strides[0] * kElementBytes;
      steps_left = me.steps(work, place);
      bytes_left = launch.problem.in_dim * kElementBytes - first;
      at = static_cast<const std::byte*>(launch.args.weight.data) + first + me.t * 16 + place.row(work, unit) * stride;
#pragma unroll
      for (int i = 0; i < 2 * kRowTiles; ++i)
        rows[i] = static_cast<std::uint32_t>(min(me.g + 8 * i, last)) * static_cast<std::uint32_t>(stride);
    }
    __device__ __forceinline__ void begin(const PanelLaunch& launch, const Me& me, int first_panel,
                                          const PanelPlace& first_place) {
      panel = first_panel, place = first_place, unit = me.unit_begin, steps_left = 0;
      if (unit < me.unit_end) open(launch, me);
    }
    __device__ __forceinline__ void advance(const PanelLaunch& launch, const Me& me) {
      if (--steps_left > 0) {
        const int bytes = me.step_stride * kRowBytes;
        at += bytes, bytes_left -= bytes;
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
    __device__ __forceinline__ void call(const Me& me) const {
#pragma unroll
      for (int i = 0; i < 4 * kRowTiles; ++i) {
        if (me.t % 2 == 0 && i % 2 * 64 + me.t * 16 < bytes_left)
          prefetch_to_l2(at + rows[i / 2] + i % 2 * 64);  // two lanes share a sector
      }
    }
    __device__ __forceinline__ void fetch(const PanelLaunch& launch, const Me& me, std::byte* stage) const {
      std::byte* to = stage + me.lane * 16;
      if (bytes_left >= kRowBytes) {
#pragma unroll
        for (int i = 0; i < 2 * kRowTiles; ++i) {
          const std::byte* from = at + rows[i];
          copy_line_part(to + i * 1024, from);
          copy_line_part(to + i * 1024 + 512, from + 64);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 2 * kRowTiles; ++i) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const bool inside = half * 64 + me.t * 16 < bytes_left;
            copy_or_zero(to + i * 1024 + half * 512, inside ? at + rows[i] + half * 64 : launch.args.weight.data,
                         inside);
          }
        }
      }
    }
  };

  /// The scale bytes of 16 rows each, block by block of the part of K: a lane has those of the blocks `lane` and `lane
  /// + 32`.
  static __device__ __forceinline__ void load_scales(const PanelLaunch& launch, const PanelPlace& place, int unit,
                                                     const Me& me, std::uint32_t (&bytes)[kRowTiles]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      bytes[m] = 0;
      if (!kIsE4m3 || unit >= me.unit_end || 16 * m >= place.rows(launch.work, unit)) continue;
      const int blocks = place.blocks(launch.work);
      const auto* row =
          launch.args.weight_scale.row<const std::uint8_t>((place.row(launch.work, unit) + 16 * m) / kQuantBlock) +
          place.begin(launch.work) + me.lane;
      const std::uint32_t low = me.lane < blocks ? row[0] : 0, high = me.lane + 32 < blocks ? row[32] : 0;
      bytes[m] = low | high << 8;
    }
  }

  /// A step: the unit's rows x 128 bytes of K times the panel's tokens. `x` and `scales` are the block's, the former
  /// the lane's.
  static __device__ __forceinline__ void multiply(const Me& me, const std::byte* step, const uint4* x,
                                                  const float* scales, const std::uint32_t (&row_scales)[kRowTiles],
                                                  float (&sums)[kRowTiles][kTokenTiles][4],
                                                  std::uint32_t (&nans)[kRowTiles][2]) {
    float dots[kRowTiles][kTokenTiles][4] = {};
#pragma unroll
    for (int slab = 0; slab < 2; ++slab) {
      std::uint32_t raw[kRowTiles][2][4];  // rows g and g + 8
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          const uint4 words =
              *reinterpret_cast<const uint4*>(step + m * kRowTileBytes + low * 1024 + slab * 512 + me.lane * 16);
          raw[m][low][0] = words.x, raw[m][low][1] = words.y, raw[m][low][2] = words.z, raw[m][low][3] = words.w;
          if constexpr (kLooksForNan) {
#pragma unroll
            for (int i = 0; i < 4; ++i) look_for_nan(nans[m][low], raw[m][low][i]);
          }
        }
      }
#pragma unroll
      for (int quarter = 0; quarter < kQuartersOfStep / 2; ++quarter) {
        std::uint32_t a[kRowTiles][2][4];  // of two products
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int product = 0; product < 2; ++product) {
#pragma unroll
            for (int low = 0; low < 2; ++low) {
              if constexpr (kIsE4m3) {
                decode_f16(raw[m][low][2 * quarter + product], a[m][product][low], a[m][product][low + 2]);
              } else {
                a[m][product][low] = raw[m][low][2 * product], a[m][product][low + 2] = raw[m][low][2 * product + 1];
              }
            }
          }
        }
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const uint4 b = x[(n * 4 + slab * (kQuartersOfStep / 2) + quarter) * 32];
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            if constexpr (kIsE4m3) {
              mma::f16_16x8x16_free(dots[m][n], a[m][0], b.x, b.y);
              mma::f16_16x8x16_free(dots[m][n], a[m][1], b.z, b.w);
            } else {
              mma::bf16_16x8x16(dots[m][n], a[m][0], b.x, b.y);
              mma::bf16_16x8x16(dots[m][n], a[m][1], b.z, b.w);
            }
          }
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      float2 x_scale;
      if constexpr (kIsE4m3) x_scale = *reinterpret_cast<const float2*>(scales + n * 8 + 2 * me.t);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        float(&sum)[4] = sums[m][n];
        const float(&dot)[4] = dots[m][n];
        if constexpr (kIsE4m3) {
          const float row_scale = shifted_scale(row_scales[m], kF16Shift);
          sum[0] = fmaf(dot[0] * row_scale, x_scale.x, sum[0]);
          sum[1] = fmaf(dot[1] * row_scale, x_scale.y, sum[1]);
          sum[2] = fmaf(dot[2] * row_scale, x_scale.x, sum[2]);
          sum[3] = fmaf(dot[3] * row_scale, x_scale.y, sum[3]);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i] += dot[i];
        }
      }
    }
  }

  /// A NaN among a row's codes makes the row's sums NaN.
  static __device__ __forceinline__ void mark_nans(float (&sums)[kRowTiles][kTokenTiles][4],
                                                   std::uint32_t (&nans)[kRowTiles][2]) {
    if constexpr (kLooksForNan) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          std::uint32_t seen = nans[m][low];
          seen |= __shfl_xor_sync(kAllLanes, seen, 1);
          seen |= __shfl_xor_sync(kAllLanes, seen, 2);
          nans[m][low] = 0;
          if (!saw_nan(seen)) continue;
#pragma unroll
          for (int n = 0; n < kTokenTiles; ++n)
            sums[m][n][2 * low] = sums[m][n][2 * low + 1] = __uint_as_float(0x7fc00000u);
        }
      }
    }
  }

  /// Rows g, g + 8 and so on of the lane, columns 2t and 2t + 1 of every eight tokens.
  static __device__ __forceinline__ void store(const PanelLaunch& launch, const PanelPlace& place, int unit,
                                               const Me& me, const float (&sums)[kRowTiles][kTokenTiles][4]) {
    const int rows = place.rows(launch.work, unit), first = place.token_tile * kTokens + 2 * me.t;
    const int tokens_left = static_cast<int>(launch.args.x.shape[0]) - first;
    const std::int64_t stride = launch.args.out.strides[0],
                       origin = first * stride + place.row(launch.work, unit) + me.g;
    const auto put = [&](auto* to) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          if (n * 8 + column >= tokens_left) continue;
          auto* at = to + (n * 8 + column) * stride;
#pragma unroll
          for (int i = 0; i < 2 * kRowTiles; ++i) {
            if (me.g + i * 8 >= rows) continue;
            const float value = sums[i / 2][n][i % 2 * 2 + column];
            if constexpr (std::is_same_v<decltype(to), float*>) {
              at[i * 8] = value;
            } else {
              at[i * 8] = __float2bfloat16_rn(value);
            }
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

  /// The end of a unit: the parts of K meet, and out.
  static __device__ __forceinline__ void finish(const PanelLaunch& launch, const PanelPlace& place, int unit,
                                                const Me& me, float (&sums)[kRowTiles][kTokenTiles][4]) {
    const int splits = launch.work.splits;
    if (splits > 1) {
      constexpr int kFragments = kRowTiles * kTokenTiles;
      const int tile = place.tile(launch.work, unit);
      float4* parts = launch.partials + std::int64_t{tile} * splits * (kFragments * 32) + me.lane;
      float(&all)[kFragments][4] = reinterpret_cast<float(&)[kFragments][4]>(sums);
#pragma unroll
      for (int f = 0; f < kFragments; ++f)
        __stcg(parts + (place.split * kFragments + f) * 32, make_float4(all[f][0], all[f][1], all[f][2], all[f][3]));
      if (!is_last_warp(launch.counters + tile, splits)) return;
      // Eight parts of two fragments are on the way at a time; the additions keep their order.
      constexpr int kParts = 8, kTogether = kFragments < 2 ? 1 : 2;
#pragma unroll
      for (int first = 0; first < kFragments; first += kTogether) {
#pragma unroll
        for (int f = 0; f < kTogether; ++f)
          all[first + f][0] = all[first + f][1] = all[first + f][2] = all[first + f][3] = 0;
        for (int begin = 0; begin < splits; begin += kParts) {
          float4 more[kParts][kTogether] = {};
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
#pragma unroll
            for (int f = 0; f < kTogether; ++f) {
              if (begin + part < splits) more[part][f] = __ldcg(parts + ((begin + part) * kFragments + first + f) * 32);
            }
          }
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
#pragma unroll
            for (int f = 0; f < kTogether; ++f) add(all[first + f], more[part][f]);
          }
        }
      }
    }
    store(launch, place, unit, me, sums);
  }

  /// The sums of warps side by side along K, added by the first of them, in their order; all threads come.
  static __device__ __forceinline__ void gather_warps(const Me& me, std::byte* ring,
                                                      float (&sums)[kRowTiles][kTokenTiles][4]) {
    constexpr int kFragments = kRowTiles * kTokenTiles;
    static_assert(kFragments * 32 * 16 <= kStages * kStepBytes, "sums go where the warp's weights were");
    auto* own = reinterpret_cast<float4*>(ring) + me.lane;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      const float* sum = sums[f / kTokenTiles][f % kTokenTiles];
      own[f * 32] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
    __syncthreads();
    if (me.step_begin != 0) return;
    for (int part = 1; part < me.step_stride; ++part) {
#pragma unroll
      for (int f = 0; f < kFragments; ++f)
        add(sums[f / kTokenTiles][f % kTokenTiles], own[part * (kStages * kStepBytes / 16) + f * 32]);
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
      // The weights themselves may be what the launch before writes: until it has ended they are only called into L2,
      // and few of them, because calling takes its time too.
      Fetcher early = ahead;
#pragma unroll 1
      for (int step = 0; step < kCalledEarly && early.steps_left > 0; ++step) {
        early.call(me);
        early.advance(launch, me);
      }
    }
    let_next_launch_begin();
    wait_for_launch_before();

    int stage = 0;
    for (bool is_first = true;; is_first = false) {
      XMaker maker(launch, place, x_buffer, x_scales);
      maker.load(launch, 0);
      if (is_first) {
#pragma unroll 1
        for (int fetched = 0; fetched < kStages - 1; ++fetched) {
          if (ahead.steps_left > 0) {
            ahead.fetch(launch, me, ring + fetched * kStepBytes);
            ahead.advance(launch, me);
          }
          copy::commit();
        }
      }
      maker.finish(launch);
      __syncthreads();
      const int steps = me.steps(launch.work, place);
      float sums[kRowTiles][kTokenTiles][4] = {};
      std::uint32_t nans[kRowTiles][2] = {}, next_scales[kRowTiles];
      load_scales(launch, place, me.unit_begin, me, next_scales);
      for (int unit = me.unit_begin; unit < me.unit_end; unit += me.unit_stride) {
        std::uint32_t lane_scales[kRowTiles];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) lane_scales[m] = next_scales[m];
        load_scales(launch, place, unit + me.unit_stride, me, next_scales);
        const uint4* fragments = reinterpret_cast<const uint4*>(x_buffer) + me.lane;
        for (int i = 0, step = me.step_begin; i < steps; ++i, step += me.step_stride) {
          if (ahead.steps_left > 0) {
            ahead.fetch(launch, me, ring + (stage + kStages - 1) % kStages * kStepBytes);
            ahead.advance(launch, me);
          }
          copy::commit();
          copy::wait<kStages - 1>();
          const int block = step / kStepsOfBlock;
          std::uint32_t row_scales[kRowTiles];
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m)
            row_scales[m] = __shfl_sync(kAllLanes, lane_scales[m], block % 32) >> block / 32 * 8 & 0xffu;
          multiply(me, ring + stage * kStepBytes,
                   fragments + block * kXBlockWords + step % kStepsOfBlock * (kQuartersOfStep * 32),
                   x_scales + block * kTokens, row_scales, sums, nans);
          stage = (stage + 1) % kStages;
        }
        mark_nans(sums, nans);
        if (me.step_stride > 1) break;  // warps side by side have one unit at most
        finish(launch, place, unit, me, sums);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < kTokenTiles; ++n) sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0;
        }
      }
      if (me.step_stride > 1) {
        gather_warps(me, ring, sums);
        if (me.step_begin == 0 && me.unit_begin < me.unit_end) finish(launch, place, me.unit_begin, me, sums);
      }
      panel += panel_stride(launch.work);
      if (panel >= launch.work.panels) break;
      place = place.after(launch.work, panel_stride(launch.work));
      __syncthreads();  // nobody reads the panel before any more
    }
  }
};

template <bool kIsE4m3, int kWarps, int kRowTiles, int kTokenTiles>
__global__ void __launch_bounds__(32 * kWarps, 1) panel_kernel(const __grid_constant__ PanelLaunch launch) {
  Panel<kIsE4m3, kWarps, kRowTiles, kTokenTiles>::run(launch);
}

}  // namespace fathom::linear_kernel
