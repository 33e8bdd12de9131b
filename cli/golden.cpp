// Golden folders: reading expected values, running their layers with the recorded split, printing every bound.
#include "cli/golden.h"

#include <fmt/core.h>

#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

std::string expected_path(const GoldenOptions& options, Numerics numerics) {
  return fmt::format("{}/expected_{}.safetensors", options.folder, name_of(numerics));
}

/// Reads `layers.N.<name>` if the file has it.
Status read_optional(const Checkpoint& file, int layer, std::string_view name, DumpTensor<float>* out) {
  const std::string full = fmt::format("layers.{}.{}", layer, name);
  if (!file.has(full)) return {};
  FATHOM_ASSIGN(out->values, read_floats(file, full, &out->shape));
  return {};
}

/// Counts of a golden check, over all files.
struct Tally {
  int layers = 0, measures = 0, failed = 0;
};

void print_measure(const std::string& where, const Measure& measure, bool colour, Tally* tally) {
  ++tally->measures;
  if (!measure.ok()) ++tally->failed;
  const std::string verdict =
      measure.ok() ? coloured("ok", Colour::green, colour) : coloured("FAILED", Colour::red, colour);
  fmt::print("{:<24}{:<42}{:>8.2g} <= {:<7g} {}{}\n", where, measure.quantity, measure.value, measure.bound, verdict,
             measure.note.empty() ? "" : "  (" + measure.note + ")");
}

Status check_file(const GoldenOptions& options, const Model& model, Numerics numerics, const Device& device,
                  Tally* tally) {
  FATHOM_ASSIGN(const Checkpoint expected, Checkpoint::open(expected_path(options, numerics), "golden"));
  const bool colour = wants_colour(stdout);
  const std::vector<int> layers = golden_layers(expected, model.config);
  FATHOM_TRY(check_forced_ops(model.config, layers, numerics, device, options.forced));
  for (const int layer : layers) {
    FATHOM_ASSIGN(const LayerConfig config, model.config.layer(layer));
    FATHOM_ASSIGN(const GoldenLayer golden, read_golden_layer(expected, layer));
    const std::string where = fmt::format("{} layers.{} {}", name_of(numerics), layer, name_of(config.kind()));
    std::vector<Measure> measures;
    {
      // In a pipe the measures themselves are the progress.
      const bool hide = Progress::style_for(stderr, false) != Progress::Style::bar;
      Progress progress(stderr, Progress::style_for(stderr, hide), where, golden.num_tokens);
      FATHOM_ASSIGN(measures, measure_golden_layer(model, golden, layer, numerics, options, device,
                                                   [&](std::int64_t done, bool decoding) {
                                                     progress.update(done, decoding ? "decode" : "prefill");
                                                   }));
    }
    ++tally->layers;
    for (const Measure& measure : measures) print_measure(where, measure, colour, tally);
    std::fflush(stdout);
  }
  return {};
}

Status check_folder(const GoldenOptions& options, Tally* tally) {
  FATHOM_ASSIGN(const Device device, options.device.open());
  FATHOM_ASSIGN(const Model model, open_model(options.folder));
  for (const Numerics numerics : {Numerics::exact, Numerics::served}) {
    if (options.numerics && *options.numerics != numerics) continue;
    std::error_code ignored;
    const bool there = std::filesystem::exists(expected_path(options, numerics), ignored);
    if (there || options.numerics) FATHOM_TRY(check_file(options, model, numerics, device, tally));
  }
  return {};
}

}  // namespace

std::vector<int> golden_layers(const Checkpoint& expected, const ModelConfig& config) {
  std::vector<int> layers;
  for (int i = 0; i < config.num_attention_layers(); ++i) {
    if (expected.has(fmt::format("layers.{}.hidden", i))) layers.push_back(i);
  }
  return layers;
}

Result<GoldenLayer> read_golden_layer(const Checkpoint& expected, int layer) {
  GoldenLayer golden;
  const std::string key = fmt::format("layers.{}", layer);
  std::vector<std::int64_t> hidden_shape;
  FATHOM_ASSIGN(golden.hidden, read_floats(expected, key + ".hidden", &hidden_shape));
  FATHOM_ASSIGN(golden.output.values, read_floats(expected, key + ".output", &golden.output.shape));
  if (hidden_shape.size() != 2 || golden.output.shape != hidden_shape) {
    return Status::invalid("golden: %s.hidden and .output must both be [T, dim]", key.c_str());
  }
  golden.num_tokens = hidden_shape[0];

  const std::string split = expected.metadata(key);
  long long prefill = 0, decode = 0;
  const int read = std::sscanf(split.c_str(), "prefill %lld then decode %lld one at a time", &prefill, &decode);
  if (read != 2 || prefill < 0 || decode < 0 || prefill + decode != golden.num_tokens) {
    return Status::invalid(
        "golden: metadata %s is \"%s\", expected \"prefill A then decode B one at a time\" with A + B = %lld",
        key.c_str(), split.substr(0, 100).c_str(), static_cast<long long>(golden.num_tokens));
  }
  golden.prefill = prefill;

  FATHOM_TRY(read_optional(expected, layer, "core_out", &golden.core_out));
  FATHOM_TRY(read_optional(expected, layer, "index_scores", &golden.index_scores));
  FATHOM_TRY(read_optional(expected, layer, "final_window_ring", &golden.window_ring));
  FATHOM_TRY(read_optional(expected, layer, "final_compressed_kv", &golden.entries));
  FATHOM_TRY(read_optional(expected, layer, "final_index_k", &golden.index_keys));
  FATHOM_TRY(read_optional(expected, layer, "final_compressor_kv_state", &golden.compressor_kv_state));
  FATHOM_TRY(read_optional(expected, layer, "final_compressor_score_state", &golden.compressor_score_state));
  if (expected.has(key + ".topk_idxs")) {
    FATHOM_ASSIGN(golden.topk_entries.values, read_integers(expected, key + ".topk_idxs", &golden.topk_entries.shape));
    if (golden.topk_entries.shape.size() != 2 || golden.topk_entries.shape[0] != golden.num_tokens ||
        golden.index_scores.shape.size() != 2 || golden.index_scores.shape[0] != golden.num_tokens) {
      return Status::invalid("golden: %s.topk_idxs and .index_scores must both be [%lld, n]", key.c_str(),
                             static_cast<long long>(golden.num_tokens));
    }
  }
  return golden;
}

Result<std::vector<Measure>> measure_golden_layer(const Model& model, const GoldenLayer& golden, int layer,
                                                  Numerics numerics, const GoldenOptions& options, const Device& device,
                                                  const StepReport& report) {
  FATHOM_ASSIGN(const LayerConfig config, model.config.layer(layer));
  if (golden.num_tokens * config.hidden_size != static_cast<std::int64_t>(golden.hidden.size())) {
    return Status::invalid("golden: layers.%d.hidden has %zu values, expected %lld tokens of %d", layer,
                           golden.hidden.size(), static_cast<long long>(golden.num_tokens), config.hidden_size);
  }
  FATHOM_ASSIGN(const LoadedLayer weights, load_layer(model.checkpoint, config));
  LayerRunOptions run;
  run.numerics = numerics;
  run.prefill = golden.prefill;
  run.chunk = options.chunk;
  run.page_size = options.page_size;
  run.page_order_seed = options.page_order_seed;
  run.forced = options.forced;
  run.dump = true;
  FATHOM_ASSIGN(const LayerResult result, run_layer(config, weights, golden.hidden, device, run, report));
  return compare_layer(golden, result, config);
}

int check_golden(const GoldenOptions& options) {
  Tally tally;
  if (const Status status = check_folder(options, &tally); !status.ok()) return fail(status);
  if (tally.layers == 0) {
    print_error(fmt::format("golden: \"{}\" has no expected values to compare with", options.folder));
    return kFailed;
  }
  fmt::print("golden {}: {} layers, {} of {} bounds hold\n", options.folder, tally.layers,
             tally.measures - tally.failed, tally.measures);
  return tally.failed == 0 ? kOk : kFailed;
}

}  // namespace fathom::cli
