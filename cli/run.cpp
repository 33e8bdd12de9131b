// `fathom run`: hidden states through one attention layer of a checkpoint, or through each of them.
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <fmt/core.h>
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <limits>

#include "cli/commands.h"
#include "cli/layer_runner.h"
#include "cli/model_files.h"
#include "cli/options.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

struct RunOptions {
  std::string model, input, input_name, output;
  std::optional<int> layer;
  std::string numerics = "served";
  int rank = 0, world = 1;
  DeviceChoice device;
  bool quiet = false;
  LayerRunOptions layer_options;
};

std::string input_tensor(const RunOptions& options, const Checkpoint& input, int layer) {
  if (!options.input_name.empty()) return options.input_name;
  std::string own = fmt::format("layers.{}.hidden", layer);
  return input.has(own) ? own : "hidden";
}

/// So that a long run does not end in a file that cannot be written.
Status check_output(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return Status::invalid("output: \"%s\" is a folder, expected a file", path.c_str());
  }
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const std::string name = folder.empty() ? "." : folder.string();
  if (access(name.c_str(), W_OK) != 0) {
    return Status::invalid("output: the folder of \"%s\" does not exist or is not writable", path.c_str());
  }
  return {};
}

class Run {
 public:
  Run(const RunOptions& options, Model model, Checkpoint input, Device device)
      : options_(options), model_(std::move(model)), input_(std::move(input)), device_(std::move(device)) {}

  Status all() {
    std::vector<int> layers;
    if (options_.layer) {
      layers = {*options_.layer};
    } else {
      FATHOM_ASSIGN(layers, stored_layers());
    }
    const LayerRunOptions& layer_options = options_.layer_options;
    FATHOM_TRY(check_forced_ops(model_.config, layers, layer_options.numerics, device_, layer_options.forced));
    for (const int i : layers) FATHOM_TRY(one(i, options_.layer ? "" : fmt::format("layers.{}.", i)));
    FATHOM_TRY(writer_.set_metadata("fathom", FATHOM_VERSION));
    FATHOM_TRY(writer_.set_metadata("numerics", options_.numerics));
    FATHOM_TRY(writer_.write(options_.output));
    say(fmt::format("wrote {} ({} tensor{})", options_.output, written_, written_ == 1 ? "" : "s"));
    return {};
  }

 private:
  /// Every layer, but MTP layers whose weights an export has left out.
  Result<std::vector<int>> stored_layers() const {
    std::vector<int> layers;
    std::vector<std::string> left_out;
    for (int i = 0; i < model_.config.num_attention_layers(); ++i) {
      FATHOM_ASSIGN(const LayerConfig config, model_.config.layer(i));
      FATHOM_ASSIGN(const bool is_stored, has_layer(model_.checkpoint, config));
      if (is_stored || i < model_.config.num_layers) {
        layers.push_back(i);
      } else {
        left_out.push_back(config.name);
      }
    }
    if (!left_out.empty()) say(fmt::format("{}: not in the checkpoint, skipped", fmt::join(left_out, ", ")));
    return layers;
  }

  Status one(int index, const std::string& prefix) {
    FATHOM_ASSIGN(LayerConfig config, model_.config.layer(index));
    if (options_.rank > 0 || options_.world > 1) {
      FATHOM_ASSIGN(config, config.shard(options_.rank, options_.world));
    }
    const std::string tensor = input_tensor(options_, input_, index);
    FATHOM_ASSIGN(const HiddenStates hidden, read_hidden(input_, tensor, config.hidden_size));
    if (hidden.dtype == DType::f32 && options_.layer_options.numerics == Numerics::served) {
      say(fmt::format("{}: {} is f32, rounded to bf16 (served numerics)", config.name, tensor));
    }
    FATHOM_ASSIGN(const LoadedLayer weights, load_layer(model_.checkpoint, config));

    const auto start = std::chrono::steady_clock::now();
    FATHOM_ASSIGN(const LayerResult result, run_with_progress(config, weights, hidden));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const std::int64_t prefill = prefill_tokens(options_.layer_options, hidden.num_tokens);
    const std::string split =
        fmt::format("prefill {} then decode {} one at a time", prefill, hidden.num_tokens - prefill);
    say(fmt::format("{}: {} layer, {}, {:.2f} s", config.name, name_of(config.kind()), split, seconds));
    FATHOM_TRY(writer_.set_metadata(fmt::format("layers.{}", index), split));
    return collect(config, result, prefix);
  }

  Result<LayerResult> run_with_progress(const LayerConfig& config, const LoadedLayer& weights,
                                        const HiddenStates& hidden) {
    Progress progress(stderr, Progress::style_for(stderr, options_.quiet), config.name, hidden.num_tokens);
    return run_layer(config, weights, hidden.values, device_, options_.layer_options,
                     [&](std::int64_t done, bool decoding) { progress.update(done, decoding ? "decode" : "prefill"); });
  }

  Status collect(const LayerConfig& config, const LayerResult& result, const std::string& prefix) {
    FATHOM_TRY(add(prefix + "output", view(result.output.data(), DType::f32, {result.num_tokens, config.hidden_size})));
    Status status;
    visit_tensors(result.dump, [&](std::string_view name, const auto& tensor) {
      if (!status.ok()) return;
      using Value = typename std::decay_t<decltype(tensor.values)>::value_type;
      TensorView values = view(tensor.values.data(), std::is_same_v<Value, float> ? DType::f32 : DType::i32,
                               {tensor.shape[0], tensor.shape[1]});
      if (tensor.shape.size() == 3) {
        values = view(tensor.values.data(), values.dtype, {tensor.shape[0], tensor.shape[1], tensor.shape[2]});
      }
      status = add(prefix + std::string(name), values);
    });
    return status;
  }

  Status add(const std::string& name, const TensorView& tensor) {
    ++written_;
    return writer_.add(name, tensor);
  }

  void say(const std::string& line) const {
    if (options_.quiet) return;
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  const RunOptions& options_;
  Model model_;
  Checkpoint input_;
  Device device_;
  TensorWriter writer_;
  int written_ = 0;
};

Status run(RunOptions options) {
  LayerRunOptions& layer_options = options.layer_options;
  layer_options.numerics = options.numerics == "exact" ? Numerics::exact : Numerics::served;
  FATHOM_TRY(check_output(options.output));
  FATHOM_ASSIGN(Device device, options.device.open());
  FATHOM_ASSIGN(Model model, open_model(options.model));
  FATHOM_ASSIGN(Checkpoint input, Checkpoint::open(options.input, "input"));
  return Run(options, std::move(model), std::move(input), std::move(device)).all();
}

}  // namespace

void add_run(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<RunOptions>();
  LayerRunOptions& layer = options->layer_options;
  CLI::App* verb = app.add_subcommand("run", "Compute attention layers of a checkpoint over hidden states");
  verb->add_option("--model", options->model, "Folder with config.json and *.safetensors")
      ->check(not_empty())
      ->required();
  verb->add_option("--layer", options->layer, "Layer, counted as in compress_ratios (MTP last); default: every layer")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()));
  verb->add_option("--input", options->input, "Safetensors file with the normed hidden states, f32 or bf16 [T, D]")
      ->check(not_empty())
      ->required();
  verb->add_option("--input-name", options->input_name, "Tensor in it; default: layers.N.hidden, else hidden")
      ->check(not_empty());
  verb->add_option("--output", options->output, "Safetensors file to write")->check(not_empty())->required();
  verb->add_option("--prefill", layer.prefill, "Tokens to prefill, the rest is decoded one at a time; default: all")
      ->check(CLI::Range(std::int64_t{0}, kMaxTokens));
  verb->add_option("--chunk", layer.chunk,
                   fmt::format("Tokens of a prefill step; default: all in one, but at most {}", kDefaultChunk))
      ->check(CLI::Range(std::int64_t{1}, kMaxTokens));
  verb->add_option("--numerics", options->numerics, "exact (f32 throughout) or served (bf16, FP8 rows, FP4 index keys)")
      ->check(CLI::IsMember({"exact", "served"}))
      ->capture_default_str();
  verb->add_flag("--dump", layer.dump, "Also write picks, scores, core_out, entries, index keys, window and state");
  verb->add_flag("--quiet", options->quiet, "Print errors only");
  verb->add_option("--page-size", layer.page_size, "Rows of a page in every cache; 0: the default of each")
      ->check(CLI::Range(std::int64_t{0}, kMaxPageSize));
  verb->add_option("--page-order-seed", layer.page_order_seed, "Hand pages out in a seeded random order; 0: in order");
  add_device(*verb, options->device);
  add_split(*verb, layer.split);
  add_force(*verb, layer.forced, "take this implementation (repeatable)");
  const auto add_format = [&](const char* option, const char* meaning, std::optional<CacheFormat>& format,
                              const std::vector<std::string>& words) {
    verb->add_option_function<std::string>(
            option, [&format](const std::string& word) { format = cache_format_from(word); }, meaning)
        ->check(CLI::IsMember(words));
  };
  add_format("--kv-format", "Row format of window and entries", layer.kv_format, {"kv_f32", "kv_bf16", "kv_e4m3_ue8m0"});
  add_format("--index-format", "Row format of index keys", layer.index_format,
             {"index_f32", "index_e4m3_f32", "index_e2m1_ue8m0"});
  verb->add_option("--rank", options->rank, "With --world: the shard; output is then its f32 partial sum")
      ->check(CLI::Range(std::int64_t{0}, kMaxHeads - 1));
  verb->add_option("--world", options->world, "Number of shards")->check(CLI::Range(std::int64_t{1}, kMaxHeads));
  verb->callback([options, &exit_code] {
    const Status status = run(*options);
    exit_code = status.ok() ? kOk : fail(status);
  });
}

}  // namespace fathom::cli
