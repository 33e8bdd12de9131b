// attend on mma.sync, straight from pages of kv_e4m3_ue8m0 (584 bytes a row).
//
// A row has eight blocks of 64 elements: seven E4M3 blocks with a scale each, and the bf16 rotary block. A thread block has
// eight warps, and warp w owns block w: of the query, of the key and of the value, because key and value are the same
// bytes. Raw rows lie in shared memory as they lie in the cache; a warp turns its bytes straight into operands, once in
// the key's shape and once in the value's, and no dequantised tile is ever written. What crosses warps is the partial
// logits: every warp's part of q . k, summed in a fixed order by the threads that keep the softmax.
//
// Numbers. E4M3 codes become bf16 by moving bits, which reads them 2^120 too small (device/mma.cuh). The rest is powers of
// two, hence exact: q carries 2^60, a warp's partial logits are multiplied by the row's scale, the softmax scale by 2^60;
// a value's scale is multiplied into the probabilities, which then carry 2^-60 more, and the sums are multiplied by 2^60
// when they leave. The rotary block joins with q as it is and logits times 2^-60.
//
// A step of 32 rows is two phases between barriers: the softmax of tile i, then the logits of tile i + 1 and the weighted
// values of tile i, which need nothing of each other.
#pragma once

#include "attend/attend_kernel.cuh"
#include "attend/attend_policy.h"
#include "device/copy.cuh"
#include "device/mma.cuh"

namespace fathom::attend_sm80_kernel {

using namespace attend_rows;

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kRows = AttendSm80Policy::kTileRows;
constexpr int kRawStride = kRowBytes + 16;  ///< so that the rows of a fragment lie in different banks
constexpr int kStages = 3;
constexpr int kBlockDim = kDim / kWarps;
constexpr int kWeightStride = kRows + 8;
constexpr int kLoaders = kThreads / kRows;  ///< threads that copy one row
constexpr float kUp = 0x1p60f, kDown = 0x1p-60f;
constexpr std::uint32_t kUpBf16 = 0x5d80, kDownBf16 = 0x2180;  ///< the same as bf16

constexpr int kAddresses = 4;  ///< tiles whose addresses are kept: in hand, being read, being asked for, being looked up

template <int kHeads>
struct Shared {
  alignas(128) std::uint8_t raw[kStages][kRows * kRawStride];
  alignas(16) std::uint8_t scales[kStages][kRows * kScaleBytes];
  alignas(16) RowAddress rows[kAddresses][kRows];
  std::uint32_t present[kAddresses];  ///< a bit for each row
  alignas(16) float logits[kWarps][kHeads * kRows];  ///< columns swizzled by logit_at
  alignas(16) bf16 weights[kHeads * kWeightStride];
  float factor[kHeads], base[kHeads], most[kHeads], total[kHeads];
  std::int32_t rescale[2];  ///< of the tile in hand and the one before: whether any factor is not 1
  std::int32_t is_last;
};

/// Where column c of head h's partial logits lies: groups of eight columns rotate with the head, so that neither the
/// fragments' stores nor the softmax's loads meet in a bank.
__device__ __forceinline__ int logit_at(int h, int c) { return h * kRows + ((((c >> 3) ^ h) & 3) << 3) + (c & 7); }

/// Starts the copies of a tile's rows, kLoaders threads each. An absent row is zeros that weigh nothing.
template <int kChunk, int kHeads>
__device__ __forceinline__ void copy_tile(Shared<kHeads>& shared, int stage, int slot) {
  const int row = threadIdx.x / kLoaders, part = threadIdx.x % kLoaders;
  const RowAddress from = shared.rows[slot][row];
  std::uint8_t* to = shared.raw[stage] + row * kRawStride + part * kChunk;
  std::uint8_t* scales = shared.scales[stage] + row * kScaleBytes;
  if (from.row != nullptr) {
    const std::byte* at = from.row + part * kChunk;
#pragma unroll
    for (int c = 0; c < (kRowBytes / kChunk + kLoaders - 1) / kLoaders; ++c) {
      if (part + c * kLoaders < kRowBytes / kChunk) copy::async<kChunk>(to + c * kLoaders * kChunk, at + c * kLoaders * kChunk);
    }
    if (part == 0) copy::async<8>(scales, from.scales);
  } else {
    for (int c = part * kChunk; c < kRowBytes; c += kLoaders * kChunk, to += kLoaders * kChunk) {
#pragma unroll
      for (int b = 0; b < kChunk / 8; ++b) reinterpret_cast<uint2*>(to)[b] = uint2{0, 0};
    }
    if (part == 0) *reinterpret_cast<uint2*>(scales) = uint2{0, 0};
  }
}

/// 2^(code - 127) as a float, any code; two powers of two fit beside it in f32.
__device__ __forceinline__ float scale_of(std::uint32_t code) {
  return __uint_as_float(code == 0 ? 0x00400000u : code == 255 ? 0x7fc00000u : code << 23);
}
/// 2^(code - 127 + 60) as bf16; the largest finite power beyond 2^127.
__device__ __forceinline__ std::uint32_t weight_scale_of(std::uint32_t code) {
  return code == 255 ? 0x7fc0u : min(code + 60u, 254u) << 7;
}

/// The warp's block of the queries of kHeads heads as fragments; k step s takes four of a lane's 16 elements, in the
/// order in which the key's fragments come. `finish(h, x)` is what is done to elements of head h before.
template <int kHeads, class Finish>
__device__ __forceinline__ void load_queries(const Launch& launch, std::int64_t t, int first_head,
                                             std::uint32_t (&q)[kHeads / 16][4][4], const Finish& finish) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const TensorView& from = launch.args.q;
#pragma unroll
  for (int m = 0; m < kHeads / 16; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = first_head + m * 16 + g + half * 8;
      std::uint32_t x[8] = {};
      if (h < launch.problem.num_heads) {
        const auto* row = static_cast<const bf16*>(from.data) + t * from.strides[0] + h * from.strides[1] + warp * kBlockDim + quad * 16;
        *reinterpret_cast<uint4*>(x) = reinterpret_cast<const uint4*>(row)[0];
        *reinterpret_cast<uint4*>(x + 4) = reinterpret_cast<const uint4*>(row)[1];
        finish(m * 16 + g + half * 8, x);
      }
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        if (warp < 7) {
          constexpr std::uint32_t kUpTwice = kUpBf16 << 16 | kUpBf16;
          q[m][s][half] = mma::multiply_bf16x2(__byte_perm(x[2 * s], x[2 * s + 1], 0x7632), kUpTwice);
          q[m][s][half + 2] = mma::multiply_bf16x2(__byte_perm(x[2 * s], x[2 * s + 1], 0x5410), kUpTwice);
        } else {
          q[m][s][half] = x[2 * s];
          q[m][s][half + 2] = x[2 * s + 1];
        }
      }
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void load_queries(const Launch& launch, std::int64_t t, int first_head,
                                             std::uint32_t (&q)[kHeads / 16][4][4]) {
  load_queries<kHeads>(launch, t, first_head, q, [](int, const auto&) {});
}

/// The same of queries that are head-normed and rotated on the way. A warp reads whole heads for their factors; then
/// each reads its block of all heads again, from the nearest cache.
template <int kHeads>
__device__ __forceinline__ void load_raw_queries(const Launch& launch, Shared<kHeads>& shared, std::int64_t t,
                                                 int first_head, std::uint32_t (&q)[kHeads / 16][4][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane % 4;
  const Turn turn = turn_at(launch.args, t);
  for (int h = warp; h < min(kHeads, launch.problem.num_heads - first_head); h += kWarps) {
    const auto* row = launch.args.q.row<const bf16>(t, first_head + h) + column_of(0, lane);
    const uint4 words[2] = {*reinterpret_cast<const uint4*>(row), *reinterpret_cast<const uint4*>(row + kDim / 2)};
    const float squares = head_squares(words);
    if (lane == 0) shared.factor[h] = head_factor(squares, kDim, launch.problem.norm_eps, DType::bf16);
  }
  __syncthreads();
  load_queries<kHeads>(launch, t, first_head, q, [&](int h, std::uint32_t(&x)[8]) {
    const std::uint32_t factor = turn.is_padding ? 0u : factor_pair(shared.factor[h]);
#pragma unroll
    for (std::uint32_t& pair : x) pair = turn.is_padding ? 0u : mma::multiply_bf16x2(pair, factor);
    if (warp == kWarps - 1 && turn.rope != nullptr) rotate_pairs(x, turn.rope + quad * 8, kRotary / 2, 1.f);
  });
  __syncthreads();  // the softmax keeps factors of its own there
}

/// A NaN element makes its row's logits NaN, as arithmetic would. Bit j of `rows`: row 8 j + g of the tile has one among
/// the lane's elements. Rare, and kept out of the way of the common path.
template <int kHeads>
__device__ __noinline__ void mark_nan_rows(float* logits, std::uint32_t rows) {
  __syncwarp();
  for (int j = 0; j < kRows / 8; ++j) {
    if ((rows >> j & 1) == 0) continue;
    for (int h = 0; h < kHeads; ++h) logits[logit_at(h, 8 * j + threadIdx.x % 32 / 4)] = __uint_as_float(0x7fc00000u);
  }
  __syncwarp();
}

/// The warp's part of q . k for a tile, into shared memory. Groups of eight rows go in pairs, so that the tensor cores see
/// more than one chain of sums.
template <int kHeads, bool kRotary>
__device__ __forceinline__ void partial_logits(Shared<kHeads>& shared, int stage, const std::uint32_t (&q)[kHeads / 16][4][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, quad = lane % 4;
  const std::uint8_t* row = shared.raw[stage] + g * kRawStride + (kRotary ? 448 + quad * 32 : warp * kBlockDim + quad * 16);
  // Every lane has the scale of one row; a fragment's columns ask for theirs.
  const float scale = kRotary ? kDown : scale_of(shared.scales[stage][lane * kScaleBytes + warp]);
  float* out = shared.logits[warp] + g * kRows + 2 * quad;
  const int turn = (g & 3) << 3;  // as logit_at
  std::uint32_t nan_rows = 0;
#pragma unroll
  for (int pair = 0; pair < kRows / 16; ++pair) {
    std::uint32_t k[2][8];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const auto* from = reinterpret_cast<const uint4*>(row + (2 * pair + j) * 8 * kRawStride);
      const uint4 v = from[0];
      if constexpr (kRotary) {
        *reinterpret_cast<uint4*>(k[j]) = v;
        *reinterpret_cast<uint4*>(k[j] + 4) = from[1];
      } else {
        const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          k[j][2 * s] = mma::place_e4m3_odd(words[s]);
          k[j][2 * s + 1] = mma::place_e4m3_even(words[s]);
        }
        const std::uint32_t nan = mma::has_e4m3_nan(v.x) | mma::has_e4m3_nan(v.y) | mma::has_e4m3_nan(v.z) | mma::has_e4m3_nan(v.w);
        nan_rows |= (nan & 0x80808080u) != 0 ? 1u << (2 * pair + j) : 0u;
      }
    }
    float c[2][kHeads / 16][4] = {};
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int m = 0; m < kHeads / 16; ++m) mma::bf16_16x8x16(c[j][m], q[m][s], k[j][2 * s], k[j][2 * s + 1]);
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int column = 8 * (2 * pair + j);
      const float scale0 = kRotary ? kDown : __shfl_sync(kAllLanes, scale, column + 2 * quad);
      const float scale1 = kRotary ? kDown : __shfl_sync(kAllLanes, scale, column + 2 * quad + 1);
#pragma unroll
      for (int m = 0; m < kHeads / 16; ++m) {
        float* at = out + (turn ^ column) + m * 16 * kRows;
        *reinterpret_cast<float2*>(at) = float2{c[j][m][0] * scale0, c[j][m][1] * scale1};
        *reinterpret_cast<float2*>(at + 8 * kRows) = float2{c[j][m][2] * scale0, c[j][m][3] * scale1};
      }
    }
  }
  if (!kRotary && __any_sync(kAllLanes, nan_rows != 0)) mark_nan_rows<kHeads>(shared.logits[warp], nan_rows);
}

/// The state of one head's softmax, kept by eight threads alike (`total`: each its own share).
struct Softmax {
  float base = -kInfinity;  ///< what weights are relative to (base 2)
  float most = -kInfinity;  ///< largest logit
  float total = 0;
};

/// Sums the partial logits of a tile, turns them into weights relative to `state.most`. Eight threads a head. The base follows
/// the largest logit only once that has left it by kSlack: weights up to 2^kSlack do no harm, and sums are rarely rescaled.
template <int kHeads>
__device__ __forceinline__ void soften(Shared<kHeads>& shared, int slot, float scale_log2, Softmax& state, std::int32_t& rescale) {
  const int h = threadIdx.x / 8, c = threadIdx.x % 8 * 4;
  if (h >= kHeads) return;
  const float* from = shared.logits[0] + logit_at(h, c);
  float4 parts[kWarps];
#pragma unroll
  for (int w = 0; w < kWarps; ++w) parts[w] = *reinterpret_cast<const float4*>(from + w * kHeads * kRows);
  const std::uint32_t present = shared.present[slot] >> c;
  float x[4] = {parts[0].x, parts[0].y, parts[0].z, parts[0].w};
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    x[0] += parts[w].x;
    x[1] += parts[w].y;
    x[2] += parts[w].z;
    x[3] += parts[w].w;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = (present >> i & 1) != 0 ? x[i] * scale_log2 : -kInfinity;
  float now = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
#pragma unroll
  for (int d = 1; d < 8; d *= 2) now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, d));
  float factor = 1.f;
  if (now > state.base + kSlack) {  // the first logits leave -inf
    factor = exp2f(state.base - now);
    state.base = now;
  }
  state.most = fmaxf(state.most, now);
  const float base = state.base == -kInfinity ? 0.f : state.base;
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = exp2f(x[i] - base);
  state.total = state.total * factor + (x[0] + x[1] + x[2] + x[3]);
  *reinterpret_cast<uint2*>(shared.weights + h * kWeightStride + c) = uint2{mma::pack_bf16x2(x[0], x[1]), mma::pack_bf16x2(x[2], x[3])};
  if (c == 0) {
    shared.factor[h] = factor;
    if (factor != 1.f) rescale = 1;
  }
}

/// out += weights x values for the warp's 64 elements. Column n of product i is element 8 n + i, so that a lane ends up with 16
/// neighbours of its heads: 16 quad + i in c0 and c2, 16 quad + 8 + i in c1 and c3.
template <int kHeads, bool kRotary>
__device__ __forceinline__ void add_values(const Shared<kHeads>& shared, int stage, bool rescale, float (&out)[kHeads / 16][8][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, quad = lane % 4;
  if (rescale) {
#pragma unroll
    for (int m = 0; m < kHeads / 16; ++m) {
      const float f0 = shared.factor[m * 16 + g], f1 = shared.factor[m * 16 + g + 8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        out[m][i][0] *= f0;
        out[m][i][1] *= f0;
        out[m][i][2] *= f1;
        out[m][i][3] *= f1;
      }
    }
  }
  // Every lane has the scale of one row, and pairs it with the next row's; a fragment's rows ask for theirs.
  const std::uint32_t scale = kRotary ? kDownBf16 : weight_scale_of(shared.scales[stage][lane * kScaleBytes + warp]);
  const std::uint32_t pair = scale | __shfl_down_sync(kAllLanes, scale, 1) << 16;
  const std::uint8_t* row = shared.raw[stage] + 2 * quad * kRawStride + (kRotary ? 448 + g * 16 : warp * kBlockDim + g * 8);
#pragma unroll
  for (int kk = 0; kk < kRows / 16; ++kk) {
    std::uint32_t a[kHeads / 16][4], b[8][2];
#pragma unroll
    for (int m = 0; m < kHeads / 16; ++m) {
      mma::load_matrix_x4(a[m], shared.weights + (m * 16 + lane % 16) * kWeightStride + kk * 16 + lane / 16 * 8);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint8_t* first = row + (kk * 16 + half * 8) * kRawStride;
      const std::uint32_t scales = kRotary ? pair : __shfl_sync(kAllLanes, pair, kk * 16 + half * 8 + 2 * quad);
      if constexpr (kRotary) {
        const uint4 u = *reinterpret_cast<const uint4*>(first), v = *reinterpret_cast<const uint4*>(first + kRawStride);
        const std::uint32_t us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          b[2 * i][half] = __byte_perm(us[i], vs[i], 0x5410);
          b[2 * i + 1][half] = __byte_perm(us[i], vs[i], 0x7632);
        }
      } else {
        const uint2 u = *reinterpret_cast<const uint2*>(first), v = *reinterpret_cast<const uint2*>(first + kRawStride);
        // Bytes of elements 2i (lower) and 2i + 1 (upper) of both rows, a row in each half of the word.
        const std::uint32_t words[4] = {__byte_perm(u.x, v.x, 0x5410), __byte_perm(u.x, v.x, 0x7632), __byte_perm(u.y, v.y, 0x5410),
                                        __byte_perm(u.y, v.y, 0x7632)};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          b[2 * i][half] = mma::place_e4m3_even(words[i]);
          b[2 * i + 1][half] = mma::place_e4m3_odd(words[i]);
        }
      }
#pragma unroll
      for (int m = 0; m < kHeads / 16; ++m) {
        a[m][2 * half] = mma::multiply_bf16x2(a[m][2 * half], scales);
        a[m][2 * half + 1] = mma::multiply_bf16x2(a[m][2 * half + 1], scales);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int m = 0; m < kHeads / 16; ++m) mma::bf16_16x8x16(out[m][i], a[m], b[i][0], b[i][1]);
    }
  }
}

}  // namespace fathom::attend_sm80_kernel
