// Measuring a layer's results against golden ones. Every bound of the project's promise is a Measure: a value that must
// not exceed its bound. Nothing here prints or reads files, so the program and the tests share it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/layer_runner.h"

namespace fathom::cli {

/// What a golden folder says about one layer. Absent tensors are empty; shapes as in tests/golden/README.md.
struct GoldenLayer {
  std::int64_t num_tokens = 0;
  std::int64_t prefill = 0;  ///< tokens prefilled first; the rest was decoded one at a time
  std::vector<float> hidden;
  DumpTensor<float> output, core_out, index_scores, window_ring, entries, index_keys;
  DumpTensor<float> compressor_kv_state, compressor_score_state;
  DumpTensor<std::int32_t> topk_entries;
};

struct Measure {
  std::string quantity;
  double value = 0.0;
  double bound = 0.0;
  std::string note;  ///< what a reader may want to know: where the worst is, how many were left out

  /// False for NaN, whatever the bound.
  bool ok() const noexcept { return value <= bound; }
};

/// All measures of a layer. A golden tensor whose shape differs from the result's gives a measure that fails.
std::vector<Measure> compare_layer(const GoldenLayer& golden, const LayerResult& result, const LayerConfig& config);

// ---- the measuring words, each tested alone -------------------------------------------------------------------------

/// ||got - expected|| / ||expected||; 0 if both are zero, NaN if any number is.
double relative_l2(std::span<const float> got, std::span<const float> expected) noexcept;

/// Relative L2 error over the rows that `counts` marks, and of the worst of them.
struct RowErrors {
  double all = 0.0;
  double worst = 0.0;
  std::int64_t worst_row = -1;
};
RowErrors row_errors(std::span<const float> got, std::span<const float> expected, std::int64_t columns,
                     const std::vector<bool>& counts) noexcept;

/// How the picks of all tokens differ from the golden ones.
struct PickErrors {
  std::vector<bool> agree;         ///< by token: the same set
  std::int64_t picks = 0;          ///< golden picks
  std::int64_t differing = 0;      ///< of them not picked
  std::int64_t tokens = 0;         ///< tokens with a different set
  std::int64_t wrong = 0;          ///< tokens with a different set though the cut is clear (by `least_gap`)
  double farthest_from_cut = 0.0;  ///< of a differing pick's golden score, as a share of the row's largest |score|
};
/// `least_gap`: a cut is clear if k-th and (k+1)-th golden scores differ by more than this share of the largest
/// |score|. A pick that is out of range, not visible, or made twice is at infinite distance from the cut.
PickErrors pick_errors(const DumpTensor<std::int32_t>& got, const DumpTensor<std::int32_t>& golden,
                       const DumpTensor<float>& golden_scores, double least_gap);

/// Elements of rows [n, dim] that differ, as shares.
struct CodeErrors {
  std::int64_t elements = 0;
  std::int64_t differing = 0;
  std::int64_t beyond_one_step = 0;  ///< of them by more than one code step

  double share() const noexcept {
    return elements == 0 ? 0.0 : static_cast<double>(differing) / static_cast<double>(elements);
  }
};
/// Columns [first, first + count) of decoded E4M3 rows with one scale for each 64 columns.
CodeErrors e4m3_errors(std::span<const float> got, std::span<const float> expected, std::int64_t dim,
                       std::int64_t first, std::int64_t count) noexcept;
/// Columns compared by value alone.
CodeErrors value_errors(std::span<const float> got, std::span<const float> expected, std::int64_t dim,
                        std::int64_t first, std::int64_t count) noexcept;

}  // namespace fathom::cli
