// `fathom bench --model-layer PRESET`: one layer of a released size with random weights, timed stage by stage.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/device_choice.h"
#include "fathom/attend.h"
#include "fathom/config.h"
#include "harness/conformance.h"

namespace fathom::cli {

struct BenchLayerOptions {
  std::string preset = "v4-flash";  ///< "v4-flash" or "v4-pro"
  LayerKind kind = LayerKind::csa;
  std::int64_t tokens = 256;  ///< prefilled in one step
  int batch = 1;              ///< sequences of the decode step, which brings one token of each
  std::optional<std::int64_t> context;  ///< tokens before that step, made up; absent: `tokens`
  Split split = Split::balanced;
  DeviceChoice device;
  harness::Forced forced;     ///< of the layer and its stages
};

/// Prints a table of the stages (time, share) for the prefill and for a decode step; on a GPU also the layer as one.
/// Returns the exit code.
int bench_layer(const BenchLayerOptions& options);

}  // namespace fathom::cli
