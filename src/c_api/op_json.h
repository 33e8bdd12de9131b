// Ops and their implementations as JSON: what bindings in other languages build their signatures from.
#pragma once

#include <span>
#include <string>

#include "fathom/core/op.h"
#include "fathom/core/plan.h"

namespace fathom {

/// The op's contract; the keys are listed at fathom_op_json.
std::string op_json(const OpSpec& op);
/// What a device is; the keys are listed at fathom_device_json.
std::string device_json(const Device& device);
/// [{"implementation", "reason"}].
std::string candidates_json(std::span<const Candidate> list);

}  // namespace fathom
