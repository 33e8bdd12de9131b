// `fathom check --golden DIR`: runs every layer of a golden folder and holds the results against the expected ones.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/device_choice.h"
#include "cli/golden_compare.h"
#include "cli/model_files.h"

namespace fathom::cli {

struct GoldenOptions {
  std::string folder;                 ///< config.json, model.safetensors, expected_exact|served.safetensors
  std::optional<Numerics> numerics;   ///< absent: every numerics the folder has expected values for
  harness::Forced forced;             ///< of the layers and their stages
  DeviceChoice device;
  std::int64_t chunk = 0;             ///< tokens of a prefill chunk; 0: the runner's default
  int page_size = 0;                  ///< rows of a page; 0: the default of each cache
  std::uint64_t page_order_seed = 0;  ///< 0: pages in order
};

/// Layers that `expected` holds hidden states for, in order.
std::vector<int> golden_layers(const Checkpoint& expected, const ModelConfig& config);
/// Everything `expected` says about layer `layer`; the split into prefill and decode stands in the file's metadata
/// ("prefill 300 then decode 20 one at a time").
Result<GoldenLayer> read_golden_layer(const Checkpoint& expected, int layer);
/// Runs the layer with the golden split and measures it.
Result<std::vector<Measure>> measure_golden_layer(const Model& model, const GoldenLayer& golden, int layer,
                                                  Numerics numerics, const GoldenOptions& options, const Device& device,
                                                  const StepReport& report = {});

/// Prints one line for each layer and quantity (value, bound, ok or FAILED), then a summary line. Returns the exit
/// code: kOk only if at least one layer was compared and every bound held.
int check_golden(const GoldenOptions& options);

}  // namespace fathom::cli
