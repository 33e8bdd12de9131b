// Rotary frequencies and tables, in the reference's own f32 steps (spec 0.6): at a million positions an angle computed
// in double is a different model, and so is one ulp of a frequency.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "config/config_checks.h"
#include "core/view_checks.h"

namespace fathom {
namespace {

/// The pair of dims that turns `turns` times over the original length: YaRN's ramp runs between two of these.
double pair_with_turns(const RopeConfig& config, double turns) noexcept {
  const double length = static_cast<double>(config.original_length);
  return config.rope_dim * std::log(length / (2 * std::numbers::pi * turns)) /
         (2 * std::log(static_cast<double>(config.theta)));
}

}  // namespace

Status rope_frequencies(const RopeConfig& config, float* out) noexcept {
  FATHOM_TRY(check_rope("rope_frequencies", config));
  if (out == nullptr) return Status::invalid("rope_frequencies: out is null");
  const int pairs = config.rope_dim / 2;
  for (int i = 0; i < pairs; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rope_dim);
    // powl leaves 40 bits beyond f32's 24, so that rounding its result is rounding the power itself.
    const auto power =
        static_cast<float>(std::pow(static_cast<long double>(config.theta), static_cast<long double>(exponent)));
    out[i] = 1.0f / power;
  }
  if (config.factor == 0.0f) return {};
  const float low = static_cast<float>(std::max(std::floor(pair_with_turns(config, config.beta_fast)), 0.0));
  float high =
      static_cast<float>(std::min(std::ceil(pair_with_turns(config, config.beta_slow)), config.rope_dim - 1.0));
  if (low == high) high += 0.001f;
  for (int i = 0; i < pairs; ++i) {
    const float ramp = std::clamp((static_cast<float>(i) - low) / (high - low), 0.0f, 1.0f);
    const float keep = 1.0f - ramp;
    const float stretched = out[i] / config.factor * (1.0f - keep);
    const float kept = out[i] * keep;
    out[i] = stretched + kept;
  }
  return {};
}

Status fill_rope_table(const RopeConfig& config, std::int64_t first, const TensorView& table) noexcept {
  FATHOM_TRY(check_rope("fill_rope_table", config));
  if (table.dtype != DType::f32 || table.rank != 2 || table.shape[1] != config.rope_dim || table.shape[0] < 0) {
    return Status::invalid(
        "fill_rope_table: table has dtype %s, rank %d and %lld columns, expected f32 [count, rope_dim=%d]",
        name_of(table.dtype), table.rank, static_cast<long long>(table.rank > 1 ? table.shape[1] : 0), config.rope_dim);
  }
  if (table.device != DeviceKind::cpu) return Status::invalid("fill_rope_table: table lies on cuda, expected cpu");
  if (first < 0 || first > kMaxPositions || table.shape[0] > kMaxPositions - first) {
    return Status::invalid("fill_rope_table: %lld rows from position %lld asked for, expected positions 0 to %lld",
                           static_cast<long long>(table.shape[0]), static_cast<long long>(first),
                           static_cast<long long>(kMaxPositions));
  }
  if (table.shape[0] == 0) return {};
  if (table.data == nullptr || table.strides[1] != 1 || table.strides[0] < config.rope_dim) {
    return Status::invalid(
        "fill_rope_table: table is null or its rows overlap, expected row stride >= %d and column stride 1",
        config.rope_dim);
  }
  FATHOM_TRY(check_memory("fill_rope_table", "table", table, true));
  float frequencies[kMaxHeadDim / 2];
  FATHOM_TRY(rope_frequencies(config, frequencies));
  const int pairs = config.rope_dim / 2;
  for (std::int64_t row = 0; row < table.shape[0]; ++row) {
    const auto position = static_cast<float>(first + row);
    float* cosines = table.row<float>(row);
    for (int i = 0; i < pairs; ++i) {
      const double angle = position * frequencies[i];  // rounded to f32 before it is widened
      cosines[i] = static_cast<float>(std::cos(angle));
      cosines[pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
  return {};
}

}  // namespace fathom
