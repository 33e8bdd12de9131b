// index_query on CUDA: two products through `linear`, then one kernel that rotates, transforms and quantises the heads
// and scales their weights. The heads' product stays in scratch a tile of tokens at a time, small enough for the L2
// cache. One implementation serves both numerics: there is nothing here that `exact` would do otherwise.
#include "core/scratch.h"
#include "device/launch.h"
#include "device/warp_rows.cuh"
#include "index/index_query_impl.h"
#include "linear/linear_problem.h"

namespace fathom {
namespace {

constexpr int kWarps = 4;                   ///< of a block
constexpr std::int32_t kTileTokens = 1024;  ///< 16 MiB of bf16 heads at 64 x 128
constexpr int kQ4Block = 32;
constexpr int kHeadsOfAWarp = 32 / kIndexLanes;  ///< in the fast kernel

struct Linears {
  LinearPlan wq_b, weights;
};

struct Pieces {
  TensorView heads;    ///< [kTileTokens, index_heads * index_dim]
  TensorView weights;  ///< [num_tokens, index_heads]
  Workspace linear;
};

std::int32_t tile_of(const IndexQueryProblem& problem) { return std::min(problem.num_tokens, kTileTokens); }

Pieces lay_out(const IndexQueryProblem& problem, const Device& device, const Linears& linears, Scratch& scratch,
               const Workspace& outer) {
  const DType activation = activation_dtype(problem.numerics);
  const auto take = [&](std::int64_t rows, std::int64_t width) {
    TensorView piece =
        view(scratch.take<std::byte>(bytes_of(activation, rows * width)), activation, {rows, width}, device.kind());
    piece.device_index = static_cast<std::int16_t>(device.index());
    return piece;
  };
  Pieces pieces;
  pieces.heads = take(tile_of(problem), std::int64_t{problem.index_heads} * problem.index_dim);
  pieces.weights = take(problem.num_tokens, problem.index_heads);
  pieces.linear = scratch.take_workspace(largest({&linears.wq_b, &linears.weights}), outer);
  return pieces;
}

/// The heads of tokens [first, first + heads.shape[0]).
struct Tile {
  TensorView heads, weights;
  std::int64_t first;
  float hadamard_factor, weight_factor;
};

/// The FP8 form folds the query's scale into the weight, past the ReLU, and stays f32; the others round as a tensor.
__device__ void store_weight(const IndexQueryProblem& problem, const IndexQueryArgs& args, const Tile& tile,
                             std::int64_t t, int h, bool padding, float scale) {
  const float raw = padding ? 0.0f : load_element(tile.weights, t * problem.index_heads + h);
  const float weight = raw * scale * tile.weight_factor;
  const bool folds = problem.format == CacheFormat::index_e4m3_f32;
  args.weights.row<float>(t)[h] = folds ? weight : rounded(weight, activation_dtype(problem.numerics));
}

/// A warp for a head of any size and format; the head lies in shared memory.
__global__ void __launch_bounds__(32 * kWarps)
    finish_heads(const __grid_constant__ IndexQueryProblem problem, const __grid_constant__ IndexQueryArgs args,
                 const __grid_constant__ Tile tile) {
  extern __shared__ float rows[];  // [kWarps, index_dim]
  const std::uint32_t unit = blockIdx.x * kWarps + threadIdx.x / 32, num_heads = problem.index_heads;
  if (unit >= tile.heads.shape[0] * num_heads) return;
  const std::int64_t t = tile.first + unit / num_heads;
  const int h = static_cast<int>(unit % num_heads), lane = threadIdx.x % 32, dim = problem.index_dim,
            half = problem.rope_dim / 2;
  float* row = rows + threadIdx.x / 32 * dim;
  const DType activation = activation_dtype(problem.numerics);
  const std::int64_t position = args.positions.at<std::int32_t>(t);
  const bool padding = !is_token(args.rope_table, position);
  for (int c = lane; c < dim; c += 32) row[c] = padding ? 0.0f : load_element(tile.heads, std::int64_t{unit} * dim + c);
  __syncwarp();
  if (!padding) {
    const float* rope = rope_row(args.rope_table, position);
    float* last = row + dim - problem.rope_dim;
    for (int i = lane; i < half; i += 32) {
      rotate_pair(last[2 * i], last[2 * i + 1], rope[i], rope[half + i]);
      last[2 * i] = rounded(last[2 * i], activation);
      last[2 * i + 1] = rounded(last[2 * i + 1], activation);
    }
    __syncwarp();
    for (int span = 1; span < dim; span *= 2) {
      for (int pair = lane; pair < dim / 2; pair += 32) butterfly(row, pair, span);
      __syncwarp();
    }
    for (int c = lane; c < dim; c += 32) row[c] = rounded(row[c] * tile.hadamard_factor, activation);
    __syncwarp();
  }
  const std::int64_t to = t * args.q.strides[0] + h * args.q.strides[1];
  float scale = 1.0f;
  if (problem.format == CacheFormat::index_f32) {
    for (int c = lane; c < dim; c += 32) store_element(args.q, to + c, row[c]);
  } else if (problem.format == CacheFormat::index_e4m3_f32) {
    float largest = 0;
    for (int c = lane; c < dim; c += 32) largest = fmaxf(largest, largest_magnitude(row + c, 1));
    const int exponent = q8_exponent(warp_max(largest));
    auto* codes = static_cast<std::uint8_t*>(args.q.data) + to;
    for (int c = lane; c < dim; c += 32) codes[c] = encode_e4m3(round_bf16(row[c]) * exp2_of(-exponent));
    scale = exp2_of(exponent);
  } else {
    for (int g = lane; g < dim / kQ4Block; g += 32) {
      auto* packed = static_cast<std::uint8_t*>(args.q.data) + (to + g * kQ4Block) / 2;
      args.q_scale.row<std::uint8_t>(t, h)[g] = quantise_q4(row + g * kQ4Block, kQ4Block, packed);
    }
  }
  if (lane == 0) store_weight(problem, args, tile, t, h, padding, scale);
}

/// e4m3 and e2m1x2 queries of 128 elements from bf16 products: eight lanes a head, in whole words.
__global__ void __launch_bounds__(32 * kWarps)
    finish_heads_wide(const __grid_constant__ IndexQueryProblem problem, const __grid_constant__ IndexQueryArgs args,
                      const __grid_constant__ Tile tile) {
  const std::uint32_t num_heads = problem.index_heads;
  const auto num_units = static_cast<std::uint32_t>(tile.heads.shape[0] * num_heads);
  const std::uint32_t wanted =
      (blockIdx.x * kWarps + threadIdx.x / 32) * kHeadsOfAWarp + threadIdx.x % 32 / kIndexLanes;
  const std::uint32_t unit = min(wanted, num_units - 1);  // lanes without a head keep the warp whole, and store nothing
  const bool stores = wanted < num_units;
  const std::int64_t t = tile.first + unit / num_heads;
  const int h = static_cast<int>(unit % num_heads), lane = threadIdx.x % kIndexLanes;
  const std::int64_t position = args.positions.at<std::int32_t>(t);
  const bool padding = !is_token(args.rope_table, position);
  const bf16* from = static_cast<const bf16*>(tile.heads.data) + std::int64_t{unit} * kIndexRow;
  Eight parts[2];
  for (int j = 0; j < 2; ++j) parts[j] = load_eight(from + index_column_of(j, lane));
  for (int j = 0; j < 2; ++j) {
    const int rotary = index_column_of(j, lane) - (kIndexRow - problem.rope_dim);
    if (padding) parts[j] = {};
    if (!padding && rotary >= 0)
      rotate_and_round(parts[j], rope_row(args.rope_table, position), problem.rope_dim, rotary);
  }
  hadamard_in_lanes(parts, lane, tile.hadamard_factor);

  auto* q = static_cast<std::uint8_t*>(args.q.data);
  const std::int64_t to = t * args.q.strides[0] + h * args.q.strides[1];
  float scale = 1.0f;
  if (problem.format == CacheFormat::index_e4m3_f32) {
    scale = exp2_of(store_index_e4m3(parts, lane, q + to, stores));
  } else {
    store_index_e2m1(parts, lane, q + to / 2, args.q_scale.row<std::uint8_t>(t, h), stores);
  }
  if (lane == 0 && stores) store_weight(problem, args, tile, t, h, padding, scale);
}

Status launch_heads(const IndexQueryProblem& problem, const IndexQueryArgs& args, const Tile& tile,
                    const RunContext& context) {
  const std::int64_t units = tile.heads.shape[0] * problem.index_heads;
  const bool wide = tile.heads.dtype == DType::bf16 && problem.index_dim == kIndexRow && problem.rope_dim % 8 == 0 &&
                    problem.format != CacheFormat::index_f32 && has_wide_rows(args.rope_table) && has_wide_rows(args.q);
  if (wide) {
    return launch("index_query", context, finish_heads_wide, dim3(blocks_for(units, kWarps * kHeadsOfAWarp)),
                  dim3(32 * kWarps), 0, problem, args, tile);
  }
  return launch("index_query", context, finish_heads, dim3(blocks_for(units, kWarps)), dim3(32 * kWarps),
                kWarps * problem.index_dim * sizeof(float), problem, args, tile);
}

}  // namespace

Result<Prepared> prepare_index_query_simt(const IndexQueryProblem& problem, const Device& device,
                                          const PlanOptions& options) {
  const auto product = [&](DType dtype, std::int32_t num_tokens, std::int64_t in_dim, std::int64_t out_dim) {
    return plan_linear(projection(problem.numerics, dtype, num_tokens, in_dim, out_dim), device, nested(options));
  };
  auto linears = std::make_shared<Linears>();
  const std::int64_t width = std::int64_t{problem.index_heads} * problem.index_dim;
  FATHOM_ASSIGN(linears->wq_b, product(problem.wq_b_dtype, tile_of(problem), problem.q_rank, width));
  FATHOM_ASSIGN(linears->weights,
                product(problem.weights_proj_dtype, problem.num_tokens, problem.hidden_size, problem.index_heads));
  Scratch scratch;
  lay_out(problem, device, *linears, scratch, {});
  const WorkspaceSize nested_size = largest({&linears->wq_b, &linears->weights});
  return Prepared{{scratch.used(), nested_size.counters, nested_size.schedule}, linears, {linears->wq_b, linears->weights}};
}

Status index_query_simt(const IndexQueryProblem& problem, const IndexQueryArgs& args, const RunContext& context) {
  const auto& linears = *static_cast<const Linears*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, linears, scratch, context.workspace);
  const std::int64_t num_tokens = args.x.shape[0];
  const auto weight_factor =
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem.index_dim) * problem.index_heads));
  FATHOM_TRY(linear(linears.weights, {args.x, args.weights_proj, {}, first_rows(pieces.weights, num_tokens)},
                    pieces.linear, context.stream));
  for (std::int64_t first = 0; first < num_tokens; first += kTileTokens) {
    const std::int64_t count = std::min<std::int64_t>(kTileTokens, num_tokens - first);
    const TensorView heads = first_rows(pieces.heads, count);
    FATHOM_TRY(linear(linears.wq_b, {rows_of(args.q_latent, first, count), args.wq_b, args.wq_b_scale, heads},
                      pieces.linear, context.stream));
    FATHOM_TRY(launch_heads(
        problem, args, {heads, pieces.weights, first, hadamard_factor(problem.index_dim), weight_factor}, context));
  }
  return {};
}

}  // namespace fathom
