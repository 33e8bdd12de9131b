// The rows of a query, listed page by page where they lie in a range, with one short division each where they are
// named.
#include "attend/attend_cpu.h"

namespace fathom {
namespace {

RowBytes row_at(const PagedCacheView& cache, std::int64_t page, std::int64_t offset) noexcept {
  const std::byte* base = cache.pages + page * cache.page_stride;
  return {base + offset * cache.layout.row_bytes,
          base + cache.page_size * cache.layout.row_bytes + offset * cache.layout.footer_bytes};
}

/// Rows [next, walk.count()) of a list while there is room.
void list_named(const RowWalk& walk, const PagedCacheView& cache, std::int64_t room, RowSpan& listed,
                RowBytes* rows) noexcept {
  const auto page_size = static_cast<std::uint32_t>(cache.page_size);
  const std::int64_t num_slots = cache.num_slots();
  for (; listed.next < walk.count() && listed.count < room; ++listed.next) {
    const std::int64_t slot = walk.numbers()[listed.next];
    if (slot < 0 || slot >= num_slots) continue;
    const auto small = static_cast<std::uint32_t>(slot);
    rows[listed.count++] = row_at(cache, small / page_size, small % page_size);
  }
}

/// The same of a range: whole pages, present or not.
void list_range(const RowWalk& walk, const PagedCacheView& cache, std::int64_t room, RowSpan& listed,
                RowBytes* rows) noexcept {
  if (listed.next >= walk.count()) return;
  const std::int64_t row = walk.first() + listed.next;
  std::int64_t offset = row % cache.page_size;
  for (const std::int32_t* page = walk.numbers() + row / cache.page_size;
       listed.next < walk.count() && listed.count < room; ++page, offset = 0) {
    const std::int64_t left = std::min(cache.page_size - offset, walk.count() - listed.next);
    const bool present = *page >= 0 && *page < cache.num_pages;
    const std::int64_t taken = present ? std::min(left, room - listed.count) : left;
    for (std::int64_t i = 0; i < taken && present; ++i) rows[listed.count++] = row_at(cache, *page, offset + i);
    listed.next += taken;
  }
}

}  // namespace

void list_rows(const AttendSets& sets, const AttendArgs& args, std::int64_t t, std::int64_t span, std::int64_t room,
               RowSpan& listed, RowBytes* rows) noexcept {
  if (span == 0) listed = {0, 0, 0, 0, std::numeric_limits<std::int64_t>::max(), false};
  listed.count = listed.from_window = 0;
  for (; listed.set < 2; ++listed.set, listed.next = 0) {
    const PagedCacheView& cache = sets.caches[listed.set];
    const RowWalk walk(sets.problems[listed.set], *sets.sets[listed.set], args.seq_ids, cache, t);
    (sets.problems[listed.set].rows_by == RowsBy::list ? list_named : list_range)(walk, cache, room, listed, rows);
    if (listed.set == 0) listed.from_window = listed.count;
    if (listed.next < walk.count()) break;  // no room
  }
  if (listed.set == 2) listed.last = span;
  listed.seen |= listed.count > 0;
}

}  // namespace fathom
