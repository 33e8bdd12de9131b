// A layer's stages, timed one by one on random weights. The layer says what they are and runs each.
#include "cli/bench_layer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>

#include "cli/bench_past.h"
#include "cli/bench_weights.h"
#include "cli/commands.h"
#include "cli/device_copy.h"
#include "cli/layer_runner.h"
#include "cli/terminal.h"
#include "fathom/fathom.h"
#include "harness/measure.h"

namespace fathom::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kWeightSeed = 1, kHiddenSeed = 2;
constexpr int kRunsOnCpu = 4, kReplays = 15, kCallsInGraph = 20;
constexpr double kLongCall = 0.005;  ///< seconds; beside such a call a launch is nothing, so a graph needs few of them

struct StepTimes {
  std::vector<double> stages;  ///< seconds
  double whole = 0;            ///< of the layer run as one; on the CPU the sum
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Result<StepTimes> time_on_cpu(const Stepper& stepper, const LayerArgs& args, int runs) {
  StepTimes times;
  times.stages.resize(layer_stages(stepper.plan).size());
  for (int run = 0; run < runs; ++run) {
    for (std::size_t i = 0; i < times.stages.size(); ++i) {
      const auto start = Clock::now();
      FATHOM_TRY(run_layer_stage(stepper.plan, i, args, stepper.workspace.get()));
      times.stages[i] += seconds_since(start) / runs;
    }
  }
  for (const double seconds : times.stages) times.whole += seconds;
  return times;
}

/// Two graphs: the stages with a time mark between each two, and the layer as one again and again. Medians of replays.
Result<StepTimes> time_on_gpu(const Stepper& stepper, const LayerArgs& args) {
  const Device& device = stepper.plan.device();
  const std::size_t count = layer_stages(stepper.plan).size();
  double seconds_of_one = 0;
  for (int i = 0; i < 2; ++i) {  // the first one loads the kernels
    const auto start = Clock::now();
    FATHOM_TRY(layer(stepper.plan, args, stepper.workspace.get()));
    FATHOM_TRY(synchronize(device));
    seconds_of_one = seconds_since(start);
  }
  FATHOM_ASSIGN(const harness::GpuGraph stages, harness::GpuGraph::capture(device, [&](Stream stream, const auto& mark) -> Status {
    FATHOM_TRY(mark());
    for (std::size_t i = 0; i < count; ++i) {
      FATHOM_TRY(run_layer_stage(stepper.plan, i, args, stepper.workspace.get(), stream));
      FATHOM_TRY(mark());
    }
    return {};
  }));
  const int calls = seconds_of_one > kLongCall ? 1 : kCallsInGraph;
  FATHOM_ASSIGN(const harness::GpuGraph whole, harness::GpuGraph::capture(device, [&](Stream stream, const auto&) -> Status {
    for (int i = 0; i < calls; ++i) FATHOM_TRY(layer(stepper.plan, args, stepper.workspace.get(), stream));
    return {};
  }));
  std::vector<std::vector<double>> stage_seconds(count);
  std::vector<double> whole_seconds;
  FATHOM_TRY(whole.replay().status());  // warms up
  for (int turn = 0; turn < kReplays; ++turn) {
    FATHOM_ASSIGN(const double seconds, whole.replay());
    whole_seconds.push_back(seconds / calls);
    FATHOM_TRY(stages.replay().status());
    FATHOM_ASSIGN(const std::vector<double> between, stages.between_marks());
    for (std::size_t i = 0; i < count; ++i) stage_seconds[i].push_back(between[i]);
  }
  StepTimes times;
  for (std::vector<double>& seconds : stage_seconds) times.stages.push_back(harness::spread_of(std::move(seconds)).median);
  times.whole = harness::spread_of(std::move(whole_seconds)).median;
  return times;
}

/// Times one step in which each sequence gets `count` tokens; the step is run several times before it is committed,
/// which changes nothing, because rows have their own places.
Result<StepTimes> time_step(const Stepper& stepper, Past& past, std::int64_t count, LayerArgs args, int runs_on_cpu) {
  const std::vector<std::int64_t> counts(past.sequences.size(), count);
  FATHOM_ASSIGN(args.batch, past.pool.begin_step(past.sequences, counts));
  args.caches = past.pool.caches(0);
  FATHOM_TRY(synchronize(stepper.plan.device()));  // graphs run on streams of their own
  FATHOM_ASSIGN(StepTimes times, stepper.plan.device().kind() == DeviceKind::cpu ? time_on_cpu(stepper, args, runs_on_cpu)
                                                                                 : time_on_gpu(stepper, args));
  FATHOM_TRY(past.pool.commit());
  return times;
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

void print_times(std::span<const LayerStage> stages, const StepTimes& prefill, const StepTimes& decode, bool is_cpu,
                 const BenchLayerOptions& options) {
  const double unit = is_cpu ? 1e3 : 1e6;
  const char* name = is_cpu ? "ms" : "us";
  const auto sum = [](const StepTimes& times) {
    double total = 0;
    for (const double seconds : times.stages) total += seconds;
    return total;
  };
  const double prefill_total = sum(prefill), decode_total = sum(decode);
  const auto share = [](double part, double whole) {
    return fmt::format("{:.1f} %", whole > 0 ? 100 * part / whole : 0.0);
  };
  const auto past = fmt::format("decode of {} after {}, {}", options.batch, options.context.value_or(options.tokens), name);
  Table table({"stage", "by", fmt::format(">prefill of {}, {}", options.tokens, name), ">share", ">" + past, ">share"});
  for (std::size_t i = 0; i < stages.size(); ++i) {
    table.add({stages[i].title, stages[i].plan.implementation(), fmt::format("{:.1f}", prefill.stages[i] * unit),
               share(prefill.stages[i], prefill_total), fmt::format("{:.2f}", decode.stages[i] * unit),
               share(decode.stages[i], decode_total)});
  }
  table.add({"total", "", fmt::format("{:.1f}", prefill_total * unit), share(prefill_total, prefill_total),
             fmt::format("{:.2f}", decode_total * unit), share(decode_total, decode_total)});
  fmt::print("{}", table.text());
  if (!is_cpu) {
    fmt::print("the layer as one, in a graph: prefill {:.1f} us, decode {:.2f} us\n", prefill.whole * unit, decode.whole * unit);
  }
  fmt::print("prefill {:.1f} tokens/s, decode {:.1f} tokens/s (this layer alone)\n",
             static_cast<double>(options.tokens) / prefill.whole, static_cast<double>(options.batch) / decode.whole);
}

Status run(const BenchLayerOptions& options) {
  FATHOM_ASSIGN(const LayerConfig config, preset_layer(options));
  FATHOM_ASSIGN(const Device device, options.device.open());
  const bool is_cpu = device.kind() == DeviceKind::cpu;
  const std::int64_t context = options.context.value_or(options.tokens);
  fmt::print("one {} layer of {} ({}), random weights, served numerics, {}\n", name_of(config.kind()), options.preset,
             config.name, is_cpu ? fmt::format("{} threads", device.num_threads()) : name_of(device));
  std::fflush(stdout);

  const LoadedLayer weights = random_weights(config, kWeightSeed);
  const std::int64_t most_rows = std::max<std::int64_t>(options.tokens, options.batch);
  const std::vector<bf16> hidden = random_hidden(most_rows, config.hidden_size, kHiddenSeed);
  const std::int64_t positions = std::max(options.tokens, context + 1);
  std::vector<float> rope(static_cast<std::size_t>(positions * config.rope_dim()));
  const TensorView rope_table = view(rope.data(), DType::f32, {positions, config.rope_dim()});
  FATHOM_TRY(fill_rope_table(config.rope, 0, rope_table));
  FATHOM_ASSIGN(LayerProblem problem, layer_problem(config, Numerics::served));
  weights.describe(problem);
  problem.split = options.split;
  problem.max_entries = static_cast<std::int32_t>(std::max<std::int64_t>(1, positions / std::max(1, config.compress_ratio)));

  DeviceCopies copies(device);
  LayerArgs args;
  FATHOM_ASSIGN(args.weights, copies.of(weights.weights));
  FATHOM_ASSIGN(args.rope_table, copies.of(rope_table));
  FATHOM_ASSIGN(const TensorView x, copies.of(view(hidden.data(), DType::bf16, {most_rows, config.hidden_size})));
  FATHOM_ASSIGN(const DeviceRows out, DeviceRows::create(device, problem.out_dtype, most_rows, config.hidden_size));
  const auto args_of = [&](std::int64_t rows) {
    LayerArgs step = args;
    step.x = first_rows(x, rows);
    step.out = out.view(rows, {config.hidden_size});
    return step;
  };
  const std::string force = harness::force_text(options.forced);
  FATHOM_ASSIGN(const Stepper prefiller, make_stepper(problem, static_cast<std::int32_t>(options.tokens), device, force));
  problem.num_seqs = options.batch;
  FATHOM_ASSIGN(const Stepper decoder, make_stepper(problem, options.batch, device, force));
  FATHOM_TRY(harness::check_forced_ops(options.forced, harness::ops_of(prefiller.plan)));

  const LayerProblem& prefill_problem = prefiller.plan.problem();
  FATHOM_ASSIGN(const PagePoolOptions pages, pool_options_for(prefill_problem, 1, options.tokens));
  FATHOM_ASSIGN(PagePool fresh, PagePool::create(prefill_problem, pages, device));
  Past nothing{std::move(fresh), {}};
  FATHOM_ASSIGN(const int sequence, nothing.pool.add_sequence());
  nothing.sequences = {sequence};
  FATHOM_ASSIGN(const StepTimes prefill, time_step(prefiller, nothing, options.tokens, args_of(options.tokens), 1));
  FATHOM_ASSIGN(Past past, make_past(problem, options.batch, context, device));
  FATHOM_ASSIGN(const StepTimes decode, time_step(decoder, past, 1, args_of(options.batch), kRunsOnCpu));
  print_times(layer_stages(prefiller.plan), prefill, decode, is_cpu, options);
  return {};
}

}  // namespace

int bench_layer(const BenchLayerOptions& options) {
  const Status status = run(options);
  return status.ok() ? kOk : fail(status);
}

}  // namespace fathom::cli
