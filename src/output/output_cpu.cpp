// output on the CPU: heads rotated back into a tile of tokens, then two products through `linear`.
#include <cstring>

#include "core/parallel.h"
#include "output/output_linears.h"
#include "simd/rows.h"

namespace fathom {
namespace {

struct Pieces {
  TensorView heads;  ///< [kWideTokenTile, num_heads * head_dim], rotated back
  TensorView z;      ///< [kWideTokenTile, output_groups * output_rank]
  float* rows;       ///< [threads, head_dim]
  Workspace linear;
};

std::int32_t wide_tile(const OutputProblem& problem) { return std::min(problem.num_tokens, kWideTokenTile); }

Pieces lay_out(const OutputProblem& problem, const Device& device, const OutputLinears& linears, Scratch& scratch) {
  const DType activation = activation_dtype(problem.numerics);
  const auto take = [&](std::int64_t width) {
    const std::int64_t rows = wide_tile(problem);
    return view(scratch.take<std::byte>(bytes_of(activation, rows * width)), activation, {rows, width});
  };
  Pieces pieces;
  pieces.heads = take(std::int64_t{problem.num_heads} * problem.head_dim);
  pieces.z = take(std::int64_t{problem.output_groups} * problem.output_rank);
  pieces.rows = scratch.take<float>(device.num_threads() * std::int64_t{problem.head_dim});
  pieces.linear = scratch.take_workspace(largest({&linears.wo_a, &linears.wo_b}));
  return pieces;
}

void rotate_back(const OutputProblem& problem, const OutputArgs& args, const Pieces& pieces, std::int64_t first, std::int64_t tile,
                 const Device& device) {
  const std::int64_t head_dim = problem.head_dim;
  parallel_for(device, tile * problem.num_heads, 16, [&](std::int64_t begin, std::int64_t end, int part) {
    float* row = pieces.rows + part * head_dim;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = first + i / problem.num_heads, h = i % problem.num_heads;
      const std::int64_t position = args.positions.at<std::int32_t>(t);
      const std::int64_t at = t * args.attn_out.strides[0] + h * args.attn_out.strides[1];
      auto* head = static_cast<std::byte*>(pieces.heads.data) + bytes_of(pieces.heads.dtype, i * head_dim);
      if (!is_token(args.rope_table, position)) {
        std::memset(head, 0, static_cast<std::size_t>(bytes_of(pieces.heads.dtype, head_dim)));
        continue;
      }
      // What is not rotated is only copied.
      const std::int64_t kept = problem.attn_form == OutForm::plain ? head_dim - problem.rope_dim : head_dim;
      std::memcpy(head, static_cast<const std::byte*>(args.attn_out.data) + bytes_of(args.attn_out.dtype, at),
                  static_cast<std::size_t>(bytes_of(pieces.heads.dtype, kept)));
      if (kept == head_dim) continue;
      simd::load_values(args.attn_out, at + kept, problem.rope_dim, row);
      rotate(row, problem.rope_dim, rope_row(args.rope_table, position), -1.0f);
      simd::store_values(pieces.heads, i * head_dim + kept, problem.rope_dim, row);
    }
  });
}

/// Padding rows are zero even where a weight is not finite.
void clear_padding(const OutputProblem& problem, const OutputArgs& args) {
  for (std::int64_t t = 0; t < args.out.shape[0]; ++t) {
    if (is_token(args.rope_table, args.positions.at<std::int32_t>(t))) continue;
    std::memset(static_cast<std::byte*>(args.out.data) + bytes_of(args.out.dtype, t * args.out.strides[0]), 0,
                static_cast<std::size_t>(bytes_of(args.out.dtype, problem.hidden_size)));
  }
}

}  // namespace

Result<Prepared> prepare_output_cpu(const OutputProblem& problem, const Device& device, const PlanOptions& options) {
  FATHOM_ASSIGN(const std::shared_ptr<OutputLinears> linears, plan_output_linears(problem, wide_tile(problem), device, options));
  Scratch scratch;
  lay_out(problem, device, *linears, scratch);
  return Prepared{{.scratch = scratch.used()}, linears, {linears->wo_a, linears->wo_b}};
}

Status output_cpu(const OutputProblem& problem, const OutputArgs& args, const RunContext& context) {
  const auto& linears = *static_cast<const OutputLinears*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, linears, scratch);
  const std::int64_t num_tokens = args.attn_out.shape[0];
  for (std::int64_t first = 0; first < num_tokens; first += kWideTokenTile) {
    const std::int64_t tile = std::min<std::int64_t>(kWideTokenTile, num_tokens - first);
    rotate_back(problem, args, pieces, first, tile, context.device);
    const TensorView z = first_rows(pieces.z, tile);
    FATHOM_TRY(linear(linears.wo_a, {first_rows(pieces.heads, tile), args.wo_a, args.wo_a_scale, z}, pieces.linear));
    FATHOM_TRY(linear(linears.wo_b, {z, args.wo_b, args.wo_b_scale, rows_of(args.out, first, tile)}, pieces.linear));
  }
  clear_padding(problem, args);
  return {};
}

}  // namespace fathom
