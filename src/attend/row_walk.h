// RowWalk: the slots of one query's rows in one set, list or range alike. Absent rows come out as -1.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/attend.h"

namespace fathom {

/// What a problem says of one of its two row sets.
struct RowSetProblem {
  RowsBy rows_by;
  CacheFormat format;
  std::int64_t page_size, width;
};
constexpr RowSetProblem window_set(const AttendProblem& problem) noexcept {
  return {problem.window_rows, problem.window_format, problem.window_page_size, problem.window_width};
}
constexpr RowSetProblem entries_set(const AttendProblem& problem) noexcept {
  return {problem.entries_rows, problem.entries_format, problem.entries_page_size, problem.entries_width};
}

/// The caches of both sets; that of a set of kind none stays empty.
inline Status open_caches(const AttendProblem& problem, const AttendArgs& args, PagedCacheView (&caches)[2]) noexcept {
  const RowSetProblem problems[] = {window_set(problem), entries_set(problem)};
  const RowSet* sets[] = {&args.window, &args.entries};
  for (int s = 0; s < 2; ++s) {
    if (problems[s].rows_by == RowsBy::none) continue;
    FATHOM_ASSIGN(const RowLayout layout, row_layout(problems[s].format, problem.head_dim));
    FATHOM_ASSIGN(caches[s], paged_cache("attend", "cache", sets[s]->cache, layout, problems[s].page_size));
  }
  return {};
}

class RowWalk {
 public:
  constexpr RowWalk(const RowSetProblem& problem, const RowSet& set, const TensorView& seq_ids, const PagedCacheView& cache, std::int64_t t) noexcept
      : num_slots_(cache.num_slots()), page_size_(problem.page_size) {
    if (problem.rows_by == RowsBy::list) {
      indices_ = set.indices.row<const std::int32_t>(t);
      const std::int64_t length = set.lengths.is_absent() ? problem.width : set.lengths.at<std::int32_t>(t);
      count_ = std::clamp<std::int64_t>(length, 0, problem.width);
    } else if (problem.rows_by == RowsBy::range) {
      const std::int64_t seq = seq_ids.at<std::int32_t>(t);
      if (seq < 0 || seq >= set.block_table.shape[0]) return;
      table_ = set.block_table.row<const std::int32_t>(seq);
      max_pages_ = set.block_table.shape[1];
      first_ = set.begin.is_absent() ? 0 : std::max(set.begin.at<std::int32_t>(t), 0);
      const std::int64_t end = std::min<std::int64_t>(set.end.at<std::int32_t>(t), max_pages_ * page_size_);
      count_ = std::clamp<std::int64_t>(end - first_, 0, problem.width);
    }
  }
  /// Rows to look at, absent ones included.
  constexpr std::int64_t count() const noexcept { return count_; }
  /// What slots are looked up in, for kernels that do it in steps: the query's indices, or the sequence's page numbers
  /// (null where the set has no rows), and the first row of a range. Rows below count() are inside the table.
  constexpr const std::int32_t* numbers() const noexcept { return indices_ != nullptr ? indices_ : table_; }
  constexpr std::int64_t first() const noexcept { return first_; }
  /// Slot of row i, or -1.
  constexpr std::int64_t slot(std::int64_t i) const noexcept {
    const std::int64_t slot = indices_ != nullptr ? indices_[i] : slot_through(table_, max_pages_, page_size_, first_ + i);
    return slot >= 0 && slot < num_slots_ ? slot : -1;
  }

 private:
  std::int64_t num_slots_, page_size_;
  const std::int32_t* indices_ = nullptr;
  const std::int32_t* table_ = nullptr;
  std::int64_t max_pages_ = 0, first_ = 0, count_ = 0;
};

}  // namespace fathom
