// Queries of index, entries of a sequence, listed page by page, and the slots of those that were picked.
#include "cache/number_codecs.h"
#include "index/index_cpu.h"

namespace fathom {

void load_index_query(const IndexArgs& args, std::int64_t t, std::int64_t h, int dim, float* row) noexcept {
  const std::int64_t at = t * args.q.strides[0] + h * args.q.strides[1];
  if (args.q.dtype == DType::f32) return load_row(args.q, at, dim, row);
  const auto* codes = static_cast<const std::uint8_t*>(args.q.data);
  if (args.q.dtype == DType::e4m3) return dequantise_e4m3(codes + at, dim, 1.0f, row);
  const auto* scales = args.q_scale.row<const std::uint8_t>(t, h);
  for (int c = 0; c < dim; c += 32) dequantise_e2m1(codes + (at + c) / 2, 32, kUe8m0Values[scales[c / 32]], row + c);
}

std::int64_t list_entries(const IndexArgs& args, const PagedCacheView& cache, std::int64_t seq, std::int64_t& next,
                          std::int64_t last, std::int64_t room, RowBytes* rows, std::int32_t* entries) noexcept {
  const std::int32_t* table = args.block_table.row<const std::int32_t>(seq);
  last = std::min(last, args.block_table.shape[1] * cache.page_size);  // what lies behind the table is absent
  std::int64_t count = 0;
  while (next < last && count < room) {
    const std::int64_t page = table[next / cache.page_size], offset = next % cache.page_size;
    const std::int64_t left = std::min(cache.page_size - offset, last - next);
    const bool present = page >= 0 && page < cache.num_pages;
    const std::int64_t taken = present ? std::min(left, room - count) : left;
    const std::byte* base = cache.pages + page * cache.page_stride;
    const std::byte* footer = base + cache.page_size * cache.layout.row_bytes;
    for (std::int64_t i = offset; present && i < offset + taken; ++i, ++count) {
      rows[count] = {base + i * cache.layout.row_bytes, footer + i * cache.layout.footer_bytes};
      entries[count] = static_cast<std::int32_t>(next + i - offset);
    }
    next += taken;
  }
  if (next >= last) next = std::numeric_limits<std::int64_t>::max();
  return count;
}

void store_slots(const IndexProblem& problem, const IndexArgs& args, std::int64_t t,
                 const std::int32_t* picks) noexcept {
  const std::int64_t seq = args.seq_ids.at<std::int32_t>(t);
  const TensorView& table = args.entries_block_table;
  const bool known = seq >= 0 && seq < table.shape[0];
  std::int32_t* slots = args.topk_indices.row<std::int32_t>(t);
  for (std::int64_t k = 0; k < problem.topk; ++k) {
    std::int64_t slot = -1;
    if (known && picks[k] >= 0)
      slot = slot_through(table.row<const std::int32_t>(seq), table.shape[1], problem.entries_page_size, picks[k]);
    slots[k] = slot <= std::numeric_limits<std::int32_t>::max() ? static_cast<std::int32_t>(slot) : -1;
  }
}

}  // namespace fathom
