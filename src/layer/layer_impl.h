// The one implementation of layer: its stages. There is no arithmetic here, so there is no reference beside it either;
// the stages' references composed (implementation "project=reference compress=reference ...") are the definition.
#pragma once

#include "core/implementation.h"
#include "fathom/layer.h"

namespace fathom {

const Op& layer_op() noexcept;

/// Arguments that the layer kind needs are there, and sizes that shapes cannot say agree. All of it before any stage
/// runs, because a stage that has run has written its cache.
Status check_layer(const LayerProblem& problem, const LayerArgs& args);

Result<Prepared> prepare_layer(const LayerProblem& problem, const Device& device, const PlanOptions& options);
Status run_layer(const LayerProblem& problem, const LayerArgs& args, const RunContext& context);

}  // namespace fathom
