// Which argument is compared how; floats and integers.
#include "harness/compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "harness/numbers.h"
#include "harness/tolerance.h"

namespace fathom::harness {
namespace {

/// All elements of a view as numbers, in order.
std::vector<double> numbers_of(const TensorView& view) {
  std::vector<double> numbers;
  numbers.reserve(static_cast<std::size_t>(view.numel()));
  for_each_row(view, [&](const std::byte* row, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) numbers.push_back(element_of(row, view.dtype, i));
  });
  return numbers;
}

bool is_float(DType dtype) noexcept { return dtype == DType::f32 || dtype == DType::bf16; }
bool same_number(double a, double b) noexcept { return a == b || (std::isnan(a) && std::isnan(b)); }

std::string mismatch(const TensorView& view, std::size_t at, double came, double expected) {
  char text[160];
  std::snprintf(text, sizeof(text), "element %s is %.9g, expected %.9g",
                place_of(view, static_cast<std::int64_t>(at)).c_str(), came, expected);
  return text;
}

}  // namespace

bool Comparison::ok() const noexcept {
  return std::all_of(args.begin(), args.end(), [](const ArgComparison& arg) { return arg.failure.empty(); });
}

std::string Comparison::failure() const {
  for (const ArgComparison& arg : args) {
    if (!arg.failure.empty()) return std::string(arg.name) + ": " + arg.failure;
  }
  return {};
}

std::string place_of(const TensorView& view, std::int64_t at) {
  std::string text;
  for (int i = view.rank - 1; i >= 0; --i) {
    text = std::to_string(at % view.shape[i]) + (text.empty() ? "" : ", ") + text;
    at /= view.shape[i];
  }
  return "[" + text + "]";
}

ArgComparison compare_floats(const OpCase& built, std::size_t arg, const WatchedRun& run, const WatchedRun& reference,
                             const std::vector<bool>& rows) {
  const TensorView& view = run.views[arg];
  const std::vector<double> came = numbers_of(view), expected = numbers_of(reference.views[arg]);
  const Tolerance tolerance = tolerance_of(built, built.op->args[arg].name, view.dtype);
  ArgComparison result;
  result.name = built.op->args[arg].name;
  result.elements = static_cast<std::int64_t>(came.size());
  result.because = tolerance.because;
  const std::size_t per_row = rows.empty() || came.empty() ? came.size() : came.size() / rows.size();
  const auto counts = [&](std::size_t i) { return rows.empty() || rows[i / per_row]; };

  double square = 0, error_square = 0;
  std::int64_t finite = 0;
  for (std::size_t i = 0; i < came.size(); ++i) {
    if (!counts(i) || !std::isfinite(expected[i])) continue;
    square += expected[i] * expected[i];
    ++finite;
  }
  const double rms = finite == 0 ? 0 : std::sqrt(square / static_cast<double>(finite));
  double worst = 0;
  for (std::size_t i = 0; i < came.size(); ++i) {
    if (!counts(i) || same_number(came[i], expected[i])) continue;
    ++result.differing;
    const double difference = std::fabs(came[i] - expected[i]);
    const double allowed = tolerance.absolute * rms + tolerance.relative * std::fabs(expected[i]);
    // A NaN difference (NaN or infinity on one side only) exceeds every bound.
    const double excess = std::isfinite(difference) ? difference - allowed : HUGE_VAL;
    if (excess > worst) {
      worst = excess;
      result.failure = mismatch(view, i, came[i], expected[i]);
    }
    if (!std::isfinite(difference)) continue;
    error_square += difference * difference;
    result.max_absolute = std::max(result.max_absolute, difference);
    if (expected[i] != 0) result.max_relative = std::max(result.max_relative, difference / std::fabs(expected[i]));
  }
  result.relative_l2 = square > 0 ? std::sqrt(error_square / square) : std::sqrt(error_square);
  // The bound is one of an average: over few elements it scatters by the root of their number.
  const double allowed_l2 = tolerance.l2 * (1 + 4 / std::sqrt(static_cast<double>(std::max<std::int64_t>(finite, 1))));
  if (result.failure.empty() && result.relative_l2 > allowed_l2) {
    char text[120];
    std::snprintf(text, sizeof(text), "relative L2 error %.3g, allowed %.3g", result.relative_l2, allowed_l2);
    result.failure = text;
  }
  return result;
}

ArgComparison compare_integers(const OpCase& built, std::size_t arg, const WatchedRun& run,
                               const WatchedRun& reference) {
  const std::vector<double> came = numbers_of(run.views[arg]), expected = numbers_of(reference.views[arg]);
  ArgComparison result;
  result.name = built.op->args[arg].name;
  result.elements = static_cast<std::int64_t>(came.size());
  result.because = "whole numbers: equal";
  for (std::size_t i = 0; i < came.size(); ++i) {
    if (same_number(came[i], expected[i])) continue;
    if (result.differing++ == 0) result.failure = mismatch(run.views[arg], i, came[i], expected[i]);
  }
  return result;
}

Comparison compare(const OpCase& built, const WatchedRun& run, const WatchedRun& reference) {
  Comparison result;
  const std::string_view op = built.op->name;
  std::vector<bool> rows;
  std::vector<std::string_view> done;
  const auto keep = [&](std::vector<ArgComparison> compared) {
    for (ArgComparison& one : compared) {
      done.push_back(one.name);
      result.args.push_back(std::move(one));
    }
  };
  if (op == "index" || op == "layer") keep(compare_picks(built, run, reference, rows));
  if (op == "index_query") keep(compare_index_queries(built, run, reference));
  if (op == "attend") keep(compare_result_codes(built, run, reference));
  for (std::size_t i = 0; i < built.args.size(); ++i) {
    const ArgSpec& spec = built.op->args[i];
    if (!is_written(spec.role) || run.views[i].is_absent()) continue;
    if (std::find(done.begin(), done.end(), spec.name) != done.end()) continue;
    const DType dtype = run.views[i].dtype;
    if (dtype == DType::u8) {
      result.args.push_back(compare_cache(built, i, run, reference));
    } else if (is_float(dtype)) {
      // Only attention and what follows depends on the picks; scores do not.
      const bool behind_picks = op == "layer" && std::string_view(spec.name) != "index_scores";
      result.args.push_back(compare_floats(built, i, run, reference, behind_picks ? rows : std::vector<bool>{}));
    } else {
      result.args.push_back(compare_integers(built, i, run, reference));
    }
  }
  return result;
}

}  // namespace fathom::harness
