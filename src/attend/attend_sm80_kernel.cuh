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

#include "attend/attend_policy.h"
#include "attend/row_walk.h"
#include "device/copy.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"

namespace fathom::attend_sm80_kernel {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kRows = AttendSm80Policy::kTileRows;
constexpr int kRowBytes = 576, kScaleBytes = 8;
constexpr int kRawStride = kRowBytes + 16;  ///< so that the rows of a fragment lie in different banks
constexpr int kStages = 3;
constexpr int kDim = 512, kBlockDim = kDim / kWarps;
constexpr int kWeightStride = kRows + 8;
constexpr int kLoaders = kThreads / kRows;  ///< threads that copy one row
constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.693147180559945f;
constexpr float kUp = 0x1p60f, kDown = 0x1p-60f;

template <int kHeads>
struct Shared {
  alignas(128) std::uint8_t raw[kStages][kRows * kRawStride];
  alignas(16) std::uint8_t scales[kStages][kRows * kScaleBytes];
  alignas(16) std::int32_t present[kStages][kRows];
  alignas(16) float logits[kWarps][kHeads * kRows];  ///< columns swizzled by logit_at
  alignas(16) bf16 weights[kHeads * kWeightStride];
  float factor[kHeads], most[kHeads], total[kHeads];
  std::int32_t rescale[2];  ///< of the tile in hand and the one before: whether any factor is not 1
  std::int32_t is_last;
};

/// Where column c of head h's partial logits lies: groups of eight columns rotate with the head, so that neither the
/// fragments' stores nor the softmax's loads meet in a bank.
__device__ __forceinline__ int logit_at(int h, int c) { return h * kRows + ((((c >> 3) ^ h) & 3) << 3) + (c & 7); }

/// What a launch needs beside the op's own arguments.
struct Launch {
  AttendProblem problem;
  AttendArgs args;
  PagedCacheView caches[2];
  int splits;
  bool q_is_aligned, out_is_aligned;  ///< to 16 bytes, rows and base
  float* sums;     ///< [units, splits, heads, kDim]: unnormalised, times 2^-60
  float* states;   ///< [units, splits, 2, heads]: largest logit (base 2), total weight
  int* counters;   ///< [units]
};

/// The rows of one query, window first. Looking a row up is split in two, so that the load of its index or page number is
/// under way a tile ahead of its use: `look_up` loads the number, `copy_row` turns it into an address.
struct Rows {
  const std::int32_t* numbers[2];  ///< list: the query's indices; range: the sequence's page numbers
  int first[2], count[2];

  __device__ Rows(const Launch& launch, std::int64_t t) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const RowWalk walk(s == 0 ? window_set(launch.problem) : entries_set(launch.problem), s == 0 ? launch.args.window : launch.args.entries,
                         launch.args.seq_ids, launch.caches[s], t);
      numbers[s] = walk.numbers();
      first[s] = static_cast<int>(walk.first());
      count[s] = static_cast<int>(walk.count());
    }
  }
  __device__ int all() const { return count[0] + count[1]; }
};

struct Location {
  std::int32_t number;  ///< slot or page; negative = absent
  int set, row;         ///< row: within its set
};

__device__ __forceinline__ Location look_up(const Launch& launch, const Rows& rows, int i) {
  Location at;
  at.set = i >= rows.count[0];
  at.row = at.set ? i - rows.count[0] : i;
  at.number = -1;
  if (i >= rows.all()) return at;
  const bool list = (at.set ? launch.problem.entries_rows : launch.problem.window_rows) == RowsBy::list;
  const std::int32_t* numbers = at.set ? rows.numbers[1] : rows.numbers[0];
  if (!list) {
    at.row += at.set ? rows.first[1] : rows.first[0];
    at.number = __ldg(numbers + static_cast<std::uint32_t>(at.row) / static_cast<std::uint32_t>(launch.caches[at.set].page_size));
  } else {
    at.number = __ldg(numbers + at.row);
  }
  return at;
}

/// Starts the copies of one row by its kLoaders threads. An absent row is zeros that weigh nothing.
template <int kChunk, int kHeads>
__device__ __forceinline__ void copy_row(const Launch& launch, Shared<kHeads>& shared, int stage, const Location& at) {
  const int row = threadIdx.x / kLoaders, part = threadIdx.x % kLoaders;
  std::uint8_t* to = shared.raw[stage] + row * kRawStride;
  std::uint8_t* scales = shared.scales[stage] + row * kScaleBytes;
  const PagedCacheView& cache = launch.caches[at.set];
  const bool list = (at.set ? launch.problem.entries_rows : launch.problem.window_rows) == RowsBy::list;
  const auto page_size = static_cast<std::uint32_t>(cache.page_size), number = static_cast<std::uint32_t>(at.number);
  const std::uint32_t page = list ? number / page_size : number;
  const std::uint32_t offset = list ? number % page_size : static_cast<std::uint32_t>(at.row) % page_size;
  const bool present = at.number >= 0 && page < cache.num_pages;
  if (present) {
    const std::byte* pages = cache.pages + page * cache.page_stride;
    const std::byte* from = pages + std::int64_t{offset} * kRowBytes;
#pragma unroll
    for (int c = 0; c < (kRowBytes / kChunk + kLoaders - 1) / kLoaders; ++c) {
      const int chunk = part + c * kLoaders;
      if (chunk < kRowBytes / kChunk) copy::async<kChunk>(to + chunk * kChunk, from + chunk * kChunk);
    }
    if (part == 0) copy::async<8>(scales, pages + cache.page_size * kRowBytes + offset * kScaleBytes);
  } else {
    for (int c = part; c < kRowBytes / 16; c += kLoaders) *reinterpret_cast<uint4*>(to + c * 16) = uint4{0, 0, 0, 0};
    if (part == 0) *reinterpret_cast<uint2*>(scales) = uint2{0, 0};
  }
  if (part == 0) shared.present[stage][row] = present;
}

/// 2^(code - 127) as a float, any code; two powers of two fit beside it in f32.
__device__ __forceinline__ float scale_of(std::uint32_t code) {
  return __uint_as_float(code == 0 ? 0x00400000u : code == 255 ? 0x7fc00000u : code << 23);
}
/// 2^(code - 127 + 60) as bf16; the largest finite power beyond 2^127.
__device__ __forceinline__ std::uint32_t weight_scale_of(std::uint32_t code) {
  return code == 255 ? 0x7fc0u : min(code + 60u, 254u) << 7;
}

/// The warp's block of the queries of kHeads heads as fragments; k step s takes four of a lane's 16 elements, in the order
/// in which the key's fragments come.
template <int kHeads>
__device__ __forceinline__ void load_queries(const Launch& launch, std::int64_t t, int first_head, std::uint32_t (&q)[kHeads / 16][4][4]) {
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
        if (launch.q_is_aligned) {
          *reinterpret_cast<uint4*>(x) = reinterpret_cast<const uint4*>(row)[0];
          *reinterpret_cast<uint4*>(x + 4) = reinterpret_cast<const uint4*>(row)[1];
        } else {
          for (int c = 0; c < 8; ++c) x[c] = row[2 * c].bits | std::uint32_t{row[2 * c + 1].bits} << 16;
        }
      }
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        if (warp < 7) {
          constexpr std::uint32_t kUpTwice = 0x5d805d80u;  // bf16 2^60
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

/// The warp's part of q . k for a tile, into shared memory.
template <int kHeads>
__device__ __forceinline__ void partial_logits(Shared<kHeads>& shared, int stage, const std::uint32_t (&q)[kHeads / 16][4][4]) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  const std::uint8_t* raw = shared.raw[stage];
  float* out = shared.logits[warp];
#pragma unroll
  for (int j = 0; j < kRows / 8; ++j) {
    std::uint32_t k[8];
    std::uint32_t nan = 0;
    const std::uint8_t* row = raw + (8 * j + g) * kRawStride;
    float scale0 = kDown, scale1 = kDown;
    if (warp < 7) {
      const uint4 v = *reinterpret_cast<const uint4*>(row + warp * kBlockDim + quad * 16);
      const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        k[2 * s] = mma::place_e4m3_odd(words[s]);
        k[2 * s + 1] = mma::place_e4m3_even(words[s]);
        nan |= mma::has_e4m3_nan(words[s]);
      }
      scale0 = scale_of(shared.scales[stage][(8 * j + 2 * quad) * kScaleBytes + warp]);
      scale1 = scale_of(shared.scales[stage][(8 * j + 2 * quad + 1) * kScaleBytes + warp]);
    } else {
      const auto* from = reinterpret_cast<const uint4*>(row + 448 + quad * 32);
      *reinterpret_cast<uint4*>(k) = from[0];
      *reinterpret_cast<uint4*>(k + 4) = from[1];
    }
#pragma unroll
    for (int m = 0; m < kHeads / 16; ++m) {
      float c[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int s = 0; s < 4; ++s) mma::bf16_16x8x16(c, q[m][s], k[2 * s], k[2 * s + 1]);
      *reinterpret_cast<float2*>(out + logit_at(m * 16 + g, 8 * j + 2 * quad)) = float2{c[0] * scale0, c[1] * scale1};
      *reinterpret_cast<float2*>(out + logit_at(m * 16 + g + 8, 8 * j + 2 * quad)) = float2{c[2] * scale0, c[3] * scale1};
    }
    if (__any_sync(kAllLanes, nan != 0)) {  // a NaN element makes the row's logits NaN, as arithmetic would
      __syncwarp();
      if (nan != 0) {
        for (int h = 0; h < kHeads; ++h) out[logit_at(h, 8 * j + g)] = __uint_as_float(0x7fc00000u);
      }
      __syncwarp();
    }
  }
}

/// The state of one head's softmax, kept by eight threads alike (`total`: each its own share).
struct Softmax {
  float most = -kInfinity, total = 0;
};

/// Sums the partial logits of a tile, turns them into weights relative to the largest so far. Eight threads a head.
template <int kHeads>
__device__ __forceinline__ void soften(Shared<kHeads>& shared, int stage, float scale_log2, Softmax& state, std::int32_t& rescale) {
  const int h = threadIdx.x / 8, c = threadIdx.x % 8 * 4;
  if (h >= kHeads) return;
  float4 x = *reinterpret_cast<const float4*>(shared.logits[0] + logit_at(h, c));
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    const float4 y = *reinterpret_cast<const float4*>(shared.logits[w] + logit_at(h, c));
    x.x += y.x;
    x.y += y.y;
    x.z += y.z;
    x.w += y.w;
  }
  const int4 present = *reinterpret_cast<const int4*>(shared.present[stage] + c);
  x.x = present.x ? x.x * scale_log2 : -kInfinity;
  x.y = present.y ? x.y * scale_log2 : -kInfinity;
  x.z = present.z ? x.z * scale_log2 : -kInfinity;
  x.w = present.w ? x.w * scale_log2 : -kInfinity;
  float now = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
#pragma unroll
  for (int d = 1; d < 8; d *= 2) now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, d));
  now = fmaxf(now, state.most);
  const float base = now == -kInfinity ? 0.f : now;
  const float factor = exp2f(state.most - base);
  x.x = exp2f(x.x - base);
  x.y = exp2f(x.y - base);
  x.z = exp2f(x.z - base);
  x.w = exp2f(x.w - base);
  state.total = state.total * factor + (x.x + x.y + x.z + x.w);
  state.most = now;
  *reinterpret_cast<uint2*>(shared.weights + h * kWeightStride + c) = uint2{mma::pack_bf16x2(x.x, x.y), mma::pack_bf16x2(x.z, x.w)};
  if (c == 0) {
    shared.factor[h] = factor;
    if (factor != 1.f) rescale = 1;
  }
}

/// out += weights x values for the warp's 64 elements. Column n of product i is element 8 n + i, so that a lane ends up with 16
/// neighbours of its heads: 16 quad + i in c0 and c2, 16 quad + 8 + i in c1 and c3.
template <int kHeads>
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
#pragma unroll
  for (int kk = 0; kk < kRows / 16; ++kk) {
    std::uint32_t a[kHeads / 16][4];
#pragma unroll
    for (int m = 0; m < kHeads / 16; ++m) {
      mma::load_matrix_x4(a[m], shared.weights + (m * 16 + lane % 16) * kWeightStride + kk * 16 + lane / 16 * 8);
    }
    std::uint32_t b[8][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = kk * 16 + half * 8 + 2 * quad;
      const std::uint8_t* first = shared.raw[stage] + row * kRawStride;
      const std::uint8_t* second = first + kRawStride;
      std::uint32_t scales = 0x21802180u;  // bf16 2^-60 twice
      if (warp < 7) {
        const uint2 u = *reinterpret_cast<const uint2*>(first + warp * kBlockDim + g * 8);
        const uint2 v = *reinterpret_cast<const uint2*>(second + warp * kBlockDim + g * 8);
        // Bytes of elements 2i (lower) and 2i + 1 (upper) of both rows, a row in each half of the word.
        const std::uint32_t words[4] = {__byte_perm(u.x, v.x, 0x5410), __byte_perm(u.x, v.x, 0x7632), __byte_perm(u.y, v.y, 0x5410),
                                        __byte_perm(u.y, v.y, 0x7632)};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          b[2 * i][half] = mma::place_e4m3_even(words[i]);
          b[2 * i + 1][half] = mma::place_e4m3_odd(words[i]);
        }
        const std::uint8_t* codes = shared.scales[stage] + row * kScaleBytes + warp;
        scales = weight_scale_of(codes[0]) | weight_scale_of(codes[kScaleBytes]) << 16;
      } else {
        const uint4 u = *reinterpret_cast<const uint4*>(first + 448 + g * 16);
        const uint4 v = *reinterpret_cast<const uint4*>(second + 448 + g * 16);
        const std::uint32_t us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          b[2 * i][half] = __byte_perm(us[i], vs[i], 0x5410);
          b[2 * i + 1][half] = __byte_perm(us[i], vs[i], 0x7632);
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
