// layer: project -> compress -> index -> attend -> output. Composition only.
#include "fathom/layer.h"

#include <cmath>

#include "core/scratch.h"
#include "layer/layer_impl.h"

namespace fathom {
namespace {

/// The stages' plans; those the layer kind lacks stay empty.
struct Stages {
  ProjectPlan project;
  CompressPlan compress, compress_index;
  IndexQueryPlan index_query;
  IndexPlan index;
  AttendPlan attend;
  OutputPlan output;
};

bool has_entries(const LayerProblem& problem) { return problem.compress_ratio > 0; }
bool has_index(const LayerProblem& problem) { return problem.compress_ratio == 4; }

/// What passes from stage to stage.
struct Pieces {
  TensorView q_latent, q, index_q, index_q_scale, index_weights, topk_indices, attn_out;
  Workspace stage;
};

Pieces lay_out(const LayerProblem& problem, const Stages& stages, std::int64_t num_tokens, Scratch& scratch) {
  const DType activation = activation_dtype(problem.numerics);
  // Room for the plan's capacity, shaped for the tokens that came.
  const auto take = [&](DType dtype, std::initializer_list<std::int64_t> row) {
    std::int64_t width = 1;
    for (const std::int64_t extent : row) width *= extent;
    void* data = scratch.take<std::byte>(bytes_of(dtype, problem.num_tokens * width));
    return row.size() == 1 ? view(data, dtype, {num_tokens, *row.begin()})
                           : view(data, dtype, {num_tokens, *row.begin(), *(row.begin() + 1)});
  };
  Pieces pieces;
  pieces.q_latent = take(activation, {problem.q_rank});
  pieces.q = take(activation, {problem.num_heads, problem.head_dim});
  pieces.attn_out = take(activation, {problem.num_heads, problem.head_dim});
  if (has_index(problem)) {
    const DType q_dtype = index_query_dtype(problem.index_format);
    pieces.index_q = take(q_dtype, {problem.index_heads, problem.index_dim});
    if (q_dtype == DType::e2m1x2) pieces.index_q_scale = take(DType::ue8m0, {problem.index_heads, problem.index_dim / 32});
    pieces.index_weights = take(DType::f32, {problem.index_heads});
    pieces.topk_indices = take(DType::i32, {problem.index_topk});
  }
  pieces.stage = scratch.take_workspace(largest({&stages.project, &stages.compress, &stages.compress_index, &stages.index_query,
                                                 &stages.index, &stages.attend, &stages.output}));
  return pieces;
}

CompressProblem compress_problem(const LayerProblem& problem, bool for_index) {
  return {.num_tokens = problem.num_tokens,
          .num_seqs = problem.num_seqs,
          .hidden_size = problem.hidden_size,
          .dim = for_index ? problem.index_dim : problem.head_dim,
          .rope_dim = problem.rope_dim,
          .ratio = problem.compress_ratio,
          .overlap = has_index(problem) ? 1 : 0,
          .hadamard = for_index ? 1 : 0,
          .numerics = problem.numerics,
          .weight_dtype = problem.compress_weight_dtype,
          .format = for_index ? problem.index_format : problem.entries_format,
          .page_size = for_index ? problem.index_page_size : problem.entries_page_size,
          .state_page_size = for_index ? problem.index_state_page_size : problem.state_page_size,
          .norm_eps = problem.norm_eps};
}

AttendProblem attend_problem(const LayerProblem& problem) {
  const DType activation = activation_dtype(problem.numerics);
  AttendProblem attend;
  attend.num_tokens = problem.num_tokens;
  attend.num_seqs = problem.num_seqs;
  attend.num_heads = problem.num_heads;
  attend.head_dim = attend.value_dim = problem.head_dim;
  attend.q_dtype = attend.out_dtype = activation;
  attend.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem.head_dim)));
  attend.window_rows = RowsBy::range;
  attend.window_format = problem.window_format;
  attend.window_page_size = problem.window_page_size;
  attend.window_width = problem.window;
  attend.entries_rows = has_index(problem) ? RowsBy::list : has_entries(problem) ? RowsBy::range : RowsBy::none;
  attend.entries_format = problem.entries_format;
  attend.entries_page_size = problem.entries_page_size;
  attend.entries_width = has_index(problem) ? problem.index_topk : has_entries(problem) ? problem.max_entries : 0;
  return attend;
}

Status run_compress(const LayerProblem& problem, const LayerArgs& args, const Stages& stages, const Workspace& workspace, Stream stream) {
  const LayerWeights& w = args.weights;
  const Batch& batch = args.batch;
  if (has_entries(problem)) {
    FATHOM_TRY(compress(stages.compress,
                        {args.x, w.compress_wkv, w.compress_wgate, w.compress_ape, w.compress_norm, args.rope_table, batch.positions,
                         batch.seq_ids, batch.entry_slots, batch.state_slots, batch.state_table, args.caches.state, args.caches.entries},
                        workspace, stream));
  }
  if (!has_index(problem)) return {};
  return compress(stages.compress_index,
                  {args.x, w.index_wkv, w.index_wgate, w.index_ape, w.index_norm, args.rope_table, batch.positions, batch.seq_ids,
                   batch.index_slots, batch.index_state_slots, batch.index_state_table, args.caches.index_state, args.caches.index_keys},
                  workspace, stream);
}

Status run_index(const LayerProblem& problem, const LayerArgs& args, const Stages& stages, const Pieces& pieces, Stream stream) {
  if (!has_index(problem)) return {};
  const LayerWeights& w = args.weights;
  const Batch& batch = args.batch;
  FATHOM_TRY(index_query(stages.index_query,
                         {args.x, pieces.q_latent, w.index_wq_b, w.index_wq_b_scale, w.index_weights_proj, args.rope_table,
                          batch.positions, pieces.index_q, pieces.index_q_scale, pieces.index_weights},
                         pieces.stage, stream));
  return index(stages.index,
               {pieces.index_q, pieces.index_q_scale, pieces.index_weights, args.caches.index_keys, batch.index_table, batch.entries_table,
                batch.positions, batch.seq_ids, args.topk_entries, pieces.topk_indices, args.index_scores},
               pieces.stage, stream);
}

Status run_attend(const LayerProblem& problem, const LayerArgs& args, const Stages& stages, const Pieces& pieces,
                  const TensorView& attn_out, Stream stream) {
  const Batch& batch = args.batch;
  AttendArgs attend_args;
  attend_args.q = pieces.q;
  attend_args.seq_ids = batch.seq_ids;
  attend_args.window = {args.caches.window, {}, {}, batch.window_begin, batch.window_end, batch.window_table};
  if (has_index(problem)) {
    attend_args.entries = {args.caches.entries, pieces.topk_indices, {}, {}, {}, {}};
  } else if (has_entries(problem)) {
    attend_args.entries = {args.caches.entries, {}, {}, {}, batch.num_visible, batch.entries_table};
  }
  attend_args.attn_sink = args.weights.attn_sink;
  attend_args.out = attn_out;
  return attend(stages.attend, attend_args, pieces.stage, stream);
}

}  // namespace

Result<Prepared> prepare_layer(const LayerProblem& problem, const Device& device, const PlanOptions& options) {
  auto stages = std::make_shared<Stages>();
  const PlanOptions inner = nested(options);
  FATHOM_ASSIGN(stages->project, plan_project({.num_tokens = problem.num_tokens, .hidden_size = problem.hidden_size,
                                               .num_heads = problem.num_heads, .head_dim = problem.head_dim, .rope_dim = problem.rope_dim,
                                               .q_rank = problem.q_rank, .numerics = problem.numerics, .weight_dtype = problem.weight_dtype,
                                               .window_format = problem.window_format, .window_page_size = problem.window_page_size,
                                               .norm_eps = problem.norm_eps}, device, inner));
  if (has_entries(problem)) {
    FATHOM_ASSIGN(stages->compress, plan_compress(compress_problem(problem, false), device, inner));
  }
  if (has_index(problem)) {
    FATHOM_ASSIGN(stages->compress_index, plan_compress(compress_problem(problem, true), device, inner));
    FATHOM_ASSIGN(stages->index_query, plan_index_query({.num_tokens = problem.num_tokens, .hidden_size = problem.hidden_size,
                                                         .q_rank = problem.q_rank, .index_heads = problem.index_heads,
                                                         .index_dim = problem.index_dim, .rope_dim = problem.rope_dim,
                                                         .numerics = problem.numerics, .weight_dtype = problem.weight_dtype,
                                                         .proj_dtype = problem.compress_weight_dtype, .format = problem.index_format},
                                                        device, inner));
    FATHOM_ASSIGN(stages->index, plan_index({.num_tokens = problem.num_tokens, .num_seqs = problem.num_seqs,
                                             .index_heads = problem.index_heads, .index_dim = problem.index_dim, .topk = problem.index_topk,
                                             .compress_ratio = problem.compress_ratio, .format = problem.index_format,
                                             .page_size = problem.index_page_size, .entries_page_size = problem.entries_page_size,
                                             .max_entries = problem.max_entries}, device, inner));
  }
  FATHOM_ASSIGN(stages->attend, plan_attend(attend_problem(problem), device, inner));
  FATHOM_ASSIGN(stages->output, plan_output({.num_tokens = problem.num_tokens, .hidden_size = problem.hidden_size,
                                             .num_heads = problem.num_heads, .head_dim = problem.head_dim, .rope_dim = problem.rope_dim,
                                             .output_groups = problem.output_groups, .output_rank = problem.output_rank,
                                             .numerics = problem.numerics, .wo_a_dtype = problem.wo_a_dtype,
                                             .wo_b_dtype = problem.weight_dtype, .out_dtype = problem.out_dtype}, device, inner));
  Scratch scratch;
  lay_out(problem, *stages, problem.num_tokens, scratch);
  return Prepared{{.scratch = scratch.used()}, std::move(stages)};
}

Status run_layer(const LayerProblem& problem, const LayerArgs& args, const RunContext& context) {
  const auto& stages = *static_cast<const Stages*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, stages, args.x.shape[0], scratch);
  const TensorView attn_out = args.attn_out.is_absent() ? pieces.attn_out : args.attn_out;
  const LayerWeights& w = args.weights;
  const Batch& batch = args.batch;

  FATHOM_TRY(project(stages.project,
                     {args.x, w.wq_a, w.wq_a_scale, w.q_norm, w.wq_b, w.wq_b_scale, w.wkv, w.wkv_scale, w.kv_norm, args.rope_table,
                      batch.positions, batch.window_slots, args.caches.window, pieces.q_latent, pieces.q},
                     pieces.stage, context.stream));
  FATHOM_TRY(run_compress(problem, args, stages, pieces.stage, context.stream));
  FATHOM_TRY(run_index(problem, args, stages, pieces, context.stream));
  FATHOM_TRY(run_attend(problem, args, stages, pieces, attn_out, context.stream));
  return output(stages.output, {attn_out, args.rope_table, batch.positions, w.wo_a, w.wo_a_scale, w.wo_b, w.wo_b_scale, args.out},
                pieces.stage, context.stream);
}

}  // namespace fathom
