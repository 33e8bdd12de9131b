// A layer's stages, timed one by one on random weights. The layer says what they are and runs each.
#include "cli/bench_layer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>

#include "cli/bench_weights.h"
#include "cli/commands.h"
#include "cli/layer_runner.h"
#include "cli/terminal.h"
#include "fathom/fathom.h"

namespace fathom::cli {
namespace {

constexpr std::uint64_t kWeightSeed = 1, kHiddenSeed = 2;

using Milliseconds = std::vector<double>;  ///< by stage

/// One step of `args.x`, stage by stage; adds each stage's time.
Status run_step(const Stepper& stepper, PagePool& pool, int sequence, LayerArgs args, Milliseconds* times) {
  const std::int64_t tokens = args.x.shape[0];
  FATHOM_ASSIGN(args.batch, pool.begin_step(std::span(&sequence, 1), std::span(&tokens, 1)));
  args.caches = pool.caches(0);
  for (std::size_t i = 0; i < times->size(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    FATHOM_TRY(run_layer_stage(stepper.plan, i, args, stepper.workspace.get()));
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

void print_times(std::span<const LayerStage> stages, const Milliseconds& prefill, const Milliseconds& decode,
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

  std::vector<std::byte> out(static_cast<std::size_t>(bytes_of(problem.out_dtype, options.tokens * config.hidden_size)));
  const auto args_at = [&](std::int64_t first, std::int64_t count) {
    LayerArgs args;
    args.x = view(hidden.data() + first * config.hidden_size, DType::bf16, {count, config.hidden_size});
    args.rope_table = rope_table;
    args.weights = weights.weights;
    args.out = view(out.data(), problem.out_dtype, {count, config.hidden_size});
    return args;
  };
  const std::string force = harness::force_text(options.forced);
  FATHOM_ASSIGN(const Stepper prefiller, make_stepper(problem, problem.num_tokens, device, force));
  FATHOM_ASSIGN(const Stepper decoder, make_stepper(problem, 1, device, force));
  FATHOM_TRY(harness::check_forced_ops(options.forced, harness::ops_of(prefiller.plan)));
  const std::span<const LayerStage> stages = layer_stages(prefiller.plan);
  Milliseconds prefill(stages.size()), decode(stages.size());
  FATHOM_TRY(run_step(prefiller, pool, sequence, args_at(0, options.tokens), &prefill));
  for (int i = 0; i < options.decode_steps; ++i) {
    FATHOM_TRY(run_step(decoder, pool, sequence, args_at(options.tokens + i, 1), &decode));
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
