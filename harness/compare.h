// compare: an implementation's outputs beside the reference's, argument by argument.
#pragma once

#include <string>
#include <vector>

#include "harness/run.h"

namespace fathom::harness {

struct ArgComparison {
  const char* name = nullptr;
  std::int64_t elements = 0;
  std::int64_t differing = 0;  ///< elements that are not equal
  double max_absolute = 0;
  double max_relative = 0;
  double relative_l2 = 0;
  std::string failure;       ///< empty, or what is wrong and where
  const char* because = "";  ///< why the tolerance is what it is
};

struct Comparison {
  std::vector<ArgComparison> args;

  bool ok() const noexcept;
  /// "out: element [2, 5, 100] is 1.5, expected 1.25 ...": the first failure, or empty.
  std::string failure() const;
};

/// `reference` was run with all outputs. Both runs must be ok.
Comparison compare(const OpCase& built, const WatchedRun& run, const WatchedRun& reference);

// ---- the kinds of comparison, by argument (compare dispatches)
// --------------------------------------------------------

/// Floats within the tolerance table; NaN and infinities in the same places. `rows` tells which rows of the first
/// dimension count (empty: all).
ArgComparison compare_floats(const OpCase& built, std::size_t arg, const WatchedRun& run, const WatchedRun& reference,
                             const std::vector<bool>& rows);
/// Integers, equal.
ArgComparison compare_integers(const OpCase& built, std::size_t arg, const WatchedRun& run,
                               const WatchedRun& reference);
/// A cache: bytes the reference left alone are untouched, rows it wrote agree in all but few codes.
ArgComparison compare_cache(const OpCase& built, std::size_t arg, const WatchedRun& run, const WatchedRun& reference);
/// Quantised index queries with their scales, and the head weights that may carry a scale.
std::vector<ArgComparison> compare_index_queries(const OpCase& built, const WatchedRun& run,
                                                 const WatchedRun& reference);
/// attend's results as codes with their scales.
std::vector<ArgComparison> compare_result_codes(const OpCase& built, const WatchedRun& run,
                                                const WatchedRun& reference);
/// Picks against the reference's, judged by scores at the cut, and against the run's own scores exactly.
/// Sets `rows[t]` to false where the picks of token t differ.
std::vector<ArgComparison> compare_picks(const OpCase& built, const WatchedRun& run, const WatchedRun& reference,
                                         std::vector<bool>& rows);

/// "[2, 5, 100]" of element `at` counted in rows of the view.
std::string place_of(const TensorView& view, std::int64_t at);

}  // namespace fathom::harness
