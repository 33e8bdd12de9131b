// One layer over one sequence: a pool for its pages, a plan for prefill steps and one for decode steps.
#include "cli/layer_runner.h"

#include <algorithm>

#include "cli/device_copy.h"

namespace fathom::cli {
namespace {

/// Everything that stays the same from step to step; the views lie on the device.
struct Sequence {
  const LayerWeights weights;
  PagePool& pool;
  int number;
  TensorView x;  ///< [T, hidden_size]
  TensorView rope_table;
  LayerResult& result;
  bool dump;
};

/// What the steps of one capacity write, on the device. What the dump leaves out has no rows.
struct StepOutputs {
  DeviceRows out, attn_out, topk_entries, index_scores;
};

Result<StepOutputs> make_outputs(const LayerProblem& problem, const LayerResult& result, bool dump, const Device& device) {
  const auto rows = [&](DType dtype, std::int64_t columns, bool wanted) {
    return DeviceRows::create(device, dtype, wanted ? problem.num_tokens : 0, columns);
  };
  const DumpTensor<float>& scores = result.dump.index_scores;
  FATHOM_ASSIGN(DeviceRows out, rows(problem.out_dtype, problem.hidden_size, true));
  FATHOM_ASSIGN(DeviceRows attn_out,
                rows(activation_dtype(problem.numerics), std::int64_t{problem.num_heads} * problem.head_dim, dump));
  FATHOM_ASSIGN(DeviceRows picks, rows(DType::i32, problem.index_topk, result.dump.topk_entries.given()));
  FATHOM_ASSIGN(DeviceRows index_scores, rows(DType::f32, scores.given() ? scores.shape[1] : 0, scores.given()));
  return StepOutputs{std::move(out), std::move(attn_out), std::move(picks), std::move(index_scores)};
}

Status run_step(const Stepper& stepper, const StepOutputs& outputs, Sequence& sequence, std::int64_t first,
                std::int64_t count) {
  const LayerProblem& problem = stepper.plan.problem();
  FATHOM_ASSIGN(const Batch batch, sequence.pool.begin_step(std::span(&sequence.number, 1), std::span(&count, 1)));
  LayerArgs args;
  args.x = rows_of(sequence.x, first, count);
  args.rope_table = sequence.rope_table;
  args.weights = sequence.weights;
  args.caches = sequence.pool.caches(0);
  args.batch = batch;
  args.out = outputs.out.view(count, {problem.hidden_size});

  LayerDump& dump = sequence.result.dump;
  const bool picks = dump.topk_entries.given();
  // Without a single visible entry there is no column to write.
  const std::int64_t width = dump.index_scores.given() ? dump.index_scores.shape[1] : 0;
  if (sequence.dump) args.attn_out = outputs.attn_out.view(count, {problem.num_heads, problem.head_dim});
  if (picks) args.topk_entries = outputs.topk_entries.view(count, {problem.index_topk});
  if (width > 0) args.index_scores = outputs.index_scores.view(count, {width});
  FATHOM_TRY(layer(stepper.plan, args, stepper.workspace.get()));
  FATHOM_TRY(sequence.pool.commit());

  FATHOM_TRY(outputs.out.read_floats(count, sequence.result.output.data() + first * problem.hidden_size));
  if (sequence.dump) {
    FATHOM_TRY(outputs.attn_out.read_floats(count, dump.core_out.values.data() + first * problem.num_heads * problem.head_dim));
  }
  if (picks) FATHOM_TRY(outputs.topk_entries.read(count, dump.topk_entries.values.data() + first * problem.index_topk));
  if (width > 0) FATHOM_TRY(outputs.index_scores.read(count, dump.index_scores.values.data() + first * width));
  return {};
}

void size_result(const LayerConfig& config, std::int64_t num_tokens, bool dump, LayerResult* result) {
  result->num_tokens = num_tokens;
  result->output.resize(static_cast<std::size_t>(num_tokens * config.hidden_size));
  if (!dump) return;
  result->dump.core_out.resize({num_tokens, config.num_heads, config.head_dim});
  if (config.kind() != LayerKind::csa) return;
  result->dump.topk_entries.resize({num_tokens, config.index_topk}, -1);
  result->dump.index_scores.resize({num_tokens, num_tokens / config.compress_ratio});
}

Result<PagePool> make_pool(const LayerProblem& problem, std::int64_t num_tokens, const Device& device,
                           const LayerRunOptions& options) {
  // The ring of the dump shows one token more than the next step could still see.
  FATHOM_ASSIGN(PagePoolOptions pages,
                pool_options_for(problem, 1, std::max<std::int64_t>(num_tokens, 1), options.dump ? 1 : 0));
  pages.page_order_seed = options.page_order_seed;
  return PagePool::create(problem, pages, device);
}

Status run_steps(Sequence& sequence, const LayerProblem& problem, std::int64_t num_tokens, const Device& device,
                 const LayerRunOptions& options, const StepReport& report) {
  const std::int64_t prefill = prefill_tokens(options, num_tokens);
  FATHOM_ASSIGN(Stepper stepper, make_stepper(problem, problem.num_tokens, device, harness::force_text(options.forced)));
  FATHOM_ASSIGN(const StepOutputs outputs, make_outputs(problem, sequence.result, options.dump, device));
  std::int64_t done = 0;
  while (done < prefill) {
    const std::int64_t count = std::min<std::int64_t>(problem.num_tokens, prefill - done);
    FATHOM_TRY(run_step(stepper, outputs, sequence, done, count));
    done += count;
    if (report) report(done, false);
  }
  if (done == num_tokens) return {};
  if (problem.num_tokens != 1) {
    FATHOM_ASSIGN(stepper, make_stepper(problem, 1, device, harness::force_text(options.forced)));
  }
  for (; done < num_tokens; ++done) {
    FATHOM_TRY(run_step(stepper, outputs, sequence, done, 1));
    if (report) report(done + 1, true);
  }
  return {};
}

}  // namespace

Result<Stepper> make_stepper(LayerProblem problem, std::int32_t capacity, const Device& device,
                             const std::string& force) {
  problem.num_tokens = capacity;
  Stepper stepper;
  FATHOM_ASSIGN(stepper.plan, plan_layer(problem, device, {.implementation = force}));
  FATHOM_ASSIGN(stepper.workspace, harness::PlanWorkspace::create(stepper.plan));
  return stepper;
}

Status check_forced_ops(const ModelConfig& model, std::span<const int> layers, Numerics numerics, const Device& device,
                        const harness::Forced& forced) {
  if (forced.empty()) return {};
  std::set<std::string> used;
  for (const int layer : layers) {
    FATHOM_ASSIGN(const LayerConfig config, model.layer(layer));
    FATHOM_ASSIGN(const LayerProblem problem, layer_problem(config, numerics));
    FATHOM_ASSIGN(const LayerPlan plan, plan_layer(problem, device, {.implementation = harness::force_text(forced)}));
    used.merge(harness::ops_of(plan));
  }
  return harness::check_forced_ops(forced, used);
}

std::int64_t prefill_tokens(const LayerRunOptions& options, std::int64_t num_tokens) noexcept {
  return std::min(options.prefill.value_or(num_tokens), num_tokens);
}

Result<LayerProblem> problem_for(const LayerConfig& config, const LoadedLayer& weights, std::int64_t num_tokens,
                                 const LayerRunOptions& options) {
  FATHOM_ASSIGN(LayerProblem problem, layer_problem(config, options.numerics));
  problem.num_seqs = 1;
  problem.split = options.split;
  const std::int64_t chunk = options.chunk > 0 ? options.chunk : kDefaultChunk;
  problem.num_tokens =
      static_cast<std::int32_t>(std::clamp<std::int64_t>(prefill_tokens(options, num_tokens), 1, chunk));
  weights.describe(problem);
  if (config.shard_world > 1) problem.out_dtype = DType::f32;
  if (config.compress_ratio > 0) {
    problem.max_entries = static_cast<std::int32_t>(std::max<std::int64_t>(1, num_tokens / config.compress_ratio));
  }
  if (options.kv_format) problem.window_format = problem.entries_format = *options.kv_format;
  if (options.index_format) problem.index_format = *options.index_format;
  if (options.page_size > 0) {
    problem.window_page_size = problem.entries_page_size = problem.index_page_size = options.page_size;
    problem.state_page_size = problem.index_state_page_size = options.page_size;
  }
  return problem;
}

Result<LayerResult> run_layer(const LayerConfig& config, const LoadedLayer& weights, std::span<const float> hidden,
                              const Device& device, const LayerRunOptions& options, const StepReport& report) {
  const auto num_tokens = static_cast<std::int64_t>(hidden.size()) / config.hidden_size;
  const std::int64_t most = std::min(config.max_positions, kMaxTokens);
  if (num_tokens > most) {
    return Status::invalid("input: %lld tokens, expected at most %lld (max_positions)",
                           static_cast<long long>(num_tokens), static_cast<long long>(most));
  }
  LayerResult result;
  FATHOM_ASSIGN(result.problem, problem_for(config, weights, num_tokens, options));
  size_result(config, num_tokens, options.dump, &result);
  FATHOM_ASSIGN(PagePool pool, make_pool(result.problem, num_tokens, device, options));
  FATHOM_ASSIGN(const int number, pool.add_sequence());

  std::vector<bf16> rounded;
  const DType x_dtype = activation_dtype(options.numerics);
  if (x_dtype == DType::bf16) {
    rounded.resize(hidden.size());
    std::transform(hidden.begin(), hidden.end(), rounded.begin(), to_bf16);
  }
  const void* values = x_dtype == DType::bf16 ? static_cast<const void*>(rounded.data()) : hidden.data();
  std::vector<float> table(static_cast<std::size_t>(std::max<std::int64_t>(num_tokens, 1) * config.rope_dim()));
  const TensorView rope_table =
      view(table.data(), DType::f32, {std::max<std::int64_t>(num_tokens, 1), config.rope_dim()});
  FATHOM_TRY(fill_rope_table(config.rope, 0, rope_table));

  DeviceCopies copies(device);
  FATHOM_ASSIGN(const TensorView x, copies.of(view(values, x_dtype, {num_tokens, config.hidden_size})));
  FATHOM_ASSIGN(const TensorView rope, copies.of(rope_table));
  FATHOM_ASSIGN(const LayerWeights device_weights, copies.of(weights.weights));
  Sequence sequence{device_weights, pool, number, x, rope, result, options.dump};
  FATHOM_TRY(run_steps(sequence, result.problem, num_tokens, device, options, report));
  if (options.dump) FATHOM_TRY(read_caches(pool, device, number, num_tokens, &result.dump));
  return result;
}

}  // namespace fathom::cli
