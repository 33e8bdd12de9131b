// Picks of the index: sets that may differ from the reference's only at the cut, and that must follow exactly from the
// run's own scores (ties to the smaller entry, NaN below every number).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "fathom/index.h"
#include "harness/compare.h"
#include "harness/tolerance.h"

namespace fathom::harness {
namespace {

using Picks = std::vector<std::int32_t>;

std::string pick_text(std::int64_t token, const char* what, std::int64_t entry) {
  char text[160];
  std::snprintf(text, sizeof(text), "token %lld: %s %lld", static_cast<long long>(token), what,
                static_cast<long long>(entry));
  return text;
}

Picks row_of(const TensorView& view, std::int64_t token) {
  return {view.row<std::int32_t>(token), view.row<std::int32_t>(token) + view.shape[1]};
}

/// Empty if the row is ascending entries, then -1.
std::string form_fault(const Picks& picks, std::int64_t token) {
  for (std::size_t i = 0; i < picks.size(); ++i) {
    if (picks[i] < -1) return pick_text(token, "picked", picks[i]);
    if (i == 0) continue;
    if (picks[i - 1] == -1 && picks[i] != -1) return pick_text(token, "-1 stands before entry", picks[i]);
    if (picks[i] != -1 && picks[i] <= picks[i - 1]) return pick_text(token, "not ascending at entry", picks[i]);
  }
  return {};
}

std::int64_t count_of(const Picks& picks) { return std::find(picks.begin(), picks.end(), -1) - picks.begin(); }

/// The best `count` entries of a row of scores. -inf stands for entries that are not there.
Picks best_of(const float* scores, std::int64_t width, std::size_t count, std::size_t columns) {
  std::vector<std::int32_t> entries;
  for (std::int64_t j = 0; j < width; ++j) {
    if (scores[j] != -std::numeric_limits<float>::infinity()) entries.push_back(static_cast<std::int32_t>(j));
  }
  std::stable_sort(entries.begin(), entries.end(), [&](std::int32_t a, std::int32_t b) {
    if (std::isnan(scores[a]) || std::isnan(scores[b])) return !std::isnan(scores[a]) && std::isnan(scores[b]);
    return scores[a] > scores[b];
  });
  entries.resize(std::min(entries.size(), count));
  std::sort(entries.begin(), entries.end());
  entries.resize(columns, -1);
  return entries;
}

/// Empty if every entry that only one side picked has a score near the cut.
std::string set_fault(const Picks& came, const Picks& expected, const float* scores, std::int64_t width,
                      double tolerance, std::int64_t token) {
  if (count_of(came) != count_of(expected)) return pick_text(token, "number of picks is", count_of(came));
  double largest = 0, cut = HUGE_VAL;
  for (std::int64_t j = 0; j < width; ++j) {
    if (std::isfinite(scores[j])) largest = std::max<double>(largest, std::fabs(scores[j]));
  }
  for (const std::int32_t entry : expected) {
    if (entry >= 0 && entry < width) cut = std::min<double>(cut, scores[entry]);
  }
  Picks only_one;
  std::set_symmetric_difference(came.begin(), came.begin() + count_of(came), expected.begin(),
                                expected.begin() + count_of(expected), std::back_inserter(only_one));
  for (const std::int32_t entry : only_one) {
    const bool near = entry < width && std::fabs(scores[entry] - cut) <= tolerance * largest;
    if (!near) return pick_text(token, "differs clearly from the reference at entry", entry);
  }
  return {};
}

}  // namespace

std::vector<ArgComparison> compare_picks(const OpCase& built, const WatchedRun& run, const WatchedRun& reference,
                                         std::vector<bool>& rows) {
  const bool is_layer = std::string_view(built.op->name) == "layer";
  const std::size_t picks_at = built.index_of("topk_entries"),
                    scores_at = built.index_of(is_layer ? "index_scores" : "scores");
  const TensorView &expected_picks = reference.views[picks_at], &scores = reference.views[scores_at];
  if (expected_picks.is_absent() || scores.is_absent()) return {};  // a layer without an index
  const TensorView &came_picks = run.views[picks_at], &own_scores = run.views[scores_at];
  const std::int64_t num_tokens = expected_picks.shape[0], width = scores.shape[1];
  rows.assign(static_cast<std::size_t>(num_tokens), true);

  ArgComparison picks, slots;
  picks.name = "topk_entries";
  picks.because = "scores of two implementations differ in the last bits";
  slots.name = "topk_indices";
  slots.because = "the picks through the block table: equal";
  const auto fault = [](ArgComparison& where, std::string text) {
    if (where.failure.empty()) where.failure = std::move(text);
  };
  if (!came_picks.is_absent()) picks.elements = came_picks.numel();
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const Picks expected = row_of(expected_picks, t);
    const Picks came = came_picks.is_absent() ? expected : row_of(came_picks, t);
    rows[static_cast<std::size_t>(t)] = came == expected;
    if (came != expected) ++picks.differing;
    fault(picks, form_fault(came, t));
    if (picks.failure.empty() && came != expected) {
      fault(picks, set_fault(came, expected, scores.row<float>(t), width, pick_tolerance(built), t));
    }
    if (!own_scores.is_absent() && !came_picks.is_absent()) {
      const float* own = own_scores.row<float>(t);
      const auto minus_infinite = [&](std::int32_t entry) {
        return entry >= 0 && entry < width && std::isinf(own[entry]) && own[entry] < 0;
      };
      const bool judged = std::none_of(came.begin(), came.end(), minus_infinite);  // hostile values can score -inf
      if (judged && came != best_of(own, width, came.size(), came.size()))
        fault(picks,
              pick_text(t, "are not the best of the run's own scores, nor ties by entry; picks", count_of(came)));
    }
  }

  std::vector<ArgComparison> result;
  if (!came_picks.is_absent()) result.push_back(picks);
  const TensorView indices = is_layer ? TensorView{} : run.views[built.index_of("topk_indices")];
  if (indices.is_absent()) return result;
  const std::int64_t page_size = built.problem_as<IndexProblem>().entries_page_size;
  const TensorView &table = built.arg("entries_block_table").view, &seq_ids = built.arg("seq_ids").view;
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const Picks entries = row_of(came_picks.is_absent() ? expected_picks : came_picks, t), came = row_of(indices, t);
    const std::int64_t seq = seq_ids.at<std::int32_t>(t);
    for (std::size_t k = 0; k < entries.size(); ++k) {
      ++slots.elements;
      const bool known = entries[k] >= 0 && seq >= 0 && seq < table.shape[0];
      const std::int64_t slot =
          known ? slot_through(table.row<std::int32_t>(seq), table.shape[1], page_size, entries[k]) : -1;
      if (came[k] == slot) continue;
      ++slots.differing;
      fault(slots, pick_text(t, "slot of a pick differs from the block table's:", came[k]));
    }
  }
  result.push_back(slots);
  return result;
}

}  // namespace fathom::harness
