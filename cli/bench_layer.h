// `fathom bench --model-layer PRESET`: one layer of a released size with random weights, timed stage by stage.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/device_choice.h"
#include "fathom/attend.h"
#include "fathom/config.h"
#include "harness/conformance.h"

namespace fathom::cli {

struct BenchLayerOptions {
  std::string preset = "v4-flash";  ///< "v4-flash" or "v4-pro"
  LayerKind kind = LayerKind::csa;
  std::int64_t tokens = 256;  ///< prefilled in one step
  std::vector<int> batches{1};         ///< sequences of a decode step, which brings one token of each
  std::vector<std::int64_t> contexts;  ///< tokens before that step, made up; empty: `tokens`
  std::string json;                    ///< one object a step is appended to this file; empty: none
  Split split = Split::balanced;
  DeviceChoice device;
  harness::Forced forced;     ///< of the layer and its stages
};

/// Prints a table of the stages (time, share) for the prefill and for a decode step of each context and batch; on a GPU
/// also the layer as one. Returns the exit code.
int bench_layer(const BenchLayerOptions& options);

}  // namespace fathom::cli
