// Bounds that configurations, presets and rotary tables share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

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

/// What the fields of a configuration are called in the text it was read from. All names are literals.
class FieldNames {
 public:
  void set(const char* field, const char* name) noexcept {
    if (count_ < names_.size()) names_[count_++] = {field, name};
  }
  /// The name set last, else the field's own.
  const char* of(std::string_view field) const noexcept {
    for (std::size_t i = count_; i > 0; --i) {
      if (names_[i - 1].first == field) return names_[i - 1].second;
    }
    return field.data();
  }

 private:
  std::array<std::pair<std::string_view, const char*>, 32> names_;
  std::size_t count_ = 0;
};

/// check_config whose statuses call fields what the text calls them.
Status check_config(const ModelConfig& config, const FieldNames& names) noexcept;
/// A rotation that exists; statuses start with "`what`: ".
Status check_rope(const char* what, const RopeConfig& rope, const FieldNames& names = {}) noexcept;

}  // namespace fathom
