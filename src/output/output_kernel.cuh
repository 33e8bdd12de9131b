// What the CUDA implementations of output share: the products they are made of, the scratch between them, the rotation of
// single elements, and padding. They differ in how the heads are rotated back.
#pragma once

#include <algorithm>
#include <memory>

#include "core/scratch.h"
#include "device/head_rows.cuh"
#include "device/launch.h"
#include "output/output_linears.h"

namespace fathom::output_kernel {

/// Tokens whose rotated heads lie in scratch at a time: V4-Pro's take 128 KiB each.
constexpr std::int32_t kTokenTile = 1024;

struct Pieces {
  TensorView heads;  ///< [tile, num_heads * head_dim], rotated back
  TensorView z;      ///< [tile, output_groups * output_rank]
  Workspace linear;
};

inline std::int32_t token_tile(const OutputProblem& problem) { return std::min(problem.num_tokens, kTokenTile); }

inline Pieces lay_out(const OutputProblem& problem, const Device& device, const OutputLinears& linears, Scratch& scratch, const Workspace& outer) {
  const DType activation = activation_dtype(problem.numerics);
  const auto take = [&](std::int64_t width) {
    const std::int64_t rows = token_tile(problem);
    TensorView rows_view = view(scratch.take<std::byte>(bytes_of(activation, rows * width)), activation, {rows, width}, DeviceKind::cuda);
    rows_view.device_index = static_cast<std::int16_t>(device.index());
    return rows_view;
  };
  Pieces pieces;
  pieces.heads = take(std::int64_t{problem.num_heads} * problem.head_dim);
  pieces.z = take(std::int64_t{problem.output_groups} * problem.output_rank);
  pieces.linear = scratch.take_workspace(largest({&linears.wo_a, &linears.wo_b}), outer);
  return pieces;
}

inline Result<Prepared> prepare(const OutputProblem& problem, const Device& device, const PlanOptions& options) {
  FATHOM_ASSIGN(const std::shared_ptr<OutputLinears> linears, plan_output_linears(problem, token_tile(problem), device, options));
  Scratch scratch;
  lay_out(problem, device, *linears, scratch, {});
  const std::int64_t counters = largest({&linears->wo_a, &linears->wo_b}).counters;
  return Prepared{{.scratch = scratch.used(), .counters = counters}, linears, {linears->wo_a, linears->wo_b}};
}

constexpr int kWarpsPerBlock = 8, kThreads = 32 * kWarpsPerBlock;

/// True if the heads lie as the first product wants them: turned back already, and a token's densely.
inline bool are_rows(const OutputProblem& problem, const OutputArgs& args) {
  return problem.attn_form == OutForm::unrotated &&
         (problem.num_heads == 1 || args.attn_out.strides[1] == problem.head_dim);
}

/// A warp for a head of a token; a padding token's heads are zero. Heads that are turned back are only moved.
static __global__ void __launch_bounds__(kThreads) rotate_elements_kernel(const __grid_constant__ OutputProblem problem,
                                                                          const __grid_constant__ TensorView from,
                                                                          const __grid_constant__ TensorView rope_table,
                                                                          const __grid_constant__ TensorView positions,
                                                                          const __grid_constant__ TensorView to) {
  const std::int64_t unit = std::int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / 32;
  if (unit >= from.shape[0] * problem.num_heads) return;
  const std::int64_t t = unit / problem.num_heads, h = unit % problem.num_heads, position = positions.at<const std::int32_t>(t);
  const bool is_real = is_token(rope_table, position);
  const std::int64_t in = t * from.strides[0] + h * from.strides[1], out = unit * problem.head_dim;
  const int plain = problem.head_dim - problem.rope_dim, half = problem.rope_dim / 2, lane = threadIdx.x % 32;
  for (int c = lane; c < plain; c += 32) store_element(to, out + c, is_real ? load_element(from, in + c) : 0.0f);
  for (int i = lane; i < half; i += 32) {
    float even = 0, odd = 0;
    if (is_real) {
      const float* rope = rope_row(rope_table, position);
      even = load_element(from, in + plain + 2 * i), odd = load_element(from, in + plain + 2 * i + 1);
      if (problem.attn_form == OutForm::plain) rotate_back(even, odd, rope[i], rope[half + i]);
    }
    store_element(to, out + plain + 2 * i, even);
    store_element(to, out + plain + 2 * i + 1, odd);
  }
}

inline Status rotate_elements(const OutputProblem& problem, const OutputArgs& args, const TensorView& to, const RunContext& context) {
  const unsigned blocks = blocks_for(args.attn_out.shape[0] * problem.num_heads, kWarpsPerBlock);
  return launch("output", context, rotate_elements_kernel, dim3(blocks), dim3(kThreads), 0, problem, args.attn_out, args.rope_table,
                args.positions, to);
}

/// Padding rows are zero even where a weight is not finite.
static __global__ void __launch_bounds__(kThreads) clear_padding_kernel(const __grid_constant__ TensorView rope_table,
                                                                        const __grid_constant__ TensorView positions,
                                                                        const __grid_constant__ TensorView out) {
  for (std::int64_t t = blockIdx.x; t < out.shape[0]; t += gridDim.x) {
    if (is_token(rope_table, positions.at<const std::int32_t>(t))) continue;
    for (std::int64_t c = threadIdx.x; c < out.shape[1]; c += kThreads) store_element(out, t * out.strides[0] + c, 0.0f);
  }
}

/// `rotate(args of a tile, heads)` undoes the rotation, or moves heads that have none; the rest is the same for all.
template <class Rotate>
Status run(const OutputProblem& problem, const OutputArgs& args, const RunContext& context, const Rotate& rotate) {
  const auto& linears = *static_cast<const OutputLinears*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, linears, scratch, context.workspace);
  const std::int64_t num_tokens = args.attn_out.shape[0];
  for (std::int64_t first = 0; first < num_tokens; first += kTokenTile) {
    const std::int64_t tile = std::min<std::int64_t>(kTokenTile, num_tokens - first);
    OutputArgs part = args;
    part.attn_out = rows_of(args.attn_out, first, tile);
    part.positions = rows_of(args.positions, first, tile);
    TensorView heads = first_rows(pieces.heads, tile);
    if (are_rows(problem, args)) {
      heads.data = part.attn_out.data;
      heads.strides = {part.attn_out.strides[0], 1};
    } else {
      FATHOM_TRY(rotate(part, pieces.heads));
    }
    const TensorView z = first_rows(pieces.z, tile);
    FATHOM_TRY(linear(linears.wo_a, {heads, args.wo_a, args.wo_a_scale, z}, pieces.linear, context.stream));
    FATHOM_TRY(linear(linears.wo_b, {z, args.wo_b, args.wo_b_scale, rows_of(args.out, first, tile)}, pieces.linear, context.stream));
  }
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(num_tokens, 1024));
  return launch("output", context, clear_padding_kernel, dim3(blocks), dim3(kThreads), 0, args.rope_table, args.positions, args.out);
}

}  // namespace fathom::output_kernel
