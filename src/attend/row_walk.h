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
inline RowSetProblem window_set(const AttendProblem& problem) noexcept {
  return {problem.window_rows, problem.window_format, problem.window_page_size, problem.window_width};
}
inline RowSetProblem entries_set(const AttendProblem& problem) noexcept {
  return {problem.entries_rows, problem.entries_format, problem.entries_page_size, problem.entries_width};
}

class RowWalk {
 public:
  RowWalk(const RowSetProblem& problem, const RowSet& set, const TensorView& seq_ids, const PagedCacheView& cache, std::int64_t t) noexcept
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
  std::int64_t count() const noexcept { return count_; }
  /// Slot of row i, or -1.
  std::int64_t slot(std::int64_t i) const noexcept {
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
