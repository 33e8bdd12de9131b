// linear for many tokens on tensor cores: 128 or 256 rows x 128 tokens a block, 64 elements of K a step, three steps on the
// way in shared memory. Weights stay as they are stored until a warp turns its bytes into bf16 operands, tile scale included
// (both are exact); x is bf16, quantised and back by a launch before where the problem asks for it. Eight warps: of 32 rows
// x 128 tokens with E4M3 weights, of 32 x 64 with bf16 ones.
//
// As in the skinny kernel a lane's 16 elements of K are neighbours: K is numbered alike on both sides of the product.
#include "device/early_launch.cuh"
#include "linear/linear_kernel.cuh"
#include "linear/linear_policy.h"
#include "linear/linear_tiled.h"

namespace fathom {
namespace {

using namespace linear_kernel;

constexpr int kThreads = 256;
constexpr int kTokens = TiledTile::kTokens, kStepK = TiledTile::kStepK, kStages = TiledTile::kStages;
constexpr int kWarpRows = 32, kRowTiles = kWarpRows / 16;

struct TiledLaunch {
  LinearProblem problem;
  TensorView x;  ///< bf16, as the product sees it
  TensorView weight, weight_scale, out;
  std::int32_t row_tiles_per_group, token_tiles;
  bool stores_words;  ///< out may be written 16 bytes at a time
};

/// Where the 16 bytes `chunk` of a row of 128 bytes lie: permuted so that neighbouring rows' equal chunks differ in banks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

template <bool kIsE4m3>
struct Tiled {
  static constexpr TiledTile kTile{kIsE4m3 ? DType::e4m3 : DType::bf16};
  static constexpr int kElementBytes = kIsE4m3 ? 1 : 2, kRows = kTile.rows();
  static constexpr int kRowWarps = kRows / kWarpRows, kTokenWarps = 8 / kRowWarps, kWarpTokens = kTokens / kTokenWarps, kTokenTiles = kWarpTokens / 8;
  static constexpr int kWeightBytes = kRows * kStepK * kElementBytes, kStageBytes = kWeightBytes + kTokens * kStepK * 2;
  static_assert(kStageBytes == kTile.stage_bytes());

  int row_in_group, rows, token, tokens;
  std::int64_t row;  ///< through all groups
  std::int64_t x_column;

  __device__ Tiled(const TiledLaunch& launch) {
    // Neighbouring blocks take the same weights and different tokens.
    const int token_tile = blockIdx.x % launch.token_tiles, row_tile = blockIdx.x / launch.token_tiles;
    const int group = row_tile / launch.row_tiles_per_group;
    row_in_group = row_tile % launch.row_tiles_per_group * kRows;
    rows = min(kRows, launch.problem.out_dim - row_in_group);
    row = std::int64_t{group} * launch.problem.out_dim + row_in_group;
    token = token_tile * kTokens;
    tokens = static_cast<int>(min(std::int64_t{kTokens}, launch.x.shape[0] - token));
    x_column = std::int64_t{group} * launch.problem.in_dim;
  }

  __device__ __forceinline__ void fetch(const TiledLaunch& launch, int k, std::byte* stage) const {
    constexpr int kWeightChunks = kStepK * kElementBytes / 16, kWeightElements = 16 / kElementBytes;
    const auto* weight = static_cast<const std::byte*>(launch.weight.data);
#pragma unroll
    for (int i = 0; i < kRows * kWeightChunks / kThreads; ++i) {
      const int at = threadIdx.x + i * kThreads, r = at / kWeightChunks, chunk = at % kWeightChunks;
      const int column = k + chunk * kWeightElements;
      const bool inside = r < rows && column < launch.problem.in_dim;
      const std::int64_t from = ((row + min(r, rows - 1)) * launch.weight.strides[0] + (inside ? column : 0)) * kElementBytes;
      // A row of 64 bytes needs no swizzle: two of them are one line of the banks.
      copy_or_zero(stage + (kIsE4m3 ? r * 64 + chunk * 16 : swizzled(r, chunk)), weight + from, inside);
    }
    std::byte* x_stage = stage + kWeightBytes;
#pragma unroll
    for (int i = 0; i < kTokens * 8 / kThreads; ++i) {
      const int at = threadIdx.x + i * kThreads, r = at / 8, chunk = at % 8, column = k + chunk * 8;
      const bool inside = r < tokens && column < launch.problem.in_dim;
      const std::int64_t from = std::int64_t{token + min(r, tokens - 1)} * launch.x.strides[0] + x_column + (inside ? column : 0);
      copy_or_zero(x_stage + swizzled(r, chunk), static_cast<const bf16*>(launch.x.data) + from, inside);
    }
  }

  /// Scale byte of the warp's 16-row tile m at K element k.
  __device__ __forceinline__ std::uint32_t scale_byte(const TiledLaunch& launch, int first, int k) const {
    if (!kIsE4m3 || first >= rows) return 127;
    return launch.weight_scale.row<const std::uint8_t>((row + first) / kQuantBlock)[k / kQuantBlock];
  }

  /// Four codes as two pairs of bf16 in order, times 2^-120.
  static __device__ __forceinline__ void place(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
    const std::uint32_t low = __byte_perm(word, 0, 0x1404), high = __byte_perm(word, 0, 0x3424);
    first = (low & 0x80008000u) | ((low >> 4) & 0x07f007f0u);
    second = (high & 0x80008000u) | ((high >> 4) & 0x07f007f0u);
  }
  static __device__ __forceinline__ std::uint32_t both(std::uint32_t half) { return half | half << 16; }

  __device__ __forceinline__ void multiply(const std::byte* stage, const std::uint32_t (&scales)[kRowTiles], float (&sums)[kRowTiles][kTokenTiles][4],
                                           std::uint32_t (&nans)[kRowTiles][2]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int first_row = warp % kRowWarps * kWarpRows, first_token = warp / kRowWarps * kWarpTokens;
    const std::byte* x_stage = stage + kWeightBytes;
    // The codes are 2^-120 of their values; 2^120 and the tile's scale are one factor, or two where that is beyond bf16.
    std::uint32_t factors[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const std::uint32_t byte = min(scales[m], 134u);
      factors[m] = both(scales[m] == kUe8m0Nan ? 0x7fc0u : (byte + 120u) << 7);
    }
#pragma unroll
    for (int half_step = 0; half_step < 2; ++half_step) {
      std::uint32_t a[kRowTiles][2][4];  // two products
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int r = first_row + m * 16 + g + 8 * half;
          if constexpr (kIsE4m3) {
            const uint2 words = *reinterpret_cast<const uint2*>(stage + r * 64 + t * 16 + half_step * 8);
            look_for_nan(nans[m][half], words.x);
            look_for_nan(nans[m][half], words.y);
            std::uint32_t pairs[4];
            place(words.x, pairs[0], pairs[1]);
            place(words.y, pairs[2], pairs[3]);
#pragma unroll
            for (std::uint32_t& pair : pairs) pair = mma::multiply_bf16x2(pair, factors[m]);
            if (scales[m] > 134) {
              const std::uint32_t rest = both(min(127u + scales[m] - 134u, 254u) << 7);
#pragma unroll
              for (std::uint32_t& pair : pairs) pair = mma::multiply_bf16x2(pair, rest);
            }
            a[m][0][half] = pairs[0], a[m][0][half + 2] = pairs[1], a[m][1][half] = pairs[2], a[m][1][half + 2] = pairs[3];
          } else {
            const uint4 words = *reinterpret_cast<const uint4*>(stage + swizzled(r, 2 * t + half_step));
            a[m][0][half] = words.x, a[m][0][half + 2] = words.y, a[m][1][half] = words.z, a[m][1][half + 2] = words.w;
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const uint4 b = *reinterpret_cast<const uint4*>(x_stage + swizzled(first_token + n * 8 + g, 2 * t + half_step));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          mma::bf16_16x8x16(sums[m][n], a[m][0], b.x, b.y);
          mma::bf16_16x8x16(sums[m][n], a[m][1], b.z, b.w);
        }
      }
    }
  }

  /// Sums straight out: eight rows of a token at a time.
  __device__ __forceinline__ void store_fragments(const TiledLaunch& launch, const float (&sums)[kRowTiles][kTokenTiles][4]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int r = warp % kRowWarps * kWarpRows + m * 16 + lane / 4 + i / 2 * 8;
          const int t = warp / kRowWarps * kWarpTokens + n * 8 + lane % 4 * 2 + i % 2;
          if (r < rows && t < tokens) store_element(launch.out, std::int64_t{token + t} * launch.out.strides[0] + row + r, sums[m][n][i]);
        }
      }
    }
  }

  /// Sums to shared memory, token by token, and out in whole rows.
  template <class Element>
  __device__ __forceinline__ void store_tile(const TiledLaunch& launch, const float (&sums)[kRowTiles][kTokenTiles][4], std::byte* shared) const {
    constexpr int kStride = kRows + 16 / sizeof(Element);
    auto* tile = reinterpret_cast<Element*>(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int first_row = warp % kRowWarps * kWarpRows, first_token = warp / kRowWarps * kWarpTokens;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          Element* at = tile + (first_token + n * 8 + 2 * t + i % 2) * kStride + first_row + m * 16 + g + i / 2 * 8;
          if constexpr (sizeof(Element) == 4) {
            *at = sums[m][n][i];
          } else {
            *at = to_bf16(sums[m][n][i]);
          }
        }
      }
    }
    __syncthreads();
    constexpr int kPerWord = 16 / sizeof(Element), kWords = kRows / kPerWord;
    for (int i = threadIdx.x; i < tokens * kWords; i += kThreads) {
      const int r = i / kWords, c = i % kWords * kPerWord;
      Element* to = static_cast<Element*>(launch.out.data) + std::int64_t{token + r} * launch.out.strides[0] + row + c;
      const Element* from = tile + r * kStride + c;
      if (launch.stores_words && c + kPerWord <= rows) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int j = 0; j < kPerWord && c + j < rows; ++j) to[j] = from[j];
      }
    }
  }

  __device__ __forceinline__ void run(const TiledLaunch& launch) const {
    extern __shared__ __align__(128) std::byte shared[];
    const int steps = (launch.problem.in_dim + kStepK - 1) / kStepK;
    const int first_row = threadIdx.x / 32 % kRowWarps * kWarpRows;
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (stage < steps) fetch(launch, stage * kStepK, shared + stage * kStageBytes);
      copy::commit();
    }
    float sums[kRowTiles][kTokenTiles][4] = {};
    std::uint32_t nans[kRowTiles][2] = {}, scales[kRowTiles];
    for (int m = 0; m < kRowTiles; ++m) scales[m] = scale_byte(launch, first_row + m * 16, 0);
    int stage = 0;
    for (int step = 0; step < steps; ++step) {
      copy::wait<kStages - 2>();
      __syncthreads();  // everybody's copies of this step are there, and the stage before is used up
      if (step + kStages - 1 < steps) fetch(launch, (step + kStages - 1) * kStepK, shared + (stage == 0 ? kStages - 1 : stage - 1) * kStageBytes);
      copy::commit();
      std::uint32_t next[kRowTiles];
      for (int m = 0; m < kRowTiles; ++m) next[m] = scale_byte(launch, first_row + m * 16, min((step + 1) * kStepK, launch.problem.in_dim - 1));
      multiply(shared + stage * kStageBytes, scales, sums, nans);
      for (int m = 0; m < kRowTiles; ++m) scales[m] = next[m];
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    copy::wait<0>();
    __syncthreads();
    if constexpr (kIsE4m3) {
      for (int m = 0; m < kRowTiles; ++m) {
        for (int half = 0; half < 2; ++half) {
          std::uint32_t seen = nans[m][half];
          seen |= __shfl_xor_sync(kAllLanes, seen, 1);
          seen |= __shfl_xor_sync(kAllLanes, seen, 2);
          if (!saw_nan(seen)) continue;
          for (int n = 0; n < kTokenTiles; ++n) sums[m][n][2 * half] = sums[m][n][2 * half + 1] = __uint_as_float(0x7fc00000u);
        }
      }
    }
    if (launch.out.dtype == DType::bf16) {
      store_tile<bf16>(launch, sums, shared);
    } else if constexpr (kTokens * (kRows + 4) * 4 <= kTile.shared_bytes()) {
      store_tile<float>(launch, sums, shared);
    } else {
      store_fragments(launch, sums);
    }
  }
};

template <bool kIsE4m3>
__global__ void __launch_bounds__(kThreads, kIsE4m3 ? 1 : 2) tiled_kernel(const __grid_constant__ TiledLaunch launch) {
  Tiled<kIsE4m3>(launch).run(launch);
}

/// x as the product sees it: eight lanes for each block of 128 elements of a token.
__global__ void __launch_bounds__(kThreads) quantise_kernel(const __grid_constant__ LinearProblem problem, const __grid_constant__ TensorView x,
                                                            bf16* out, const int blocks_per_row, const bool is_paired) {
  let_next_launch_begin();
  wait_for_launch_before();
  const std::int64_t block = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanesPerBlock;
  const std::int64_t token = block / blocks_per_row;
  const int in_row = static_cast<int>(block % blocks_per_row), blocks_per_group = blocks_per_row / problem.groups;
  const int group = in_row / blocks_per_group, lane_of_block = threadIdx.x % kLanesPerBlock;
  const int k = in_row % blocks_per_group * kQuantBlock + lane_of_block * kPerLane;
  const bool is_token = token < x.shape[0];
  const std::int64_t column = std::int64_t{group} * problem.in_dim;
  Lane16 lane;
  lane.clear();
  if (is_token) lane.load(x, token * x.strides[0] + column, k, problem.in_dim);
  quantise_and_back(lane);
  if (!is_token) return;
  bf16* row = out + token * problem.groups * problem.in_dim + column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::uint32_t* p = lane.pairs + 4 * half;
    const uint4 words = is_paired ? lane.alternate(half) : make_uint4(p[0], p[1], p[2], p[3]);
    if (k + 8 * half < problem.in_dim) *reinterpret_cast<uint4*>(row + k + 8 * half) = words;
  }
}

}  // namespace

Result<bool> can_quantise_early(const Device& device) { return can_begin_early("linear", device, quantise_kernel); }

Status launch_quantise(const LinearProblem& problem, const TensorView& x, const RunContext& context, std::byte* out, bool early, bool is_paired) {
  const int blocks_per_row = problem.groups * ((problem.in_dim + kQuantBlock - 1) / kQuantBlock);
  return launch_early(early, "linear", context, quantise_kernel, dim3(blocks_for(x.shape[0] * blocks_per_row, kThreads / kLanesPerBlock)), dim3(kThreads),
                      0, problem, x, reinterpret_cast<bf16*>(out), blocks_per_row, is_paired);
}

std::int64_t tiled_scratch_bytes(const LinearProblem& problem) {
  if (problem.num_tokens <= 64 || !quantises(problem)) return 0;
  return bytes_of(DType::bf16, std::int64_t{problem.num_tokens} * problem.groups * problem.in_dim);
}

Status prepare_tiled(const LinearProblem& problem, const Device& device) {
  if (problem.num_tokens <= 64) return {};
  if (problem.weight_dtype == DType::e4m3) {
    return allow_shared_bytes("linear", device, tiled_kernel<true>, TiledTile{DType::e4m3}.shared_bytes());
  }
  return allow_shared_bytes("linear", device, tiled_kernel<false>, TiledTile{DType::bf16}.shared_bytes());
}

Status launch_tiled(const LinearProblem& problem, const LinearArgs& args, const RunContext& context, std::byte* scratch) {
  const std::int64_t num_tokens = args.x.shape[0], width = std::int64_t{problem.groups} * problem.in_dim;
  TiledLaunch launched{problem, args.x, args.weight, args.weight_scale, args.out, 0, 0, false};
  if (quantises(problem)) {
    launched.x = view(scratch, DType::bf16, {num_tokens, width}, DeviceKind::cuda);
    FATHOM_TRY(launch_quantise(problem, args.x, context, scratch, false, false));
  }
  const std::int32_t rows = TiledTile{problem.weight_dtype}.rows();
  launched.row_tiles_per_group = (problem.out_dim + rows - 1) / rows;
  launched.token_tiles = static_cast<std::int32_t>((num_tokens + kTokens - 1) / kTokens);
  const auto out_row = bytes_of(args.out.dtype, args.out.strides[0]), group_row = bytes_of(args.out.dtype, problem.out_dim);
  launched.stores_words = reinterpret_cast<std::uintptr_t>(args.out.data) % 16 == 0 && out_row % 16 == 0 && group_row % 16 == 0;
  const dim3 grid(static_cast<unsigned>(problem.groups * launched.row_tiles_per_group * launched.token_tiles));
  if (problem.weight_dtype == DType::e4m3) {
    return launch("linear", context, tiled_kernel<true>, grid, dim3(kThreads), TiledTile{DType::e4m3}.shared_bytes(), launched);
  }
  return launch("linear", context, tiled_kernel<false>, grid, dim3(kThreads), TiledTile{DType::bf16}.shared_bytes(), launched);
}

}  // namespace fathom
