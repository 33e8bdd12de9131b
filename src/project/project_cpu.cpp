// project on the CPU: three products through `linear`, the norms and rotations between them, rows into their pages.
#include "cache/row_codec.h"
#include "core/parallel.h"
#include "linear/linear_problem.h"
#include "project/project_impl.h"
#include "simd/rows.h"

namespace fathom {
namespace {

struct Linears {
  LinearPlan wq_a, wq_b, wkv;
};

struct Pieces {
  TensorView latent;  ///< [num_tokens, q_rank], before the norm
  TensorView kv;      ///< [num_tokens, head_dim], before the norm
  TensorView heads;   ///< [kWideTokenTile, num_heads * head_dim], before the head norm
  float* rows;        ///< [threads, widest row]
  Workspace linear;
};

std::int32_t wide_tile(const ProjectProblem& problem) { return std::min(problem.num_tokens, kWideTokenTile); }
std::int64_t widest_row(const ProjectProblem& problem) { return std::max(problem.head_dim, problem.q_rank); }

Pieces lay_out(const ProjectProblem& problem, const Device& device, const Linears& linears, Scratch& scratch) {
  const DType activation = activation_dtype(problem.numerics);
  const auto take = [&](std::int64_t rows, std::int64_t width) {
    return view(scratch.take<std::byte>(bytes_of(activation, rows * width)), activation, {rows, width});
  };
  Pieces pieces;
  pieces.latent = take(problem.num_tokens, problem.q_rank);
  pieces.kv = take(problem.num_tokens, problem.head_dim);
  pieces.heads = take(wide_tile(problem), std::int64_t{problem.num_heads} * problem.head_dim);
  pieces.rows = scratch.take<float>(device.num_threads() * widest_row(problem));
  pieces.linear = scratch.take_workspace(largest({&linears.wq_a, &linears.wq_b, &linears.wkv}));
  return pieces;
}

/// Norms the latent; norms, rotates, quantises and stores the KV row.
void finish_latent_and_kv(const ProjectProblem& problem, const ProjectArgs& args, const Pieces& pieces,
                          const PagedCacheView& window, const Device& device) {
  const std::int64_t head_dim = problem.head_dim, q_rank = problem.q_rank;
  const DType activation = activation_dtype(problem.numerics);
  parallel_for(device, args.x.shape[0], 1, [&](std::int64_t begin, std::int64_t end, int part) {
    float* row = pieces.rows + part * widest_row(problem);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t position = args.positions.at<std::int32_t>(t);
      const bool padding = !is_token(args.rope_table, position);
      simd::load_values(pieces.latent, t * q_rank, q_rank, row);
      rms_norm(row, args.q_norm, q_rank, problem.norm_eps);
      if (padding) std::fill_n(row, q_rank, 0.0f);
      simd::store_values(args.q_latent, t * args.q_latent.strides[0], q_rank, row);

      const std::int64_t slot = args.slot_mapping.at<std::int64_t>(t);
      if (padding || !window.holds(slot)) continue;
      simd::load_values(pieces.kv, t * head_dim, head_dim, row);
      rms_norm(row, args.kv_norm, head_dim, problem.norm_eps);
      round_row(row, head_dim, activation);
      rotate(row + head_dim - problem.rope_dim, problem.rope_dim, rope_row(args.rope_table, position));
      round_row(row, head_dim, activation);
      encode_row(window.layout, row, window.row(slot), window.footer(slot));
    }
  });
}

/// Norms and rotates every head of tokens [first, first + tile); raw heads are only moved.
void finish_heads(const ProjectProblem& problem, const ProjectArgs& args, const Pieces& pieces, std::int64_t first,
                  std::int64_t tile, const Device& device) {
  const std::int64_t head_dim = problem.head_dim;
  parallel_for(device, tile * problem.num_heads, 4, [&](std::int64_t begin, std::int64_t end, int part) {
    float* row = pieces.rows + part * widest_row(problem);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = first + i / problem.num_heads, h = i % problem.num_heads;
      const std::int64_t position = args.positions.at<std::int32_t>(t);
      if (problem.q_form == QForm::raw) {
        simd::load_values(pieces.heads, i * head_dim, head_dim, row);
      } else if (is_token(args.rope_table, position)) {
        simd::load_values(pieces.heads, i * head_dim, head_dim, row);
        head_norm(row, head_dim, problem.norm_eps, activation_dtype(problem.numerics));
        rotate(row + head_dim - problem.rope_dim, problem.rope_dim, rope_row(args.rope_table, position));
      } else {
        std::fill_n(row, head_dim, 0.0f);
      }
      simd::store_values(args.q, t * args.q.strides[0] + h * args.q.strides[1], head_dim, row);
    }
  });
}

}  // namespace

Result<Prepared> prepare_project_cpu(const ProjectProblem& problem, const Device& device, const PlanOptions& options) {
  const auto product = [&](DType weight_dtype, std::int32_t tokens, std::int64_t in_dim, std::int64_t out_dim) {
    return plan_linear(projection(problem.numerics, weight_dtype, tokens, in_dim, out_dim), device, nested(options));
  };
  auto linears = std::make_shared<Linears>();
  FATHOM_ASSIGN(linears->wq_a, product(problem.wq_a_dtype, problem.num_tokens, problem.hidden_size, problem.q_rank));
  FATHOM_ASSIGN(linears->wq_b, product(problem.wq_b_dtype, wide_tile(problem), problem.q_rank, std::int64_t{problem.num_heads} * problem.head_dim));
  FATHOM_ASSIGN(linears->wkv, product(problem.wkv_dtype, problem.num_tokens, problem.hidden_size, problem.head_dim));
  Scratch scratch;
  lay_out(problem, device, *linears, scratch);
  return Prepared{{.scratch = scratch.used()}, linears, {linears->wq_a, linears->wq_b, linears->wkv}};
}

Status project_cpu(const ProjectProblem& problem, const ProjectArgs& args, const RunContext& context) {
  const auto& linears = *static_cast<const Linears*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, linears, scratch);
  const std::int64_t num_tokens = args.x.shape[0];
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.window_format, problem.head_dim));
  FATHOM_ASSIGN(const PagedCacheView window, paged_cache("project", "window_cache", args.window_cache, layout, problem.window_page_size));

  FATHOM_TRY(linear(linears.wq_a, {args.x, args.wq_a, args.wq_a_scale, first_rows(pieces.latent, num_tokens)}, pieces.linear));
  FATHOM_TRY(linear(linears.wkv, {args.x, args.wkv, args.wkv_scale, first_rows(pieces.kv, num_tokens)}, pieces.linear));
  finish_latent_and_kv(problem, args, pieces, window, context.device);
  for (std::int64_t first = 0; first < num_tokens; first += kWideTokenTile) {
    const std::int64_t tile = std::min<std::int64_t>(kWideTokenTile, num_tokens - first);
    FATHOM_TRY(linear(linears.wq_b, {rows_of(args.q_latent, first, tile), args.wq_b, args.wq_b_scale, first_rows(pieces.heads, tile)},
                      pieces.linear));
    finish_heads(problem, args, pieces, first, tile, context.device);
  }
  return {};
}

}  // namespace fathom
