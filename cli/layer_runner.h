// Running one layer over one sequence: prefill in chunks, then one token at a time. `fathom run`, the golden check and
// the tests share it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/layer_dump.h"
#include "fathom/checkpoint.h"
#include "harness/conformance.h"
#include "harness/plan_workspace.h"

namespace fathom::cli {

/// Most tokens of a prefill step unless --chunk says otherwise; it bounds the memory a step needs.
inline constexpr std::int64_t kDefaultChunk = 2048;

struct LayerRunOptions {
  Numerics numerics = Numerics::served;
  std::optional<std::int64_t> prefill;  ///< tokens prefilled, the rest is decoded; absent: all
  std::int64_t chunk = 0;               ///< tokens of a prefill step; 0: kDefaultChunk
  int page_size = 0;                    ///< rows of a page, all caches; 0: the default of each
  std::uint64_t page_order_seed = 0;
  Split split = Split::balanced;
  harness::Forced forced;  ///< of the layer and its stages
  std::optional<CacheFormat> kv_format, index_format;
  bool dump = false;
};

struct LayerResult {
  LayerProblem problem;
  std::int64_t num_tokens = 0;
  std::vector<float> output;  ///< [num_tokens, hidden_size]
  LayerDump dump;             ///< filled if it was asked for
};

/// A plan for steps of at most some tokens, and its workspace.
struct Stepper {
  LayerPlan plan;
  harness::PlanWorkspace workspace;
};
Result<Stepper> make_stepper(LayerProblem problem, std::int32_t capacity, const Device& device, const std::string& force);

/// Every op that `forced` names is run by one of the layers.
Status check_forced_ops(const ModelConfig& model, std::span<const int> layers, Numerics numerics, const Device& device,
                        const harness::Forced& forced);

/// Called after each step with the tokens finished so far.
using StepReport = std::function<void(std::int64_t done, bool decoding)>;

/// Tokens of `num_tokens` that are prefilled.
std::int64_t prefill_tokens(const LayerRunOptions& options, std::int64_t num_tokens) noexcept;
/// The layer problem the options ask for, with step capacity, formats, page sizes and weight types filled in.
Result<LayerProblem> problem_for(const LayerConfig& config, const LoadedLayer& weights, std::int64_t num_tokens,
                                 const LayerRunOptions& options);

/// Runs `hidden` f32 [T, hidden_size] (rounded to bf16 first under served numerics) as one sequence from position 0.
Result<LayerResult> run_layer(const LayerConfig& config, const LoadedLayer& weights, std::span<const float> hidden,
                              const Device& device, const LayerRunOptions& options, const StepReport& report = {});

}  // namespace fathom::cli
