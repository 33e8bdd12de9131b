// `fathom bench --model-layer PRESET`: one layer of a released size with random weights, timed stage by stage.
#pragma once

#include <cstdint>
#include <string>

#include "fathom/config.h"
#include "harness/conformance.h"

namespace fathom::cli {

struct BenchLayerOptions {
  std::string preset = "v4-flash";  ///< "v4-flash" or "v4-pro"
  LayerKind kind = LayerKind::csa;
  std::int64_t tokens = 256;  ///< prefilled in one step
  int decode_steps = 4;       ///< single-token steps after it
  int threads = 0;            ///< 0: all
  harness::Forced forced;     ///< of the layer and its stages
};

/// Prints a table of the stages (milliseconds, share) for the prefill and for a decode step. Returns the exit code.
int bench_layer(const BenchLayerOptions& options);

}  // namespace fathom::cli
