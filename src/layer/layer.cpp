// layer: project -> compress -> index -> attend -> output. Composition only.
#include "fathom/layer.h"

#include <cmath>

#include "core/scratch.h"
#include "layer/layer_impl.h"

namespace fathom {
namespace {

bool in_every_layer(const LayerProblem&) { return true; }
bool has_entries(const LayerProblem& problem) { return problem.compress_ratio > 0; }
bool has_index(const LayerProblem& problem) { return problem.compress_ratio == 4; }

/// What queries and attention results are where they pass from stage to stage.
struct Forms {
  QForm q = QForm::final;
  OutForm out = OutForm::plain;
};

/// What passes from stage to stage.
struct Pieces {
  TensorView q_latent, q, index_q, index_q_scale, index_weights, topk_indices, attn_out;
  Workspace stage;
};

Pieces lay_out(const LayerProblem& problem, const WorkspaceSize& stage, std::int64_t num_tokens, const Device& device,
               const Workspace& workspace, Scratch& scratch) {
  const DType activation = activation_dtype(problem.numerics);
  // Room for the plan's capacity, shaped for the tokens that came.
  const auto take = [&](DType dtype, std::initializer_list<std::int64_t> row) {
    std::int64_t width = 1;
    for (const std::int64_t extent : row) width *= extent;
    void* data = scratch.take<std::byte>(bytes_of(dtype, problem.num_tokens * width));
    return row.size() == 1 ? view(data, dtype, {num_tokens, *row.begin()}, device)
                           : view(data, dtype, {num_tokens, *row.begin(), *(row.begin() + 1)}, device);
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
  pieces.stage = scratch.take_workspace(stage, workspace);
  return pieces;
}

/// One run of a layer, as its stages see it.
struct Step {
  const LayerProblem& problem;
  const LayerArgs& args;
  Forms forms;
  Pieces pieces;
  Stream stream;
};

// ---- the stages: how each is planned and run -------------------------------------------------------------------------

template <class StagePlan>
Result<AnyPlan> any_plan(Result<StagePlan> plan) {
  if (!plan.ok()) return plan.status();
  return AnyPlan(std::move(plan).value());
}

Result<AnyPlan> plan_queries_and_window(const LayerProblem& problem, const Forms& forms, const Device& device,
                                        const PlanOptions& options) {
  return any_plan(plan_project({.num_tokens = problem.num_tokens,
                                .hidden_size = problem.hidden_size,
                                .num_heads = problem.num_heads,
                                .head_dim = problem.head_dim,
                                .rope_dim = problem.rope_dim,
                                .q_rank = problem.q_rank,
                                .numerics = problem.numerics,
                                .wq_a_dtype = problem.wq_a_dtype,
                                .wq_b_dtype = problem.wq_b_dtype,
                                .wkv_dtype = problem.wkv_dtype,
                                .window_format = problem.window_format,
                                .window_page_size = problem.window_page_size,
                                .norm_eps = problem.norm_eps,
                                .q_form = forms.q},
                               device, options));
}

Status run_queries_and_window(const AnyPlan& plan, const Step& step) {
  const LayerWeights& w = step.args.weights;
  const Batch& batch = step.args.batch;
  return project(ProjectPlan(plan),
                 {step.args.x, w.wq_a, w.wq_a_scale, w.q_norm, w.wq_b, w.wq_b_scale, w.wkv, w.wkv_scale, w.kv_norm, step.args.rope_table,
                  batch.positions, batch.window_slots, step.args.caches.window, step.pieces.q_latent, step.pieces.q},
                 step.pieces.stage, step.stream);
}

CompressProblem compress_problem(const LayerProblem& problem) {
  return {.num_tokens = problem.num_tokens,
          .num_seqs = problem.num_seqs,
          .hidden_size = problem.hidden_size,
          .dim = problem.head_dim,
          .rope_dim = problem.rope_dim,
          .ratio = problem.compress_ratio,
          .overlap = has_index(problem) ? 1 : 0,
          .numerics = problem.numerics,
          .weight_dtype = problem.compress_weight_dtype,
          .format = problem.entries_format,
          .page_size = problem.entries_page_size,
          .state_page_size = problem.state_page_size,
          .norm_eps = problem.norm_eps};
}

Result<AnyPlan> plan_entries(const LayerProblem& problem, const Forms&, const Device& device,
                             const PlanOptions& options) {
  return any_plan(plan_compress(compress_problem(problem), device, options));
}

Status run_entries(const AnyPlan& plan, const Step& step) {
  const LayerWeights& w = step.args.weights;
  const Batch& batch = step.args.batch;
  return compress(CompressPlan(plan),
                  {step.args.x, w.compress_wkv, w.compress_wgate, w.compress_ape, w.compress_norm, step.args.rope_table, batch.positions,
                   batch.seq_ids, batch.entry_slots, batch.state_slots, batch.state_table, step.args.caches.state, step.args.caches.entries},
                  step.pieces.stage, step.stream);
}

Result<AnyPlan> plan_index_keys(const LayerProblem& problem, const Forms&, const Device& device,
                                const PlanOptions& options) {
  CompressProblem keys = compress_problem(problem);
  keys.dim = problem.index_dim;
  keys.hadamard = 1;
  keys.format = problem.index_format;
  keys.page_size = problem.index_page_size;
  keys.state_page_size = problem.index_state_page_size;
  return any_plan(plan_compress(keys, device, options));
}

Status run_index_keys(const AnyPlan& plan, const Step& step) {
  const LayerWeights& w = step.args.weights;
  const Batch& batch = step.args.batch;
  return compress(CompressPlan(plan),
                  {step.args.x, w.index_wkv, w.index_wgate, w.index_ape, w.index_norm, step.args.rope_table, batch.positions, batch.seq_ids,
                   batch.index_slots, batch.index_state_slots, batch.index_state_table, step.args.caches.index_state,
                   step.args.caches.index_keys},
                  step.pieces.stage, step.stream);
}

Result<AnyPlan> plan_index_queries(const LayerProblem& problem, const Forms&, const Device& device,
                                   const PlanOptions& options) {
  return any_plan(plan_index_query({.num_tokens = problem.num_tokens, .hidden_size = problem.hidden_size, .q_rank = problem.q_rank,
                                    .index_heads = problem.index_heads, .index_dim = problem.index_dim, .rope_dim = problem.rope_dim,
                                    .numerics = problem.numerics, .wq_b_dtype = problem.index_wq_b_dtype,
                                    .weights_proj_dtype = problem.compress_weight_dtype, .format = problem.index_format}, device, options));
}

Status run_index_queries(const AnyPlan& plan, const Step& step) {
  const LayerWeights& w = step.args.weights;
  const Pieces& pieces = step.pieces;
  return index_query(IndexQueryPlan(plan),
                     {step.args.x, pieces.q_latent, w.index_wq_b, w.index_wq_b_scale, w.index_weights_proj, step.args.rope_table,
                      step.args.batch.positions, pieces.index_q, pieces.index_q_scale, pieces.index_weights},
                     pieces.stage, step.stream);
}

Result<AnyPlan> plan_picks(const LayerProblem& problem, const Forms&, const Device& device,
                           const PlanOptions& options) {
  return any_plan(plan_index({.num_tokens = problem.num_tokens, .num_seqs = problem.num_seqs, .index_heads = problem.index_heads,
                              .index_dim = problem.index_dim, .topk = problem.index_topk, .compress_ratio = problem.compress_ratio,
                              .format = problem.index_format, .page_size = problem.index_page_size,
                              .entries_page_size = problem.entries_page_size, .max_entries = problem.max_entries}, device, options));
}

Status run_picks(const AnyPlan& plan, const Step& step) {
  const Pieces& pieces = step.pieces;
  const Batch& batch = step.args.batch;
  return index(IndexPlan(plan),
               {pieces.index_q, pieces.index_q_scale, pieces.index_weights, step.args.caches.index_keys, batch.index_table,
                batch.entries_table, batch.positions, batch.seq_ids, step.args.topk_entries, pieces.topk_indices, step.args.index_scores},
               pieces.stage, step.stream);
}

Result<AnyPlan> plan_attention(const LayerProblem& problem, const Forms& forms, const Device& device,
                               const PlanOptions& options) {
  AttendProblem attend;
  attend.num_tokens = problem.num_tokens;
  attend.num_seqs = problem.num_seqs;
  attend.num_heads = problem.num_heads;
  attend.head_dim = attend.value_dim = problem.head_dim;
  attend.q_dtype = attend.out_dtype = activation_dtype(problem.numerics);
  attend.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem.head_dim)));
  attend.window_rows = RowsBy::range;
  attend.window_format = problem.window_format;
  attend.window_page_size = problem.window_page_size;
  attend.window_width = problem.window;
  attend.entries_rows = has_index(problem) ? RowsBy::list : has_entries(problem) ? RowsBy::range : RowsBy::none;
  attend.entries_format = problem.entries_format;
  attend.entries_page_size = problem.entries_page_size;
  attend.entries_width = has_index(problem) ? problem.index_topk : has_entries(problem) ? problem.max_entries : 0;
  attend.split = problem.split;
  attend.q_form = forms.q;
  attend.out_form = forms.out;
  attend.rope_dim = problem.rope_dim;
  attend.norm_eps = problem.norm_eps;
  return any_plan(plan_attend(attend, device, options));
}

Status run_attention(const AnyPlan& plan, const Step& step) {
  const LayerArgs& args = step.args;
  const Batch& batch = args.batch;
  AttendArgs attend_args;
  attend_args.q = step.pieces.q;
  attend_args.seq_ids = batch.seq_ids;
  attend_args.window = {args.caches.window, {}, {}, batch.window_begin, batch.window_end, batch.window_table};
  if (has_index(step.problem)) {
    attend_args.entries = {args.caches.entries, step.pieces.topk_indices, {}, {}, {}, {}};
  } else if (has_entries(step.problem)) {
    attend_args.entries = {args.caches.entries, {}, {}, {}, batch.num_visible, batch.entries_table};
  }
  attend_args.attn_sink = args.weights.attn_sink;
  attend_args.out = step.pieces.attn_out;
  if (step.forms.q == QForm::raw || step.forms.out != OutForm::plain) {
    attend_args.rope_table = args.rope_table;
    attend_args.positions = batch.positions;
  }
  return attend(AttendPlan(plan), attend_args, step.pieces.stage, step.stream);
}

Result<AnyPlan> plan_projection_back(const LayerProblem& problem, const Forms& forms, const Device& device,
                                     const PlanOptions& options) {
  return any_plan(plan_output({.num_tokens = problem.num_tokens,
                               .hidden_size = problem.hidden_size,
                               .num_heads = problem.num_heads,
                               .head_dim = problem.head_dim,
                               .rope_dim = problem.rope_dim,
                               .output_groups = problem.output_groups,
                               .output_rank = problem.output_rank,
                               .numerics = problem.numerics,
                               .wo_a_dtype = problem.wo_a_dtype,
                               .wo_b_dtype = problem.wo_b_dtype,
                               .out_dtype = problem.out_dtype,
                               .attn_form = forms.out},
                              device, options));
}

Status run_projection_back(const AnyPlan& plan, const Step& step) {
  const LayerWeights& w = step.args.weights;
  return output(OutputPlan(plan),
                {step.pieces.attn_out, step.args.rope_table, step.args.batch.positions, w.wo_a, w.wo_a_scale, w.wo_b, w.wo_b_scale,
                 step.args.out},
                step.pieces.stage, step.stream);
}

// ---- the order ---------------------------------------------------------------------------------------------------------

struct StageKind {
  const char* title;
  bool (*is_in)(const LayerProblem& problem);
  Result<AnyPlan> (*plan)(const LayerProblem& problem, const Forms& forms, const Device& device,
                          const PlanOptions& options);
  Status (*run)(const AnyPlan& plan, const Step& step);
  bool has_attn_out = false;  ///< writes or reads it
};
constexpr StageKind kStages[] = {
    {"project", in_every_layer, plan_queries_and_window, run_queries_and_window},
    {"compress (entries)", has_entries, plan_entries, run_entries},
    {"compress (index keys)", has_index, plan_index_keys, run_index_keys},
    {"index_query", has_index, plan_index_queries, run_index_queries},
    {"index", has_index, plan_picks, run_picks},
    {"attend", in_every_layer, plan_attention, run_attention, true},
    {"output", in_every_layer, plan_projection_back, run_projection_back, true},
};

/// The stages that a planned layer has: what is shown of them, and how each runs.
struct Stages {
  Forms forms;
  std::vector<LayerStage> planned;
  /// As they run where the caller wants to see attn_out, which is plain; empty for those that run as planned.
  std::vector<AnyPlan> with_attn_out;
  std::vector<Status (*)(const AnyPlan& plan, const Step& step)> run;
  WorkspaceSize largest;  ///< of what any of them asks for

  void make_room_for(const AnyPlan& plan) {
    const WorkspaceSize needs = plan.workspace_size();
    largest = {std::max(largest.scratch, needs.scratch), std::max(largest.counters, needs.counters),
               std::max(largest.schedule, needs.schedule)};
  }
};

/// Raw queries and unrotated results spare a GPU two passes over them. They are taken where attend runs them by the
/// implementation that it would run anyway.
Result<Forms> choose_forms(const LayerProblem& problem, const Device& device, const PlanOptions& options) {
  const Forms fused{QForm::raw, OutForm::unrotated};
  if (device.kind() != DeviceKind::cuda) return Forms{};
  FATHOM_ASSIGN(const AnyPlan plain, plan_attention(problem, {}, device, options));
  const Result<AnyPlan> other = plan_attention(problem, fused, device, options);
  if (!other.ok() && other.status().code() != StatusCode::unsupported) return other.status();
  return other.ok() && std::string_view(other.value().implementation()) == plain.implementation() ? fused : Forms{};
}

/// Runs stages [first, first + count).
Status run_stages(const LayerProblem& problem, const LayerArgs& args, const RunContext& context, std::size_t first, std::size_t count) {
  const auto& stages = *static_cast<const Stages*>(context.state);
  Scratch scratch(context.workspace.scratch);
  Step step{problem, args, stages.forms,
            lay_out(problem, stages.largest, args.x.shape[0], context.device, context.workspace, scratch),
            context.stream};
  const bool shows_attn_out = !args.attn_out.is_absent();
  if (shows_attn_out) {
    step.pieces.attn_out = args.attn_out;
    step.forms.out = OutForm::plain;
  }
  for (std::size_t i = first; i < first + count; ++i) {
    const bool other = shows_attn_out && stages.with_attn_out[i];
    FATHOM_TRY(stages.run[i](other ? stages.with_attn_out[i] : stages.planned[i].plan, step));
  }
  return {};
}

bool is_layer_plan(const AnyPlan& plan) { return plan && &plan.op() == layer_op().spec; }

}  // namespace

Result<Prepared> prepare_layer(const LayerProblem& problem, const Device& device, const PlanOptions& options) {
  auto stages = std::make_shared<Stages>();
  FATHOM_ASSIGN(stages->forms, choose_forms(problem, device, nested(options)));
  std::vector<AnyPlan> parts;
  for (const StageKind& kind : kStages) {
    if (!kind.is_in(problem)) continue;
    FATHOM_ASSIGN(AnyPlan plan, kind.plan(problem, stages->forms, device, nested(options)));
    AnyPlan other;
    if (kind.has_attn_out && stages->forms.out != OutForm::plain) {
      FATHOM_ASSIGN(other, kind.plan(problem, {stages->forms.q, OutForm::plain}, device, nested(options)));
      stages->make_room_for(other);
    }
    stages->make_room_for(plan);
    parts.push_back(plan);
    stages->planned.push_back({kind.title, std::move(plan)});
    stages->with_attn_out.push_back(std::move(other));
    stages->run.push_back(kind.run);
  }
  Scratch scratch;
  lay_out(problem, stages->largest, problem.num_tokens, device, {}, scratch);
  const WorkspaceSize largest = stages->largest;
  return Prepared{{scratch.used(), largest.counters, largest.schedule}, std::move(stages), std::move(parts)};
}

Status run_layer(const LayerProblem& problem, const LayerArgs& args, const RunContext& context) {
  return run_stages(problem, args, context, 0, static_cast<const Stages*>(context.state)->run.size());
}

std::span<const LayerStage> layer_stages(const LayerPlan& plan) noexcept {
  if (!is_layer_plan(plan)) return {};
  return static_cast<const Stages*>(plan.data()->prepared.state.get())->planned;
}

Status run_layer_stage(const LayerPlan& plan, std::size_t stage, const LayerArgs& args, const Workspace& workspace,
                       Stream stream) noexcept {
  const std::size_t count = layer_stages(plan).size();
  if (stage >= count) return Status::invalid("layer: stage is %zu, expected one of the plan's %zu", stage, count);
  return guarded("layer", [&]() -> Status {
    FATHOM_TRY(check_run(plan, views_of(args), workspace));
    const detail::PlanData& data = *plan.data();
    return run_stages(plan.problem(), args, {data.device, workspace, stream, data.prepared.state.get()}, stage, 1);
  });
}

}  // namespace fathom
