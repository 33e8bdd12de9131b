// compress on the CPU: both projections into one row per token (the layout of a state row), then every closing token
// pools its group. State rows are stored last, so that a ring of them may wrap within one call.
#include <cmath>
#include <limits>

#include "cache/row_codec.h"
#include "compress/compress_impl.h"
#include "core/parallel.h"
#include "linear/linear_problem.h"
#include "simd/rows.h"

namespace fathom {
namespace {

struct Pieces {
  float* rows;         ///< [num_tokens, 2 * width]: kv, then score with ape
  const float** pool;  ///< [threads, state_tokens]: the rows of the entry in hand
  float* loaded;       ///< [threads, state_tokens, 2 * width]: rows read back from state pages
  float* entry;        ///< [threads, 3 * dim]: entry, largest scores, sums of weights
  std::int32_t* closing;  ///< [num_tokens]: those that close a group
  Workspace linear;
};

Pieces lay_out(const CompressProblem& problem, const Device& device, const LinearPlan& product, Scratch& scratch) {
  const std::int64_t width = problem.width(), threads = device.num_threads();
  Pieces pieces;
  pieces.rows = scratch.take<float>(problem.num_tokens * 2 * width);
  pieces.pool = scratch.take<const float*>(threads * problem.state_tokens());
  pieces.loaded = scratch.take<float>(threads * problem.state_tokens() * 2 * width);
  pieces.entry = scratch.take<float>(threads * 3 * problem.dim);
  pieces.closing = scratch.take<std::int32_t>(problem.num_tokens);
  pieces.linear = scratch.take_workspace(largest({&product}));
  return pieces;
}

/// What pooling reads: this call's rows and the pages of older ones.
struct Step {
  const CompressProblem& problem;
  const CompressArgs& args;
  PagedCacheView cache, state;

  std::int64_t position(std::int64_t t) const { return args.positions.at<std::int32_t>(t); }
  std::int64_t seq(std::int64_t t) const { return args.seq_ids.at<std::int32_t>(t); }
  bool closes(std::int64_t t) const {
    return is_token(args.rope_table, position(t)) && (position(t) + 1) % problem.ratio == 0 && cache.holds(args.slot_mapping.at<std::int64_t>(t));
  }

  /// The state row at position `at` of token t's sequence: from this call if token `token` is it, else from its page;
  /// null if there is none.
  const float* row_at(const Pieces& pieces, std::int64_t t, std::int64_t token, std::int64_t at, float* loaded) const {
    if (at < 0) return nullptr;
    if (token >= 0 && seq(token) == seq(t) && position(token) == at) return pieces.rows + token * 2 * problem.width();
    const TensorView& table = args.state_block_table;
    if (seq(t) < 0 || seq(t) >= table.shape[0]) return nullptr;
    const std::int64_t slot = slot_through(table.row<std::int32_t>(seq(t)), table.shape[1], problem.state_page_size, at);
    if (!state.holds(slot)) return nullptr;
    // A state row is f32 as it lies; only a cache that begins between two floats needs a copy.
    const std::byte* row = state.row(slot);
    if (reinterpret_cast<std::uintptr_t>(row) % alignof(float) == 0) return reinterpret_cast<const float*>(row);
    decode_row(state.layout, row, state.footer(slot), loaded);
    return loaded;
  }
};

/// Softmax over the rows, per channel: the largest score first, then weights relative to it.
void pool(const CompressProblem& problem, const float* const* rows, float* entry, float* most, float* sum) {
  const std::int64_t width = problem.width(), dim = problem.dim;
  std::fill_n(entry, dim, 0.0f);
  std::fill_n(sum, dim, 0.0f);
  std::fill_n(most, dim, -std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < problem.state_tokens(); ++i) {
    if (rows[i] == nullptr) continue;
    // The group before gives its carry half, the closing group its own half.
    const std::int64_t first = problem.overlap != 0 && i >= problem.ratio ? dim : 0;
    simd::keep_largest(rows[i] + width + first, dim, most);
  }
  for (std::int64_t i = 0; i < problem.state_tokens(); ++i) {
    if (rows[i] == nullptr) continue;
    const std::int64_t first = problem.overlap != 0 && i >= problem.ratio ? dim : 0;
    simd::add_weighted(rows[i] + width + first, most, rows[i] + first, dim, sum, entry);
  }
  simd::divide_row(entry, sum, dim);
}

void close_entry(const Step& step, const Pieces& pieces, std::int64_t t, int part) {
  const CompressProblem& problem = step.problem;
  const std::int64_t position = step.position(t), rows = problem.state_tokens(), dim = problem.dim;
  const std::int64_t slot = step.args.slot_mapping.at<std::int64_t>(t);
  const float** pooled = pieces.pool + part * rows;
  float* loaded = pieces.loaded + part * rows * 2 * problem.width();
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t back = rows - 1 - i;
    pooled[i] = step.row_at(pieces, t, t - back, position - back, loaded + i * 2 * problem.width());
  }
  float* entry = pieces.entry + part * 3 * dim;
  pool(problem, pooled, entry, entry + dim, entry + 2 * dim);

  const DType activation = activation_dtype(problem.numerics);
  round_row(entry, dim, activation);
  rms_norm(entry, step.args.norm, dim, problem.norm_eps);
  round_row(entry, dim, activation);
  rotate(entry + dim - problem.rope_dim, problem.rope_dim, rope_row(step.args.rope_table, position + 1 - problem.ratio));
  round_row(entry, dim, activation);
  if (problem.hadamard != 0) {
    hadamard(entry, dim);
    round_row(entry, dim, activation);
  }
  encode_row(step.cache.layout, entry, step.cache.row(slot), step.cache.footer(slot));
}

}  // namespace

Result<Prepared> prepare_compress_cpu(const CompressProblem& problem, const Device& device, const PlanOptions& options) {
  // The compressor's product is never quantised and never rounded: bf16 weights, widened activations, f32 out.
  LinearProblem product = projection(problem.numerics, problem.weight_dtype, problem.num_tokens, problem.hidden_size, problem.width());
  product.out_dtype = DType::f32;
  auto plan = std::make_shared<LinearPlan>();
  FATHOM_ASSIGN(*plan, plan_linear(product, device, nested(options)));
  Scratch scratch;
  lay_out(problem, device, *plan, scratch);
  return Prepared{{.scratch = scratch.used()}, plan, {*plan}};
}

Status compress_cpu(const CompressProblem& problem, const CompressArgs& args, const RunContext& context) {
  const auto& product = *static_cast<const LinearPlan*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, product, scratch);
  const std::int64_t num_tokens = args.x.shape[0], width = problem.width();
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.format, problem.dim));
  FATHOM_ASSIGN(const RowLayout state_layout, row_layout(CacheFormat::state_f32, static_cast<int>(2 * width)));
  Step step{problem, args, {}, {}};
  FATHOM_ASSIGN(step.cache, paged_cache("compress", "cache", args.cache, layout, problem.page_size));
  FATHOM_ASSIGN(step.state, paged_cache("compress", "state_cache", args.state_cache, state_layout, problem.state_page_size));

  TensorView kv = view(pieces.rows, DType::f32, {num_tokens, width});
  kv.strides[0] = 2 * width;
  TensorView score = kv;
  score.data = pieces.rows + width;
  FATHOM_TRY(linear(product, {args.x, args.wkv, {}, kv}, pieces.linear));
  FATHOM_TRY(linear(product, {args.x, args.wgate, {}, score}, pieces.linear));
  parallel_for(context.device, num_tokens, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      if (!is_token(args.rope_table, step.position(t))) continue;
      float* row = pieces.rows + t * 2 * width + width;
      const std::int64_t at = step.position(t) % problem.ratio * args.ape.strides[0];
      if (args.ape.dtype == DType::f32) {
        const float* ape = static_cast<const float*>(args.ape.data) + at;
        for (std::int64_t c = 0; c < width; ++c) row[c] += ape[c];
      } else {
        const bf16* ape = static_cast<const bf16*>(args.ape.data) + at;
        for (std::int64_t c = 0; c < width; ++c) row[c] += to_f32(ape[c]);
      }
    }
  });
  std::int64_t num_closing = 0;
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    if (step.closes(t)) pieces.closing[num_closing++] = static_cast<std::int32_t>(t);
  }
  parallel_for(context.device, num_closing, 1, [&](std::int64_t begin, std::int64_t end, int part) {
    for (std::int64_t i = begin; i < end; ++i) close_entry(step, pieces, pieces.closing[i], part);
  });
  parallel_for(context.device, num_tokens, 64, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t slot = args.state_slot_mapping.at<std::int64_t>(t);
      if (!is_token(args.rope_table, step.position(t)) || !step.state.holds(slot)) continue;
      encode_row(state_layout, pieces.rows + t * 2 * width, step.state.row(slot), step.state.footer(slot));
    }
  });
  return {};
}

}  // namespace fathom
