// Bounds that configurations, presets and rotary tables share.
#pragma once

#include <cstdint>

#include "fathom/config.h"
#include "fathom/core/problem.h"

namespace fathom {

/// Keeps num_heads * head_dim inside kMaxDim.
inline constexpr std::int64_t kMaxHeadDim = 4096;
inline constexpr std::int64_t kMaxLayers = 1024;
// The bounds of LayerProblem: a configuration that no layer can be planned for is refused where it is read.
inline constexpr std::int64_t kMaxWindow = std::int64_t{1} << 20;
inline constexpr std::int64_t kMaxIndexDim = 1024;
inline constexpr std::int64_t kMaxIndexTopk = std::int64_t{1} << 20;
/// Positions up to here are exact in f32, which the rotation angle is made of.
inline constexpr std::int64_t kMaxPositions = kMaxTokens;

/// A rotation that exists; statuses start with "`what`: ".
Status check_rope(const char* what, const RopeConfig& rope) noexcept;

}  // namespace fathom
