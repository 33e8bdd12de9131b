// linear in plain f32 on CUDA: any size, format and stride. 32 tokens x 32 rows a block, 128 elements of K at a time in
// shared memory, already as the product sees them; every sum goes through K in order. No speed goal.
#include "device/launch.h"
#include "linear/linear_impl.h"
#include "linear/linear_kernel.cuh"

namespace fathom {
namespace {

using namespace linear_kernel;

constexpr int kThreads = 256, kTile = 32;
constexpr int kStride = kQuantBlock + 4;  ///< floats of a row in shared memory: rows start in different banks

struct Tile {
  alignas(16) float x[kTile][kStride];
  alignas(16) float weight[kTile][kStride];
};

__device__ float weight_element(const LinearArgs& args, std::int64_t n, std::int64_t k) {
  const std::int64_t at = n * args.weight.strides[0] + k;
  if (args.weight.dtype != DType::e4m3) return load_element(args.weight, at);
  const float scale = decode_ue8m0(args.weight_scale.row<const std::uint8_t>(n / kQuantBlock)[k / kQuantBlock]);
  return decode_e4m3(static_cast<const std::uint8_t*>(args.weight.data)[at]) * scale;
}

/// Q8 and back over the 128 elements of a row in shared memory, by the 8 lanes that share it.
__device__ void fake_quantise(float* row, int lane_of_row) {
  float* own = row + lane_of_row * kPerLane;
  float largest = largest_magnitude(own, kPerLane);
  for (int d = 1; d < kLanesPerBlock; d *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, d));
  const int exponent = q8_exponent(largest);
  const float scale = exp2_of(exponent), inverse = exp2_of(-exponent);
  for (int i = 0; i < kPerLane; ++i) own[i] = decode_e4m3(encode_e4m3(round_bf16(own[i]) * inverse)) * scale;
}

__global__ void __launch_bounds__(kThreads) linear_kernel_simt(const __grid_constant__ LinearProblem problem,
                                                               const __grid_constant__ LinearArgs args, const int row_tiles) {
  __shared__ Tile tile;
  const std::int64_t num_tokens = args.x.shape[0], in_dim = problem.in_dim;
  const std::int64_t group = blockIdx.x / row_tiles, first_row = std::int64_t{blockIdx.x % row_tiles} * kTile;
  const int rows = static_cast<int>(min(std::int64_t{kTile}, problem.out_dim - first_row));
  const std::int64_t row_base = group * problem.out_dim + first_row;
  // A thread's sums: tokens ty and ty + 16, rows tx and tx + 16.
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  // Token tiles beyond the grid's reach come round again.
  for (std::int64_t first = std::int64_t{blockIdx.y} * kTile; first < num_tokens; first += std::int64_t{gridDim.y} * kTile) {
    const int tokens = static_cast<int>(min(std::int64_t{kTile}, num_tokens - first));
    float sums[2][2] = {};
    for (std::int64_t k = 0; k < in_dim; k += kQuantBlock) {
      const int width = static_cast<int>(min(std::int64_t{kQuantBlock}, in_dim - k));
      __syncthreads();  // the tile before is used up
      for (int i = threadIdx.x; i < kTile * kQuantBlock; i += kThreads) {
        const int r = i / kQuantBlock, c = i % kQuantBlock;
        tile.x[r][c] = r < tokens && c < width ? load_element(args.x, (first + r) * args.x.strides[0] + group * in_dim + k + c) : 0.0f;
        tile.weight[r][c] = r < rows && c < width ? weight_element(args, row_base + r, k + c) : 0.0f;
      }
      __syncthreads();
      if (problem.activation_quant == ActivationQuant::e4m3_128) {
        fake_quantise(tile.x[threadIdx.x / kLanesPerBlock], threadIdx.x % kLanesPerBlock);
        __syncthreads();
      }
      for (int c = 0; c < kQuantBlock; c += 4) {
        float4 x[2], weight[2];
        for (int i = 0; i < 2; ++i) {
          x[i] = *reinterpret_cast<const float4*>(&tile.x[ty + 16 * i][c]);
          weight[i] = *reinterpret_cast<const float4*>(&tile.weight[tx + 16 * i][c]);
        }
        for (int i = 0; i < 2; ++i) {
          for (int j = 0; j < 2; ++j) {
            float sum = fmaf(x[i].x, weight[j].x, sums[i][j]);
            sum = fmaf(x[i].y, weight[j].y, sum);
            sum = fmaf(x[i].z, weight[j].z, sum);
            sums[i][j] = fmaf(x[i].w, weight[j].w, sum);
          }
        }
      }
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        const int t = ty + 16 * i, n = tx + 16 * j;
        if (t < tokens && n < rows) store_element(args.out, (first + t) * args.out.strides[0] + row_base + n, sums[i][j]);
      }
    }
  }
}

}  // namespace

Status linear_simt(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  constexpr unsigned kMostBlocksY = 65535;
  const unsigned row_tiles = blocks_for(problem.out_dim, kTile);
  const dim3 grid(row_tiles * problem.groups, std::min(blocks_for(args.x.shape[0], kTile), kMostBlocksY));
  return launch("linear", context, linear_kernel_simt, grid, dim3(kThreads), 0, problem, args, static_cast<int>(row_tiles));
}

}  // namespace fathom
