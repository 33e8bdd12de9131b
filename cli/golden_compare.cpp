// The bounds of a golden comparison and the arithmetic that measures them, in double and NaN-proof.
#include "cli/golden_compare.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace fathom::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The bounds, as promised for every golden checkpoint.
constexpr double kExactOutput = 1e-5, kExactOutputWorst = 1e-4, kExactRows = 1e-5, kExactClearCut = 1e-5;
constexpr double kServedOutput = 8e-3, kServedOutputWorst = 2e-2, kServedCore = 6e-3, kServedCoreWorst = 1.5e-2;
constexpr double kServedPicks = 0.01, kServedCut = 4e-3;
constexpr double kServedNope = 1e-3, kServedRope = 5e-3, kServedKeys = 1e-3;

/// The larger; NaN wins over every number, so that it cannot hide behind one.
double worse(double a, double b) noexcept { return std::isnan(a) || b <= a ? a : b; }

double relative(double difference, double size) noexcept {
  return difference == 0.0 ? 0.0 : size == 0.0 ? kInfinity : std::sqrt(difference / size);
}

struct Squares {
  double difference = 0.0, size = 0.0;
  void add(std::span<const float> got, std::span<const float> expected) noexcept {
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double d = static_cast<double>(got[i]) - expected[i];
      difference += d * d;
      size += static_cast<double>(expected[i]) * expected[i];
    }
  }
  double error() const noexcept { return relative(difference, size); }
};

/// The spacing of E4M3 numbers times 2^scale_exponent around `value`.
double e4m3_step(float value, int scale_exponent) noexcept {
  constexpr int kMantissaBits = 3, kSmallestNormal = -6;
  if (value == 0.0f) return std::ldexp(1.0, scale_exponent + kSmallestNormal - kMantissaBits);
  return std::ldexp(1.0, std::max(std::ilogb(value), scale_exponent + kSmallestNormal) - kMantissaBits);
}

/// The exponent of the scale behind a decoded tile: the smallest s with max <= 448 * 2^s. A tile whose maximum was
/// rounded down to half the range may have been stored with the next one, which is taken then.
int e4m3_scale_exponent(std::span<const float> tile) noexcept {
  float largest = 0.0f;
  for (const float value : tile) largest = std::max(largest, std::fabs(value));
  constexpr float kLargestCode = 448.0f;
  if (!(largest > 0.0f) || std::isinf(largest)) return -22;  // the quantiser's floor; an infinite tile has no scale to find
  const auto exponent = static_cast<int>(std::ceil(std::log2(largest / kLargestCode)));
  return std::ldexp(kLargestCode, exponent) == largest ? exponent + 1 : exponent;
}

std::vector<std::int32_t> picks_of(const DumpTensor<std::int32_t>& picks, std::int64_t token) {
  const std::int64_t topk = picks.shape[1];
  const auto first = picks.values.begin() + token * topk;
  std::vector<std::int32_t> row;
  std::copy_if(first, first + topk, std::back_inserter(row), [](std::int32_t entry) { return entry >= 0; });
  std::sort(row.begin(), row.end());
  return row;
}

/// Collects the measures of one layer.
class LayerComparison {
 public:
  LayerComparison(const GoldenLayer& golden, const LayerResult& result, const LayerConfig& config)
      : golden_(golden), result_(result), config_(config), counts_(golden.num_tokens, true) {}

  std::vector<Measure> all() {
    const bool exact = result_.problem.numerics == Numerics::exact;
    compare_picks(exact);
    compare_rows("output", {result_.num_tokens, config_.hidden_size}, result_.output, golden_.output,
                 exact ? kExactOutput : kServedOutput, exact ? kExactOutputWorst : kServedOutputWorst);
    compare_rows("core_out", result_.dump.core_out.shape, result_.dump.core_out.values, golden_.core_out, kServedCore,
                 kServedCoreWorst);
    const LayerDump& dump = result_.dump;
    if (exact) {
      compare_numbers("window rows", dump.window_ring, golden_.window_ring);
      compare_numbers("entries", dump.entries, golden_.entries);
      compare_numbers("index keys", dump.index_keys, golden_.index_keys);
    } else {
      compare_cache("window rows", dump.window_ring, golden_.window_ring);
      compare_cache("entries", dump.entries, golden_.entries);
      compare_keys();
    }
    compare_state();
    return std::move(measures_);
  }

 private:
  void add(std::string quantity, double value, double bound, std::string note = {}) {
    measures_.push_back({std::move(quantity), value, bound, std::move(note)});
  }

  template <class T, class U>
  bool same_shape(std::string_view name, const DumpTensor<T>& got, const DumpTensor<U>& golden) {
    return same_shape(name, got.shape, golden.shape);
  }
  bool same_shape(std::string_view name, const std::vector<std::int64_t>& got,
                  const std::vector<std::int64_t>& golden) {
    if (golden.empty()) return false;
    if (got == golden) return true;
    add(std::string(name), kInfinity, 0.0, "the golden tensor has another shape");
    return false;
  }

  void compare_picks(bool exact) {
    const DumpTensor<std::int32_t>& got = result_.dump.topk_entries;
    if (!same_shape("picks", got, golden_.topk_entries)) return;
    if (!same_shape("index scores", result_.dump.index_scores, golden_.index_scores)) return;
    compare_scores(exact);
    const PickErrors errors =
        pick_errors(got, golden_.topk_entries, golden_.index_scores, exact ? kExactClearCut : 0.0);
    counts_ = errors.agree;
    const std::string tokens = fmt::format("{} of {} tokens differ", errors.tokens, golden_.num_tokens);
    if (exact) {
      add("picks: tokens wrong at a clear cut", static_cast<double>(errors.wrong), 0.0, tokens);
      return;
    }
    const double share =
        errors.picks == 0 ? 0.0 : static_cast<double>(errors.differing) / static_cast<double>(errors.picks);
    add("picks that differ", share, kServedPicks, tokens);
    add("differing pick, distance from the cut", errors.farthest_from_cut, kServedCut);
  }

  void compare_scores(bool exact) {
    const auto& got = result_.dump.index_scores.values;
    const auto& expected = golden_.index_scores.values;
    std::vector<float> got_visible, expected_visible;
    std::int64_t mask_errors = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool visible = !std::isinf(expected[i]);
      if (visible ? !std::isfinite(got[i]) : got[i] != expected[i]) ++mask_errors;
      if (!visible) continue;
      got_visible.push_back(got[i]);
      expected_visible.push_back(expected[i]);
    }
    add("index scores: visibility errors", static_cast<double>(mask_errors), 0.0);
    if (exact && mask_errors == 0) add("index scores", relative_l2(got_visible, expected_visible), kExactRows);
  }

  /// Tokens whose picks differ see other rows, so they are left out; the picks have their own bounds.
  void compare_rows(const std::string& name, const std::vector<std::int64_t>& shape, std::span<const float> got,
                    const DumpTensor<float>& golden, double bound, double worst_bound) {
    if (!same_shape(name, shape, golden.shape)) return;
    const std::int64_t columns =
        golden.shape[0] == 0 ? 0 : static_cast<std::int64_t>(golden.values.size()) / golden.shape[0];
    const RowErrors errors = row_errors(got, golden.values, columns, counts_);
    const auto left_out = std::count(counts_.begin(), counts_.end(), false);
    add(name, errors.all, bound, left_out == 0 ? "" : fmt::format("{} tokens left out, their picks differ", left_out));
    add(name + ", worst token", errors.worst, worst_bound, fmt::format("token {}", errors.worst_row));
  }

  void compare_numbers(const std::string& name, const DumpTensor<float>& got, const DumpTensor<float>& golden) {
    if (same_shape(name, got, golden)) add(name, relative_l2(got.values, golden.values), kExactRows);
  }

  void compare_cache(const std::string& name, const DumpTensor<float>& got, const DumpTensor<float>& golden) {
    if (!same_shape(name, got, golden)) return;
    const std::int64_t dim = config_.head_dim, nope = config_.nope_dim();
    const CodeErrors codes = e4m3_errors(got.values, golden.values, dim, 0, nope);
    add(name + ": NoPE that differ", codes.share(), kServedNope,
        fmt::format("{} of {}", codes.differing, codes.elements));
    add(name + ": NoPE beyond one code step", static_cast<double>(codes.beyond_one_step), 0.0);
    const CodeErrors rotary = value_errors(got.values, golden.values, dim, nope, config_.rope_dim());
    add(name + ": rotary that differ", rotary.share(), kServedRope,
        fmt::format("{} of {}", rotary.differing, rotary.elements));
  }

  void compare_keys() {
    const DumpTensor<float>& got = result_.dump.index_keys;
    if (!same_shape("index keys", got, golden_.index_keys)) return;
    const std::int64_t dim = config_.index_dim;
    const CodeErrors codes = value_errors(got.values, golden_.index_keys.values, dim, 0, dim);
    add("index keys that differ", codes.share(), kServedKeys, fmt::format("{} of {}", codes.differing, codes.elements));
  }

  /// Only the live rows: the reference leaves stale ones behind.
  void compare_state() {
    const LayerDump& dump = result_.dump;
    if (!same_shape("state", dump.compressor_kv_state, golden_.compressor_kv_state)) return;
    if (!same_shape("state scores", dump.compressor_score_state, golden_.compressor_score_state)) return;
    const std::int64_t width = golden_.compressor_kv_state.shape[1];
    Squares kv, scores;
    for (std::int64_t p = std::max<std::int64_t>(0, result_.num_tokens - config_.state_tokens());
         p < result_.num_tokens; ++p) {
      const std::int64_t row = state_row(p, result_.num_tokens, config_.compress_ratio, config_.overlap());
      if (row < 0) continue;
      const auto cut = [&](const DumpTensor<float>& tensor) {
        return std::span(tensor.values).subspan(row * width, width);
      };
      kv.add(cut(dump.compressor_kv_state), cut(golden_.compressor_kv_state));
      scores.add(cut(dump.compressor_score_state), cut(golden_.compressor_score_state));
    }
    add("live state rows", kv.error(), kExactRows);
    add("live state scores", scores.error(), kExactRows);
  }

  const GoldenLayer& golden_;
  const LayerResult& result_;
  const LayerConfig& config_;
  std::vector<bool> counts_;
  std::vector<Measure> measures_;
};

}  // namespace

double relative_l2(std::span<const float> got, std::span<const float> expected) noexcept {
  if (got.size() != expected.size()) return kInfinity;
  Squares squares;
  squares.add(got, expected);
  return squares.error();
}

RowErrors row_errors(std::span<const float> got, std::span<const float> expected, std::int64_t columns,
                     const std::vector<bool>& counts) noexcept {
  RowErrors errors;
  Squares all;
  for (std::size_t row = 0; row < counts.size(); ++row) {
    if (!counts[row]) continue;
    const auto width = static_cast<std::size_t>(columns);
    const auto got_row = got.subspan(row * width, width), expected_row = expected.subspan(row * width, width);
    all.add(got_row, expected_row);
    const double error = relative_l2(got_row, expected_row);
    if (errors.worst_row >= 0 && (std::isnan(errors.worst) || error <= errors.worst)) continue;
    errors.worst = error;
    errors.worst_row = static_cast<std::int64_t>(row);
  }
  errors.all = all.error();
  return errors;
}

PickErrors pick_errors(const DumpTensor<std::int32_t>& got, const DumpTensor<std::int32_t>& golden,
                       const DumpTensor<float>& golden_scores, double least_gap) {
  PickErrors errors;
  const std::int64_t columns = golden_scores.shape[1];
  for (std::int64_t token = 0; token < golden.shape[0]; ++token) {
    const std::vector<std::int32_t> ours = picks_of(got, token), theirs = picks_of(golden, token);
    errors.picks += static_cast<std::int64_t>(theirs.size());
    errors.agree.push_back(ours == theirs);
    if (ours == theirs) continue;
    ++errors.tokens;
    const std::span<const float> scores = std::span(golden_scores.values).subspan(token * columns, columns);
    std::vector<float> ranked;
    std::copy_if(scores.begin(), scores.end(), std::back_inserter(ranked), [](float s) { return std::isfinite(s); });
    std::sort(ranked.begin(), ranked.end(), std::greater<>());
    float largest = 0.0f;
    for (const float score : ranked) largest = std::max(largest, std::fabs(score));

    std::vector<std::int32_t> apart, missed;
    std::set_symmetric_difference(ours.begin(), ours.end(), theirs.begin(), theirs.end(), std::back_inserter(apart));
    std::set_difference(theirs.begin(), theirs.end(), ours.begin(), ours.end(), std::back_inserter(missed));
    errors.differing += static_cast<std::int64_t>(missed.size());
    const std::size_t k = theirs.size();
    // Where everything visible is picked there is no cut that rounding could move.
    const bool has_cut = k > 0 && k < ranked.size();
    const bool cut_is_clear = !has_cut || static_cast<double>(ranked[k - 1]) - ranked[k] > least_gap * largest;
    // A list of another length, or with doubles, is no near-tie either.
    const bool possible = ours.size() == k && std::adjacent_find(ours.begin(), ours.end()) == ours.end();
    if (cut_is_clear || !possible) ++errors.wrong;
    for (const std::int32_t entry : apart) {
      const bool visible = entry < columns && std::isfinite(scores[entry]);
      const double distance = !has_cut || !possible || !visible ? kInfinity
                              : largest == 0.0f
                                  ? 0.0
                                  : std::fabs(static_cast<double>(scores[entry]) - ranked[k - 1]) / largest;
      errors.farthest_from_cut = worse(errors.farthest_from_cut, distance);
    }
  }
  return errors;
}

CodeErrors e4m3_errors(std::span<const float> got, std::span<const float> expected, std::int64_t dim,
                       std::int64_t first, std::int64_t count) noexcept {
  constexpr std::int64_t kTile = 64;
  CodeErrors errors;
  for (std::size_t row = 0; row + dim <= got.size(); row += dim) {
    for (std::int64_t tile = first; tile < first + count; tile += kTile) {
      const auto width = static_cast<std::size_t>(std::min(kTile, first + count - tile));
      const auto ours = got.subspan(row + tile, width), theirs = expected.subspan(row + tile, width);
      const int exponent = std::max(e4m3_scale_exponent(ours), e4m3_scale_exponent(theirs));
      for (std::size_t i = 0; i < width; ++i) {
        ++errors.elements;
        if (ours[i] == theirs[i]) continue;
        ++errors.differing;
        const double step = std::max(e4m3_step(ours[i], exponent), e4m3_step(theirs[i], exponent));
        const double distance = std::fabs(static_cast<double>(ours[i]) - theirs[i]);
        if (!std::isfinite(distance) || distance > step) ++errors.beyond_one_step;
      }
    }
  }
  return errors;
}

CodeErrors value_errors(std::span<const float> got, std::span<const float> expected, std::int64_t dim,
                        std::int64_t first, std::int64_t count) noexcept {
  CodeErrors errors;
  for (std::size_t row = 0; row + dim <= got.size(); row += dim) {
    for (std::int64_t i = first; i < first + count; ++i) {
      ++errors.elements;
      if (got[row + i] != expected[row + i]) ++errors.differing;
    }
  }
  return errors;
}

std::vector<Measure> compare_layer(const GoldenLayer& golden, const LayerResult& result, const LayerConfig& config) {
  return LayerComparison(golden, result, config).all();
}

}  // namespace fathom::cli
