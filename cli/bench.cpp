// `fathom bench`: the cases of an op timed beside the machine's own roof, or one layer of a released size by stages.
#include <CLI/CLI.hpp>

#include <fmt/core.h>
#include <fmt/format.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "cli/bench_layer.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "harness/case_file.h"
#include "harness/measure.h"

namespace fathom::cli {
namespace {

struct BenchOptions {
  std::string op, cases = harness::default_cases_folder(), set = "model", json;
  std::optional<std::string> text;  ///< "" is a case too: all defaults
  harness::Forced forced;
  int repeat = 7;
  DeviceChoice device;
  std::string model_layer, layer = "csa";
  std::int64_t tokens = 256;
  int batch = 1;
  std::optional<std::int64_t> context;
  Split split = Split::balanced;
};

std::string time_text(double seconds) {
  return seconds < 1e-4   ? fmt::format("{:.2f} us", seconds * 1e6)
         : seconds < 1e-3 ? fmt::format("{:.1f} us", seconds * 1e6)
         : seconds < 1    ? fmt::format("{:.2f} ms", seconds * 1e3)
                          : fmt::format("{:.2f} s", seconds);
}

nlohmann::json spread_json(const harness::Spread& spread) {
  return {{"median", spread.median}, {"p10", spread.low}, {"p90", spread.high}};
}

/// One line of the --json file.
std::string json_line(const harness::Measurement& m, const Device& device) {
  nlohmann::json line = {{"op", m.op},
                         {"case", m.text},
                         {"implementation", m.implementation},
                         {"device", name_of(device)},
                         {"version", FATHOM_VERSION},
                         {"seconds", spread_json(m.seconds)},
                         {"runs", m.runs},
                         {"copies", m.copies},
                         {"read_bytes", m.cost.read_bytes},
                         {"written_bytes", m.cost.written_bytes},
                         {"operations", m.cost.operations},
                         {"bytes_per_second", m.bytes_per_second()},
                         {"operations_per_second", m.operations_per_second()},
                         {"roof_bytes_per_second", spread_json(m.roof_bytes_per_second)},
                         {"roof_operations_per_second", spread_json(m.roof_operations_per_second)},
                         {"roof_arithmetic", m.roof_arithmetic},
                         {"share_of_roof", m.share_of_roof()},
                         {"bound_by", m.is_bound_by_memory() ? "memory" : "arithmetic"}};
  if (device.kind() == DeviceKind::cpu) {
    line["threads"] = device.num_threads();
  } else {
    line["compute_capability"] = capability_text(device.limits());
    line["multiprocessors"] = device.limits().num_multiprocessors;
    line["clock_hz"] = m.clock_hz;
  }
  return line.dump() + "\n";
}

void print_measurement(const harness::Measurement& m, const Device& device) {
  const bool is_cpu = device.kind() == DeviceKind::cpu;
  const double unit = is_cpu ? 1e9 : 1e12;
  fmt::print("{} {} \"{}\"\n", m.op, m.implementation, m.text);
  fmt::print("  {:>10}  (p10 {}, p90 {}; {} runs over {} copies)\n", time_text(m.seconds.median),
             time_text(m.seconds.low), time_text(m.seconds.high), m.runs, m.copies);
  const auto spread_text = [](const harness::Spread& spread, double by) {
    return fmt::format("{:.2f} [{:.2f} {:.2f}]", spread.median / by, spread.low / by, spread.high / by);
  };
  fmt::print("  {:8.2f} GB/s of {}   {:8.2f} {}/s of {}   {:.1f} % of the roof ({})\n", m.bytes_per_second() / 1e9,
             spread_text(m.roof_bytes_per_second, 1e9), m.operations_per_second() / unit, is_cpu ? "GFLOP" : "TFLOP",
             spread_text(m.roof_operations_per_second, unit), 100 * m.share_of_roof(), m.is_bound_by_memory() ? "memory" : m.roof_arithmetic);
  std::fflush(stdout);
}

/// The cases to time, with their op.
Result<std::vector<std::pair<std::string, std::string>>> chosen_cases(const BenchOptions& options) {
  std::vector<std::pair<std::string, std::string>> chosen;
  if (options.text) {
    chosen.emplace_back(options.op, *options.text);
    return chosen;
  }
  for (const OpSpec* op : op_table()) {
    if (!options.op.empty() && options.op != op->name) continue;
    FATHOM_ASSIGN(const std::vector<std::string> cases, harness::read_cases(options.cases, op->name, options.set));
    for (const std::string& text : cases) chosen.emplace_back(op->name, text);
  }
  return chosen;
}

/// Times a case on the device beside the device's roof.
using Measurer = std::function<Result<harness::Measurement>(const std::string& op, const std::string& text)>;
Result<Measurer> measurer_of(const Device& device, const harness::MeasureOptions& options) {
  if (device.kind() == DeviceKind::cpu) {
    const auto roof = std::make_shared<harness::RoofMeter>(device.num_threads());
    return Measurer([=](const auto& op, const auto& text) { return harness::measure(op, text, device, *roof, options); });
  }
  FATHOM_ASSIGN(harness::GpuRoof gpu_roof, harness::GpuRoof::create(device));
  const auto roof = std::make_shared<harness::GpuRoof>(std::move(gpu_roof));
  fmt::print("{}, compute capability {}, {:.0f} MHz at work; the roof's arithmetic is {}\n", name_of(device),
             capability_text(device.limits()), roof->clock_hz() / 1e6, harness::GpuRoof::kArithmetic);
  return Measurer([=](const auto& op, const auto& text) { return harness::measure(op, text, device, *roof, options); });
}

int bench_cases(const BenchOptions& options) {
  const auto chosen = chosen_cases(options);
  if (!chosen.ok()) return fail(chosen.status());
  const auto device = options.device.open();
  if (!device.ok()) return fail(device.status());
  std::set<std::string> used;
  for (const auto& [op, text] : chosen.value()) used.merge(harness::ops_of(op, text, device.value(), options.forced));
  if (const Status status = harness::check_forced_ops(options.forced, used); !status.ok()) return fail(status);
  std::ofstream json;
  if (!options.json.empty()) {
    json.open(options.json, std::ios::app);
    if (!json) {
      print_error(fmt::format("bench: cannot write \"{}\"", options.json));
      return kFailed;
    }
  }
  harness::MeasureOptions measure_options;
  measure_options.alternations = options.repeat;
  measure_options.implementation = harness::force_text(options.forced);
  const auto measurer = measurer_of(device.value(), measure_options);
  if (!measurer.ok()) return fail(measurer.status());
  for (const auto& [op, text] : chosen.value()) {
    const auto measurement = measurer.value()(op, text);
    if (!measurement.ok()) return fail(measurement.status());
    print_measurement(measurement.value(), device.value());
    if (json.is_open() && !(json << json_line(measurement.value(), device.value()) << std::flush)) {
      print_error(fmt::format("bench: cannot write \"{}\"", options.json));
      return kFailed;
    }
  }
  return kOk;
}

int run_bench(const BenchOptions& options) {
  if (options.model_layer.empty()) return bench_cases(options);
  BenchLayerOptions layer;
  layer.preset = options.model_layer;
  layer.kind = options.layer == "csa" ? LayerKind::csa : options.layer == "hca" ? LayerKind::hca : LayerKind::window;
  layer.tokens = options.tokens;
  layer.batch = options.batch;
  layer.context = options.context;
  layer.split = options.split;
  layer.device = options.device;
  layer.forced = options.forced;
  return bench_layer(layer);
}

}  // namespace

void add_bench(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* verb =
      app.add_subcommand("bench", "Time ops beside the machine's measured roof, or a layer stage by stage");
  auto* op = verb->add_option("op", options->op, "Only this op")->check(op_name());
  const auto read_text = [options](const std::string& text) { options->text = text; };
  auto* text = verb->add_option_function<std::string>("case", read_text,
                                                      "One case, for example \"num_tokens=1 num_heads=64\"")
                   ->needs(op);
  auto* cases =
      verb->add_option("--cases", options->cases, "Folder of case files")->check(not_empty())->excludes(text);
  auto* set = verb->add_option("--set", options->set, "Which file of each op")
                  ->check(CLI::IsMember({"smoke", "ci", "model"}))
                  ->excludes(text)
                  ->capture_default_str();
  auto* json = verb->add_option("--json", options->json, "Append one JSON object a line to this file")
                   ->check(not_empty());
  auto* repeat = verb->add_option("--repeat", options->repeat, "Turns of roof and op")
                     ->check(CLI::Range(5, 1000))
                     ->capture_default_str();
  add_force(*verb, options->forced, "run this implementation of the op");
  add_device(*verb, options->device);
  auto* model_layer =
      verb->add_option("--model-layer", options->model_layer, "Time one layer of this preset stage by stage instead")
          ->check(CLI::IsMember({"v4-flash", "v4-pro"}));
  model_layer->excludes(op)->excludes(cases)->excludes(set)->excludes(json)->excludes(repeat);
  verb->add_option("--layer", options->layer, "Layer kind")
      ->check(CLI::IsMember({"csa", "hca", "window"}))
      ->needs(model_layer)
      ->capture_default_str();
  verb->add_option("--tokens", options->tokens, "Tokens prefilled")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(model_layer)
      ->capture_default_str();
  verb->add_option("--batch", options->batch, "Sequences of the decode step")
      ->check(CLI::Range(1, 4096))
      ->needs(model_layer)
      ->capture_default_str();
  verb->add_option("--context", options->context, "Tokens of each before it, made up; default: as prefilled")
      ->check(CLI::Range(0, 1 << 24))
      ->needs(model_layer);
  add_split(*verb, options->split)->needs(model_layer);
  verb->callback([options, &exit_code] { exit_code = run_bench(*options); });
}

}  // namespace fathom::cli
