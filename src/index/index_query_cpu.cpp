// index_query on the CPU: the product through `linear` in token tiles, then rotation, Hadamard and quantisation per head.
#include <cmath>

#include "cache/number_codecs.h"
#include "core/parallel.h"
#include "index/index_query_impl.h"
#include "linear/linear_problem.h"
#include "simd/rows.h"

namespace fathom {
namespace {

struct Linears {
  LinearPlan wq_b, weights;
};

struct Pieces {
  TensorView heads;    ///< [kWideTokenTile, index_heads * index_dim]
  TensorView weights;  ///< [num_tokens, index_heads]
  float* rows;         ///< [threads, index_dim]
  Workspace linear;
};

std::int32_t wide_tile(const IndexQueryProblem& problem) { return std::min(problem.num_tokens, kWideTokenTile); }

Pieces lay_out(const IndexQueryProblem& problem, const Device& device, const Linears& linears, Scratch& scratch) {
  const DType activation = activation_dtype(problem.numerics);
  const auto take = [&](std::int64_t rows, std::int64_t width) {
    return view(scratch.take<std::byte>(bytes_of(activation, rows * width)), activation, {rows, width});
  };
  Pieces pieces;
  pieces.heads = take(wide_tile(problem), std::int64_t{problem.index_heads} * problem.index_dim);
  pieces.weights = take(problem.num_tokens, problem.index_heads);
  pieces.rows = scratch.take<float>(device.num_threads() * std::int64_t{problem.index_dim});
  pieces.linear = scratch.take_workspace(largest({&linears.wq_b, &linears.weights}));
  return pieces;
}

/// Writes one head in the format of the keys; returns the scale to fold into its weight.
float store_head(const IndexQueryProblem& problem, const IndexQueryArgs& args, std::int64_t t, std::int64_t h, const float* row) {
  const std::int64_t at = t * args.q.strides[0] + h * args.q.strides[1];
  if (problem.format == CacheFormat::index_f32) {
    simd::store_values(args.q, at, problem.index_dim, row);
    return 1.0f;
  }
  auto* bytes = static_cast<std::uint8_t*>(args.q.data);
  if (problem.format == CacheFormat::index_e4m3_f32) return decode_ue8m0(quantise_q8(row, problem.index_dim, bytes + at));
  std::uint8_t* scales = args.q_scale.row<std::uint8_t>(t, h);
  for (int c = 0; c < problem.index_dim; c += 32) scales[c / 32] = quantise_q4(row + c, 32, bytes + (at + c) / 2);
  return 1.0f;
}

void finish_head(const IndexQueryProblem& problem, const IndexQueryArgs& args, const Pieces& pieces, std::int64_t t,
                 std::int64_t h, std::int64_t from, float* row) {
  const DType activation = activation_dtype(problem.numerics);
  const std::int64_t position = args.positions.at<std::int32_t>(t), dim = problem.index_dim;
  const bool padding = !is_token(args.rope_table, position);
  if (padding) {
    std::fill_n(row, dim, 0.0f);
  } else {
    simd::load_values(pieces.heads, from, dim, row);
    rotate(row + dim - problem.rope_dim, problem.rope_dim, rope_row(args.rope_table, position));
    round_row(row, dim, activation);
    hadamard(row, dim);
    round_row(row, dim, activation);
  }
  const float scale = store_head(problem, args, t, h, row);
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem.index_dim) * problem.index_heads));
  const float raw = padding ? 0.0f : load_f32(pieces.weights, t * problem.index_heads + h);
  // The FP8 form folds the query's scale into the weight, past the ReLU, and stays f32; the others round as a tensor.
  float weight = raw * scale * factor;
  if (problem.format != CacheFormat::index_e4m3_f32) round_row(&weight, 1, activation);
  args.weights.row<float>(t)[h] = weight;
}

}  // namespace

Result<Prepared> prepare_index_query_cpu(const IndexQueryProblem& problem, const Device& device, const PlanOptions& options) {
  const std::int64_t width = std::int64_t{problem.index_heads} * problem.index_dim;
  auto linears = std::make_shared<Linears>();
  FATHOM_ASSIGN(linears->wq_b, plan_linear(projection(problem.numerics, problem.wq_b_dtype, wide_tile(problem), problem.q_rank, width),
                                           device, nested(options)));
  FATHOM_ASSIGN(linears->weights, plan_linear(projection(problem.numerics, problem.weights_proj_dtype, problem.num_tokens, problem.hidden_size,
                                                         problem.index_heads), device, nested(options)));
  Scratch scratch;
  lay_out(problem, device, *linears, scratch);
  return Prepared{{.scratch = scratch.used()}, linears, {linears->wq_b, linears->weights}};
}

Status index_query_cpu(const IndexQueryProblem& problem, const IndexQueryArgs& args, const RunContext& context) {
  const auto& linears = *static_cast<const Linears*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, linears, scratch);
  const std::int64_t num_tokens = args.x.shape[0];
  FATHOM_TRY(linear(linears.weights, {args.x, args.weights_proj, {}, first_rows(pieces.weights, num_tokens)}, pieces.linear));
  for (std::int64_t first = 0; first < num_tokens; first += kWideTokenTile) {
    const std::int64_t tile = std::min<std::int64_t>(kWideTokenTile, num_tokens - first);
    FATHOM_TRY(linear(linears.wq_b, {rows_of(args.q_latent, first, tile), args.wq_b, args.wq_b_scale, first_rows(pieces.heads, tile)},
                      pieces.linear));
    parallel_for(context.device, tile * problem.index_heads, 16, [&](std::int64_t begin, std::int64_t end, int part) {
      float* row = pieces.rows + part * std::int64_t{problem.index_dim};
      for (std::int64_t i = begin; i < end; ++i) {
        finish_head(problem, args, pieces, first + i / problem.index_heads, i % problem.index_heads, i * problem.index_dim, row);
      }
    });
  }
  return {};
}

}  // namespace fathom
