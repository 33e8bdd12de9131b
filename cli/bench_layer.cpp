// A layer's stages as separate ops, timed one by one on random weights. The pool supplies caches and bookkeeping as it
// does for the layer; problems and arguments of the stages are filled in here because the layer keeps its own private.
#include "cli/bench_layer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "cli/bench_weights.h"
#include "cli/commands.h"
#include "cli/plan_workspace.h"
#include "cli/terminal.h"
#include "fathom/fathom.h"

namespace fathom::cli {
namespace {

constexpr std::uint64_t kWeightSeed = 1, kHiddenSeed = 2;

/// Results of the stages of one step: what one stage writes and a later one reads.
struct StageBuffers {
  std::vector<bf16> q_latent, q, attn_out, out;
  std::vector<std::uint8_t> index_q, index_q_scale;
  std::vector<float> index_weights;
  std::vector<std::int32_t> topk_indices;

  StageBuffers(const LayerProblem& p, std::int64_t tokens)
      : q_latent(tokens * p.q_rank),
        q(tokens * p.num_heads * p.head_dim),
        attn_out(q.size()),
        out(tokens * p.hidden_size),
        index_q(tokens * p.index_heads * p.index_dim / 2),
        index_q_scale(tokens * p.index_heads * p.index_dim / 32),
        index_weights(tokens * p.index_heads),
        topk_indices(tokens * p.index_topk) {}
};

/// What a step works on.
struct StepViews {
  TensorView x, rope_table;
  Batch batch;
  LayerCaches caches;
  std::int64_t tokens = 0;
};

/// One stage: a plan, its workspace, and how its arguments are put together.
struct Stage {
  std::string title;
  AnyPlan plan;
  PlanWorkspace workspace;
  std::function<std::vector<TensorView>(const StepViews&, StageBuffers&)> args;
};

template <class Args>
std::vector<TensorView> views_of(const Args& args) {
  const auto* first = reinterpret_cast<const TensorView*>(&args);
  return {first, first + sizeof(Args) / sizeof(TensorView)};
}

/// The stages of one layer for steps of `problem.num_tokens` tokens, in the order of the layer's story.
class Stages {
 public:
  Stages(const LayerProblem& problem, const LayerWeights& weights, const Device& device, std::string_view force)
      : p_(problem), w_(weights), device_(device), force_(force) {}

  Result<std::vector<Stage>> make() {
    FATHOM_TRY(project());
    if (p_.compress_ratio > 0) FATHOM_TRY(compress_entries());
    if (is_csa()) {
      FATHOM_TRY(compress_index_keys());
      FATHOM_TRY(index_query());
      FATHOM_TRY(index());
    }
    FATHOM_TRY(attend());
    FATHOM_TRY(output());
    return std::move(stages_);
  }

 private:
  bool is_csa() const noexcept { return p_.compress_ratio == 4; }

  template <class Problem, class MakeArgs>
  Status add(const char* title, const char* op, const Problem& problem, MakeArgs&& args) {
    Stage stage;
    stage.title = title;
    FATHOM_ASSIGN(stage.plan, plan_problem(*find_op(op), &problem, device_, {.implementation = force_}));
    FATHOM_ASSIGN(stage.workspace, PlanWorkspace::create(stage.plan));
    stage.args = [args](const StepViews& step, StageBuffers& buffers) { return views_of(args(step, buffers)); };
    stages_.push_back(std::move(stage));
    return {};
  }

  Status project() {
    const ProjectProblem problem{.num_tokens = p_.num_tokens,
                                 .hidden_size = p_.hidden_size,
                                 .num_heads = p_.num_heads,
                                 .head_dim = p_.head_dim,
                                 .rope_dim = p_.rope_dim,
                                 .q_rank = p_.q_rank,
                                 .numerics = p_.numerics,
                                 .weight_dtype = p_.weight_dtype,
                                 .window_format = p_.window_format,
                                 .window_page_size = p_.window_page_size,
                                 .norm_eps = p_.norm_eps};
    return add("project", "project", problem, [p = p_, w = w_](const StepViews& s, StageBuffers& b) {
      return ProjectArgs{s.x,
                         w.wq_a,
                         w.wq_a_scale,
                         w.q_norm,
                         w.wq_b,
                         w.wq_b_scale,
                         w.wkv,
                         w.wkv_scale,
                         w.kv_norm,
                         s.rope_table,
                         s.batch.positions,
                         s.batch.window_slots,
                         s.caches.window,
                         view(b.q_latent.data(), DType::bf16, {s.tokens, p.q_rank}),
                         view(b.q.data(), DType::bf16, {s.tokens, p.num_heads, p.head_dim})};
    });
  }

  CompressProblem compress_problem() const {
    return {.num_tokens = p_.num_tokens,
            .num_seqs = 1,
            .hidden_size = p_.hidden_size,
            .dim = p_.head_dim,
            .rope_dim = p_.rope_dim,
            .ratio = p_.compress_ratio,
            .overlap = is_csa() ? 1 : 0,
            .hadamard = 0,
            .numerics = p_.numerics,
            .weight_dtype = p_.compress_weight_dtype,
            .format = p_.entries_format,
            .page_size = p_.entries_page_size,
            .state_page_size = p_.state_page_size,
            .norm_eps = p_.norm_eps};
  }

  Status compress_entries() {
    return add("compress (entries)", "compress", compress_problem(), [w = w_](const StepViews& s, StageBuffers&) {
      return CompressArgs{s.x,
                          w.compress_wkv,
                          w.compress_wgate,
                          w.compress_ape,
                          w.compress_norm,
                          s.rope_table,
                          s.batch.positions,
                          s.batch.seq_ids,
                          s.batch.entry_slots,
                          s.batch.state_slots,
                          s.batch.state_table,
                          s.caches.state,
                          s.caches.entries};
    });
  }

  Status compress_index_keys() {
    CompressProblem problem = compress_problem();
    problem.dim = p_.index_dim;
    problem.hadamard = 1;
    problem.format = p_.index_format;
    problem.page_size = p_.index_page_size;
    problem.state_page_size = p_.index_state_page_size;
    return add("compress (index keys)", "compress", problem, [w = w_](const StepViews& s, StageBuffers&) {
      return CompressArgs{s.x,
                          w.index_wkv,
                          w.index_wgate,
                          w.index_ape,
                          w.index_norm,
                          s.rope_table,
                          s.batch.positions,
                          s.batch.seq_ids,
                          s.batch.index_slots,
                          s.batch.index_state_slots,
                          s.batch.index_state_table,
                          s.caches.index_state,
                          s.caches.index_keys};
    });
  }

  Status index_query() {
    const IndexQueryProblem problem{.num_tokens = p_.num_tokens,
                                    .hidden_size = p_.hidden_size,
                                    .q_rank = p_.q_rank,
                                    .index_heads = p_.index_heads,
                                    .index_dim = p_.index_dim,
                                    .rope_dim = p_.rope_dim,
                                    .numerics = p_.numerics,
                                    .weight_dtype = p_.weight_dtype,
                                    .proj_dtype = p_.compress_weight_dtype,
                                    .format = p_.index_format};
    return add("index_query", "index_query", problem, [p = p_, w = w_](const StepViews& s, StageBuffers& b) {
      return IndexQueryArgs{s.x,
                            view(b.q_latent.data(), DType::bf16, {s.tokens, p.q_rank}),
                            w.index_wq_b,
                            w.index_wq_b_scale,
                            w.index_weights_proj,
                            s.rope_table,
                            s.batch.positions,
                            index_q(p, s, b),
                            index_q_scale(p, s, b),
                            index_weights(p, s, b)};
    });
  }

  Status index() {
    const IndexProblem problem{.num_tokens = p_.num_tokens,
                               .num_seqs = 1,
                               .index_heads = p_.index_heads,
                               .index_dim = p_.index_dim,
                               .topk = p_.index_topk,
                               .compress_ratio = p_.compress_ratio,
                               .format = p_.index_format,
                               .page_size = p_.index_page_size,
                               .entries_page_size = p_.entries_page_size,
                               .max_entries = p_.max_entries};
    return add("index", "index", problem, [p = p_](const StepViews& s, StageBuffers& b) {
      IndexArgs args{index_q(p, s, b),
                     index_q_scale(p, s, b),
                     index_weights(p, s, b),
                     s.caches.index_keys,
                     s.batch.index_table,
                     s.batch.entries_table,
                     s.batch.positions,
                     s.batch.seq_ids,
                     {},
                     {},
                     {}};
      args.topk_indices = topk_indices(p, s, b);
      return args;
    });
  }

  Status attend() {
    AttendProblem problem{.num_tokens = p_.num_tokens,
                          .num_seqs = 1,
                          .num_heads = p_.num_heads,
                          .head_dim = p_.head_dim,
                          .value_dim = p_.head_dim};
    problem.softmax_scale = 1.0f / std::sqrt(static_cast<float>(p_.head_dim));
    problem.window_format = p_.window_format;
    problem.window_page_size = p_.window_page_size;
    problem.window_width = p_.window;
    problem.entries_rows = p_.compress_ratio == 0 ? RowsBy::none : is_csa() ? RowsBy::list : RowsBy::range;
    problem.entries_format = p_.entries_format;
    problem.entries_page_size = p_.entries_page_size;
    problem.entries_width = p_.compress_ratio == 0 ? 0 : is_csa() ? p_.index_topk : p_.max_entries;
    return add("attend", "attend", problem,
               [p = p_, w = w_, rows = problem.entries_rows](const StepViews& s, StageBuffers& b) {
                 AttendArgs args;
                 args.q = view(b.q.data(), DType::bf16, {s.tokens, p.num_heads, p.head_dim});
                 args.seq_ids = s.batch.seq_ids;
                 args.window = {.cache = s.caches.window,
                                .indices = {},
                                .lengths = {},
                                .begin = s.batch.window_begin,
                                .end = s.batch.window_end,
                                .block_table = s.batch.window_table};
                 if (rows != RowsBy::none) args.entries.cache = s.caches.entries;
                 if (rows == RowsBy::list) args.entries.indices = topk_indices(p, s, b);
                 if (rows == RowsBy::range) {
                   args.entries.end = s.batch.num_visible;
                   args.entries.block_table = s.batch.entries_table;
                 }
                 args.attn_sink = w.attn_sink;
                 args.out = view(b.attn_out.data(), DType::bf16, {s.tokens, p.num_heads, p.head_dim});
                 return args;
               });
  }

  Status output() {
    const OutputProblem problem{.num_tokens = p_.num_tokens,
                                .hidden_size = p_.hidden_size,
                                .num_heads = p_.num_heads,
                                .head_dim = p_.head_dim,
                                .rope_dim = p_.rope_dim,
                                .output_groups = p_.output_groups,
                                .output_rank = p_.output_rank,
                                .numerics = p_.numerics,
                                .wo_a_dtype = p_.wo_a_dtype,
                                .wo_b_dtype = p_.weight_dtype,
                                .out_dtype = p_.out_dtype};
    return add("output", "output", problem, [p = p_, w = w_](const StepViews& s, StageBuffers& b) {
      return OutputArgs{view(b.attn_out.data(), DType::bf16, {s.tokens, p.num_heads, p.head_dim}),
                        s.rope_table,
                        s.batch.positions,
                        w.wo_a,
                        w.wo_a_scale,
                        w.wo_b,
                        w.wo_b_scale,
                        view(b.out.data(), DType::bf16, {s.tokens, p.hidden_size})};
    });
  }

  // Served index queries meet FP4 keys, so they are FP4 too, with one scale for 32.
  static TensorView index_q(const LayerProblem& p, const StepViews& s, StageBuffers& b) {
    return view(b.index_q.data(), DType::e2m1x2, {s.tokens, p.index_heads, p.index_dim});
  }
  static TensorView index_q_scale(const LayerProblem& p, const StepViews& s, StageBuffers& b) {
    return view(b.index_q_scale.data(), DType::ue8m0, {s.tokens, p.index_heads, p.index_dim / 32});
  }
  static TensorView index_weights(const LayerProblem& p, const StepViews& s, StageBuffers& b) {
    return view(b.index_weights.data(), DType::f32, {s.tokens, p.index_heads});
  }
  static TensorView topk_indices(const LayerProblem& p, const StepViews& s, StageBuffers& b) {
    return view(b.topk_indices.data(), DType::i32, {s.tokens, p.index_topk});
  }

  LayerProblem p_;
  LayerWeights w_;
  const Device& device_;
  std::string_view force_;
  std::vector<Stage> stages_;
};

using Milliseconds = std::vector<double>;  ///< by stage

Status run_step(PagePool& pool, int sequence, std::vector<Stage>& stages, StageBuffers& buffers, StepViews step,
                Milliseconds* times) {
  FATHOM_ASSIGN(step.batch, pool.begin_step(std::span(&sequence, 1), std::span(&step.tokens, 1)));
  step.caches = pool.caches(0);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const std::vector<TensorView> args = stages[i].args(step, buffers);
    const auto start = std::chrono::steady_clock::now();
    FATHOM_TRY(run_op(stages[i].plan, args, stages[i].workspace.get()));
    (*times)[i] += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }
  return pool.commit();
}

/// First layer of the preset that is of the wanted kind; MTP's window layer counts.
Result<LayerConfig> preset_layer(const BenchLayerOptions& options) {
  FATHOM_ASSIGN(const ModelConfig model, preset_config(options.preset));
  for (int i = 0; i < model.num_attention_layers(); ++i) {
    FATHOM_ASSIGN(LayerConfig layer, model.layer(i));
    if (layer.kind() == options.kind) return layer;
  }
  return Status::invalid("bench: %s has no %s layer", options.preset.c_str(), name_of(options.kind));
}

void print_times(const std::vector<Stage>& stages, const Milliseconds& prefill, const Milliseconds& decode,
                 const BenchLayerOptions& options) {
  double prefill_total = 0, decode_total = 0;
  for (const double time : prefill) prefill_total += time;
  for (const double time : decode) decode_total += time;
  const auto share = [](double part, double whole) {
    return fmt::format("{:.1f} %", whole > 0 ? 100 * part / whole : 0.0);
  };
  Table table(
      {"stage", "by", fmt::format(">prefill of {}, ms", options.tokens), ">share", ">one decode step, ms", ">share"});
  for (std::size_t i = 0; i < stages.size(); ++i) {
    table.add({stages[i].title, stages[i].plan.implementation(), fmt::format("{:.1f}", prefill[i]),
               share(prefill[i], prefill_total), fmt::format("{:.2f}", decode[i]), share(decode[i], decode_total)});
  }
  table.add({"total", "", fmt::format("{:.1f}", prefill_total), share(prefill_total, prefill_total),
             fmt::format("{:.2f}", decode_total), share(decode_total, decode_total)});
  fmt::print("{}", table.text());
  fmt::print("prefill {:.1f} tokens/s, decode {:.1f} tokens/s (this layer alone)\n",
             1000.0 * static_cast<double>(options.tokens) / prefill_total, 1000.0 / decode_total);
}

Status run(const BenchLayerOptions& options) {
  if (options.tokens < 1 || options.tokens > kMaxTokens || options.decode_steps < 1) {
    return Status::invalid("bench: tokens and decode steps must be positive");
  }
  FATHOM_ASSIGN(const LayerConfig config, preset_layer(options));
  FATHOM_ASSIGN(const Device device, Device::cpu(options.threads));
  const std::int64_t all_tokens = options.tokens + options.decode_steps;
  fmt::print("one {} layer of {} ({}), random weights, served numerics, {} threads\n", name_of(config.kind()),
             options.preset, config.name, device.num_threads());
  std::fflush(stdout);

  const LoadedLayer weights = random_weights(config, kWeightSeed);
  const std::vector<bf16> hidden = random_hidden(all_tokens, config.hidden_size, kHiddenSeed);
  std::vector<float> rope(static_cast<std::size_t>(all_tokens * config.rope_dim()));
  const TensorView rope_table = view(rope.data(), DType::f32, {all_tokens, config.rope_dim()});
  FATHOM_TRY(fill_rope_table(config.rope, 0, rope_table));
  FATHOM_ASSIGN(LayerProblem problem, layer_problem(config, Numerics::served));
  weights.describe(problem);
  problem.max_entries =
      static_cast<std::int32_t>(std::max<std::int64_t>(1, all_tokens / std::max(1, config.compress_ratio)));
  problem.num_tokens = static_cast<std::int32_t>(options.tokens);
  FATHOM_ASSIGN(const PagePoolOptions pages, pool_options_for(problem, 1, all_tokens));
  FATHOM_ASSIGN(PagePool pool, PagePool::create(problem, pages));
  FATHOM_ASSIGN(const int sequence, pool.add_sequence());

  StageBuffers buffers(problem, options.tokens);
  const auto step_at = [&](std::int64_t first, std::int64_t count) {
    StepViews step;
    step.x = view(hidden.data() + first * config.hidden_size, DType::bf16, {count, config.hidden_size});
    step.rope_table = rope_table;
    step.tokens = count;
    return step;
  };
  FATHOM_ASSIGN(std::vector<Stage> stages, Stages(problem, weights.weights, device, options.force).make());
  Milliseconds prefill(stages.size()), decode(stages.size());
  FATHOM_TRY(run_step(pool, sequence, stages, buffers, step_at(0, options.tokens), &prefill));

  problem.num_tokens = 1;
  FATHOM_ASSIGN(std::vector<Stage> decode_stages, Stages(problem, weights.weights, device, options.force).make());
  for (int i = 0; i < options.decode_steps; ++i) {
    FATHOM_TRY(run_step(pool, sequence, decode_stages, buffers, step_at(options.tokens + i, 1), &decode));
  }
  for (double& time : decode) time /= options.decode_steps;
  print_times(stages, prefill, decode, options);
  return {};
}

}  // namespace

int bench_layer(const BenchLayerOptions& options) {
  const Status status = run(options);
  return status.ok() ? kOk : fail(status);
}

}  // namespace fathom::cli
