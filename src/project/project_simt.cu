// project on CUDA: three products through `linear` and two kernels of its own. Both products that end in an output are
// written there and finished in place: the latent, and the heads unless the caller keeps them apart. One implementation
// serves both numerics: there is nothing here that `exact` would do otherwise.
#include "core/scratch.h"
#include "device/head_rows.cuh"
#include "device/launch.h"
#include "linear/linear_problem.h"
#include "project/project_impl.h"

namespace fathom {
namespace {

constexpr int kRowThreads = 128;  ///< of a block that finishes a latent or a KV row
constexpr int kHeadWarps = 8;     ///< heads of a block
constexpr std::int32_t kPackedTokens =
    64;  ///< tokens whose heads are kept apart from q, where q does not hold them densely

struct Linears {
  LinearPlan wq_a, wq_b, wkv;
};

struct Pieces {
  TensorView kv;     ///< [num_tokens, head_dim], before the norm
  TensorView heads;  ///< [kPackedTokens, num_heads * head_dim], before the head norm; used where q has gaps
  Workspace linear;
};

std::int32_t packed_tile(const ProjectProblem& problem) { return std::min(problem.num_tokens, kPackedTokens); }

Pieces lay_out(const ProjectProblem& problem, const Device& device, const Linears& linears, Scratch& scratch,
               const Workspace& outer) {
  const DType activation = activation_dtype(problem.numerics);
  const auto take = [&](std::int64_t rows, std::int64_t width) {
    TensorView piece =
        view(scratch.take<std::byte>(bytes_of(activation, rows * width)), activation, {rows, width}, device.kind());
    piece.device_index = static_cast<std::int16_t>(device.index());
    return piece;
  };
  Pieces pieces;
  pieces.kv = take(problem.num_tokens, problem.head_dim);
  pieces.heads = take(packed_tile(problem), std::int64_t{problem.num_heads} * problem.head_dim);
  pieces.linear = scratch.take_workspace(largest({&linears.wq_a, &linears.wq_b, &linears.wkv}), outer);
  return pieces;
}

/// What the row kernel reads beside the arguments.
struct Rows {
  TensorView kv;
  PagedCacheView window;
  bool wide_latent, wide_q_norm, wide_kv, wide_kv_norm;
};

/// Norms the latent in place.
__device__ void finish_latent(const ProjectProblem& problem, const ProjectArgs& args, const Rows& rows, std::int64_t t,
                              bool padding, DType activation, float* partials) {
  const std::int64_t q_rank = problem.q_rank, at = t * args.q_latent.strides[0];
  float sum = 0;
  if (!padding) {
    for (std::int64_t c = 8 * threadIdx.x; c < q_rank; c += 8 * kRowThreads) {
      const int count = static_cast<int>(min(std::int64_t{8}, q_rank - c));
      const Eight values = load_eight(args.q_latent, at + c, count, rows.wide_latent);
      for (int i = 0; i < 8; ++i) sum = fmaf(values.v[i], values.v[i], sum);
    }
  }
  const float s = inverse_rms(block_sum(sum, partials), q_rank, problem.norm_eps);
  for (std::int64_t c = 8 * threadIdx.x; c < q_rank; c += 8 * kRowThreads) {
    const int count = static_cast<int>(min(std::int64_t{8}, q_rank - c));
    Eight values{};
    if (!padding) {
      values = load_eight(args.q_latent, at + c, count, rows.wide_latent);
      const Eight weights = load_eight(args.q_norm, c, count, rows.wide_q_norm);
      for (int i = 0; i < 8; ++i) values.v[i] = weights.v[i] * (values.v[i] * s);
    }
    store_eight(args.q_latent, at + c, count, rows.wide_latent, values);
  }
}

/// Norms, rotates, quantises and stores the KV row.
__device__ void finish_kv(const ProjectProblem& problem, const ProjectArgs& args, const Rows& rows, std::int64_t t,
                          std::int64_t position, DType activation, float* row, float* partials) {
  const std::int64_t slot = args.slot_mapping.at<std::int64_t>(t);
  if (!rows.window.holds(slot)) return;
  const int head_dim = problem.head_dim;
  float sum = 0;
  for (int c = 8 * threadIdx.x; c < head_dim; c += 8 * kRowThreads) {
    const int count = min(8, head_dim - c);
    const Eight values = load_eight(rows.kv, t * head_dim + c, count, rows.wide_kv);
    for (int i = 0; i < count; ++i) row[c + i] = values.v[i];
    for (int i = 0; i < 8; ++i) sum = fmaf(values.v[i], values.v[i], sum);
  }
  const float s = inverse_rms(block_sum(sum, partials), head_dim, problem.norm_eps);
  for (int c = 8 * threadIdx.x; c < head_dim; c += 8 * kRowThreads) {
    const int count = min(8, head_dim - c);
    const Eight weights = load_eight(args.kv_norm, c, count, rows.wide_kv_norm);
    for (int i = 0; i < count; ++i) row[c + i] = rounded(weights.v[i] * (row[c + i] * s), activation);
  }
  __syncthreads();
  rotate_by_block(row, head_dim, problem.rope_dim, rope_row(args.rope_table, position), activation);
  encode_row_by_block(rows.window.layout, row, rows.window.row(slot), rows.window.footer(slot));
}

/// A block for a token's latent (y = 0) or its KV row (y = 1).
__global__ void __launch_bounds__(kRowThreads)
    finish_rows(const __grid_constant__ ProjectProblem problem, const __grid_constant__ ProjectArgs args,
                const __grid_constant__ Rows rows) {
  extern __shared__ float row[];  // [head_dim]
  __shared__ float partials[32];
  const std::int64_t t = blockIdx.x, position = args.positions.at<std::int32_t>(t);
  const DType activation = activation_dtype(problem.numerics);
  const bool padding = !is_token(args.rope_table, position);
  if (blockIdx.y == 0) return finish_latent(problem, args, rows, t, padding, activation, partials);
  if (!padding) finish_kv(problem, args, rows, t, position, activation, row, partials);
}

/// The same where the latent is bf16 in whole words and the KV row a bf16 row of kv_e4m3_ue8m0: a warp for either.
__global__ void __launch_bounds__(kRowThreads)
    finish_rows_wide(const __grid_constant__ ProjectProblem problem, const __grid_constant__ ProjectArgs args,
                     const __grid_constant__ Rows rows) {
  const std::int64_t t = std::int64_t{blockIdx.x} * (kRowThreads / 32) + threadIdx.x / 32;
  if (t >= args.x.shape[0]) return;
  const int lane = threadIdx.x % 32;
  const std::int64_t position = args.positions.at<std::int32_t>(t);
  const bool padding = !is_token(args.rope_table, position);
  if (blockIdx.y == 0) {
    auto* latent = args.q_latent.row<bf16>(t);
    const int q_rank = problem.q_rank;
    float sum = 0;
#pragma unroll 4
    for (int c = 8 * lane; c < q_rank; c += 8 * 32) sum = squares(load_eight(latent + c), sum);
    const float s = inverse_rms(warp_sum(sum), q_rank, problem.norm_eps);
#pragma unroll 4
    for (int c = 8 * lane; c < q_rank; c += 8 * 32) {
      Eight values = load_eight(latent + c);
      scale_eight(values, load_eight(args.q_norm, c, 8, rows.wide_q_norm), s);
      store_eight(latent + c, padding ? Eight{} : values);
    }
    return;
  }
  const std::int64_t slot = args.slot_mapping.at<std::int64_t>(t);
  if (padding || !rows.window.holds(slot)) return;
  Eight words[2], weights[2];
  for (int k = 0; k < 2; ++k) {
    const int c = column_of(k, lane);
    words[k] = load_eight(static_cast<const bf16*>(rows.kv.data) + t * kWarpRow + c);
    weights[k] = load_eight(args.kv_norm, c, 8, rows.wide_kv_norm);
  }
  finish_kv_row(words, weights, problem.norm_eps, rope_row(args.rope_table, position), problem.rope_dim, lane,
                place_of(rows.window, slot));
}

Status launch_rows(const ProjectProblem& problem, const ProjectArgs& args, const Rows& rows,
                   const RunContext& context) {
  const auto num_tokens = static_cast<unsigned>(args.x.shape[0]);
  const bool wide = rows.wide_latent && args.q_latent.dtype == DType::bf16 &&
                    problem.window_format == CacheFormat::kv_e4m3_ue8m0 && problem.rope_dim % 8 == 0 &&
                    has_wide_rows(args.rope_table) && has_wide_pages(rows.window);
  if (wide) {
    return launch("project", context, finish_rows_wide, dim3(blocks_for(num_tokens, kRowThreads / 32), 2),
                  dim3(kRowThreads), 0, problem, args, rows);
  }
  return launch("project", context, finish_rows, dim3(num_tokens, 2), dim3(kRowThreads),
                problem.head_dim * sizeof(float), problem, args, rows);
}

/// The heads of tokens [first, first + num_tokens): where their product lies, row (t, h) at (t - first, h).
struct Heads {
  TensorView product;  ///< [num_tokens, num_heads, head_dim]
  std::int64_t first;
};

/// A warp for a head of any size; raw heads are only moved. Others: a pass for the sum, one for the rest, each element
/// read again by the lane that stores it.
__global__ void __launch_bounds__(32 * kHeadWarps)
    finish_heads(const __grid_constant__ ProjectProblem problem, const __grid_constant__ ProjectArgs args,
                 const __grid_constant__ Heads heads) {
  const std::uint32_t unit = blockIdx.x * kHeadWarps + threadIdx.x / 32, num_heads = problem.num_heads;
  if (unit >= heads.product.shape[0] * num_heads) return;
  const std::int64_t local = unit / num_heads, h = unit % num_heads, t = heads.first + local;
  const int lane = threadIdx.x % 32, head_dim = problem.head_dim, half = problem.rope_dim / 2,
            plain = head_dim - problem.rope_dim;
  const DType activation = activation_dtype(problem.numerics);
  const std::int64_t position = args.positions.at<std::int32_t>(t);
  const std::int64_t from = local * heads.product.strides[0] + h * heads.product.strides[1];
  const std::int64_t to = t * args.q.strides[0] + h * args.q.strides[1];
  if (problem.q_form == QForm::raw) {
    for (int c = lane; c < head_dim; c += 32) store_element(args.q, to + c, load_element(heads.product, from + c));
    return;
  }
  if (!is_token(args.rope_table, position)) {
    for (int c = lane; c < head_dim; c += 32) store_element(args.q, to + c, 0.0f);
    return;
  }
  const float s =
      head_factor(head_squares(heads.product, from, head_dim, lane), head_dim, problem.norm_eps, activation);
  for (int c = lane; c < plain; c += 32) store_element(args.q, to + c, load_element(heads.product, from + c) * s);
  const float* rope = rope_row(args.rope_table, position);
  for (int i = lane; i < half; i += 32) {
    const int c = plain + 2 * i;
    float even = rounded(load_element(heads.product, from + c) * s, activation);
    float odd = rounded(load_element(heads.product, from + c + 1) * s, activation);
    rotate_pair(even, odd, rope[i], rope[half + i]);
    store_element(args.q, to + c, even);
    store_element(args.q, to + c + 1, odd);
  }
}

/// The same for bf16 heads of up to kWarpRow elements in whole 16-byte words: two words a lane, read once.
__global__ void __launch_bounds__(32 * kHeadWarps)
    finish_heads_wide(const __grid_constant__ ProjectProblem problem, const __grid_constant__ ProjectArgs args,
                      const __grid_constant__ Heads heads) {
  const std::uint32_t unit = blockIdx.x * kHeadWarps + threadIdx.x / 32, num_heads = problem.num_heads;
  if (unit >= heads.product.shape[0] * num_heads) return;
  const std::int64_t local = unit / num_heads, h = unit % num_heads, t = heads.first + local;
  const int lane = threadIdx.x % 32, head_dim = problem.head_dim, plain = head_dim - problem.rope_dim;
  const std::int64_t position = args.positions.at<std::int32_t>(t);
  const HeadWords head = load_head(heads.product.row<const bf16>(local, h), head_dim, lane);
  bf16* to = args.q.row<bf16>(t, h);
  const bool padding = !is_token(args.rope_table, position);
  const float s = head_factor(head_squares(head), head_dim, problem.norm_eps, DType::bf16);
  for (int k = 0; k < 2; ++k) {
    const int c = column_of(k, lane);
    if (c >= head_dim) break;
    Eight word = head.words[k];
    if (!padding) finish_query(word, c, s, rope_row(args.rope_table, position), problem.rope_dim, plain);
    store_eight(to + c, padding ? Eight{} : word);
  }
}

Status launch_heads(const ProjectProblem& problem, const ProjectArgs& args, const Heads& heads,
                    const RunContext& context) {
  const bool wide = problem.q_form == QForm::final && has_wide_heads(heads.product, args.rope_table) &&
                    has_wide_heads(args.q, args.rope_table);
  const unsigned blocks = blocks_for(heads.product.shape[0] * problem.num_heads, kHeadWarps);
  return launch("project", context, wide ? finish_heads_wide : finish_heads, dim3(blocks), dim3(32 * kHeadWarps), 0,
                problem, args, heads);
}

/// `rows` [n, num_heads * head_dim] as heads.
TensorView as_heads(const ProjectProblem& problem, TensorView rows) {
  rows.rank = 3;
  rows.shape = {rows.shape[0], problem.num_heads, problem.head_dim};
  rows.strides = {rows.strides[0], problem.head_dim, 1};
  return rows;
}
/// `heads`, dense within a token, as rows of a product.
TensorView as_rows(TensorView heads) {
  heads.rank = 2;
  heads.shape = {heads.shape[0], heads.shape[1] * heads.shape[2]};
  heads.strides = {heads.strides[0], 1};
  return heads;
}

}  // namespace

Result<Prepared> prepare_project_simt(const ProjectProblem& problem, const Device& device, const PlanOptions& options) {
  const auto product = [&](DType weight_dtype, std::int64_t in_dim, std::int64_t out_dim) {
    return plan_linear(projection(problem.numerics, weight_dtype, problem.num_tokens, in_dim, out_dim), device,
                       nested(options));
  };
  auto linears = std::make_shared<Linears>();
  FATHOM_ASSIGN(linears->wq_a, product(problem.wq_a_dtype, problem.hidden_size, problem.q_rank));
  FATHOM_ASSIGN(linears->wq_b, product(problem.wq_b_dtype, problem.q_rank, std::int64_t{problem.num_heads} * problem.head_dim));
  FATHOM_ASSIGN(linears->wkv, product(problem.wkv_dtype, problem.hidden_size, problem.head_dim));
  Scratch scratch;
  lay_out(problem, device, *linears, scratch, {});
  const WorkspaceSize nested_size = largest({&linears->wq_a, &linears->wq_b, &linears->wkv});
  return Prepared{{scratch.used(), nested_size.counters, nested_size.schedule}, linears, {linears->wq_a, linears->wq_b, linears->wkv}};
}

Status project_simt(const ProjectProblem& problem, const ProjectArgs& args, const RunContext& context) {
  const auto& linears = *static_cast<const Linears*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, linears, scratch, context.workspace);
  const std::int64_t num_tokens = args.x.shape[0];
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.window_format, problem.head_dim));
  Rows rows{first_rows(pieces.kv, num_tokens), {},
            has_wide_rows(args.q_latent),      has_wide_rows(args.q_norm),
            has_wide_rows(pieces.kv),          has_wide_rows(args.kv_norm)};
  FATHOM_ASSIGN(rows.window,
                paged_cache("project", "window_cache", args.window_cache, layout, problem.window_page_size));

  FATHOM_TRY(linear(linears.wq_a, {args.x, args.wq_a, args.wq_a_scale, args.q_latent}, pieces.linear, context.stream));
  FATHOM_TRY(linear(linears.wkv, {args.x, args.wkv, args.wkv_scale, rows.kv}, pieces.linear, context.stream));
  FATHOM_TRY(launch_rows(problem, args, rows, context));

  const bool dense = problem.num_heads == 1 || args.q.strides[1] == problem.head_dim;
  const std::int64_t tile = dense ? num_tokens : kPackedTokens;
  for (std::int64_t first = 0; first < num_tokens; first += tile) {
    const std::int64_t count = std::min(tile, num_tokens - first);
    const TensorView product = dense ? as_rows(args.q) : first_rows(pieces.heads, count);
    FATHOM_TRY(linear(linears.wq_b, {rows_of(args.q_latent, first, count), args.wq_b, args.wq_b_scale, product},
                      pieces.linear, context.stream));
    if (dense && problem.q_form == QForm::raw) continue;  // there it lies
    FATHOM_TRY(launch_heads(problem, args, {dense ? args.q : as_heads(problem, product), first}, context));
  }
  return {};
}

}  // namespace fathom
