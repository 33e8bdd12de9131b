// Snapshots of a sequence: a header, one section header for each cache, then the rows, layer by layer, each row with
// its part of the page footer. Rows do not remember pages, so any page size takes them back. docs/guide/caches.md has
// the layout. Numbers are little-endian, as everything in a cache is.
#include <cinttypes>
#include <cstring>
#include <utility>

#include "cache/page_pool_impl.h"

namespace fathom {
namespace {

constexpr char kMagic[8] = {'f', 'a', 't', 'h', 'o', 'm', 'K', 'V'};
constexpr std::int64_t kVersion = 1;

struct SnapshotHeader {
  char magic[8];
  std::int64_t version;
  std::int64_t length;
  std::int64_t num_layers;
  std::int64_t window;
  std::int64_t compress_ratio;
  std::int64_t num_caches;
};
static_assert(sizeof(SnapshotHeader) == 56);

struct SnapshotSection {
  char format[24];  ///< name of the row format, zero-padded
  std::int64_t kind;
  std::int64_t dim;
  std::int64_t row_bytes;  ///< with the row's part of the footer
  std::int64_t first_row;
  std::int64_t num_rows;
};
static_assert(sizeof(SnapshotSection) == 64);

SnapshotHeader header_of(const LayerProblem& problem, int num_layers, std::int64_t length, int num_caches) noexcept {
  SnapshotHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.length = length;
  header.num_layers = num_layers;
  header.window = problem.window;
  header.compress_ratio = problem.compress_ratio;
  header.num_caches = num_caches;
  return header;
}

SnapshotSection section_of(int kind, const RowLayout& layout, std::int64_t first_row, std::int64_t num_rows) noexcept {
  SnapshotSection section{};
  std::strncpy(section.format, name_of(layout.format), sizeof(section.format) - 1);
  section.kind = kind;
  section.dim = layout.dim;
  section.row_bytes = layout.row_bytes + layout.footer_bytes;
  section.first_row = first_row;
  section.num_rows = num_rows;
  return section;
}

template <class T>
T take(std::span<const std::byte>& bytes) noexcept {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes = bytes.subspan(sizeof(T));
  return value;
}

Status check_number(const char* name, std::int64_t came, std::int64_t expected) noexcept {
  if (came == expected) return {};
  return Status::invalid("restore: the snapshot's %s is %" PRId64 ", expected %" PRId64, name, came, expected);
}

/// The pages of one cache of a sequence from `first_row` on, one layer at a time, in host memory: on a GPU a page
/// crosses at once, and rows are cut here.
class HostRows {
 public:
  HostRows(const PageList& list, const PageTable& table, std::int64_t first_row)
      : table_(table),
        first_block_(first_row / list.page_size()),
        bytes_((static_cast<std::int64_t>(table.pages.size()) - first_block_) * list.page_stride(), PageList::kPoison),
        cache_{bytes_.data(), list.layout(), list.page_size(), 0, list.page_stride()} {}

  void read(const PageList& list, int layer) noexcept {
    for_each_page([&](std::int32_t page, std::byte* bytes) { list.read_page(layer, page, bytes); });
  }
  void write(PageList& list, int layer) const noexcept {
    for_each_page([&](std::int32_t page, const std::byte* bytes) { list.write_page(layer, page, bytes); });
  }
  /// Calls `copy(bytes, count)` for the two parts of each row [first, end), in the order that a snapshot has them.
  template <class Copy>
  void for_each_part(std::int64_t first, std::int64_t end, const Copy& copy) const noexcept {
    for (std::int64_t row = first; row < end; ++row) {
      const std::int64_t slot = row - first_block_ * cache_.page_size;
      copy(cache_.row(slot), cache_.layout.row_bytes);
      copy(cache_.footer(slot), cache_.layout.footer_bytes);
    }
  }

 private:
  template <class Call>
  void for_each_page(const Call& call) const noexcept {
    std::byte* bytes = cache_.pages;
    for (auto page = table_.pages.begin() + first_block_; page != table_.pages.end();
         ++page, bytes += cache_.page_stride)
      call(*page, bytes);
  }

  const PageTable& table_;
  std::int64_t first_block_;
  std::vector<std::byte> bytes_;
  PagedCacheView cache_;
};

}  // namespace

int PagePool::Impl::num_caches() const noexcept {
  int count = 0;
  for (int kind = 0; kind < kNumCaches; ++kind) count += rules.has(kind);
  return count;
}

Result<std::vector<std::byte>> PagePool::snapshot(int sequence) const noexcept {
  return guarded("snapshot", [&]() -> Result<std::vector<std::byte>> {
    FATHOM_TRY(check_pool("snapshot", impl_.get()));
    FATHOM_TRY(impl_->check_no_step("snapshot"));
    FATHOM_TRY(impl_->check_sequence("snapshot", sequence));
    const Impl& pool = *impl_;
    const Sequence& kept = pool.sequences[sequence];
    std::array<SnapshotSection, kNumCaches> sections{};
    std::size_t size = sizeof(SnapshotHeader);
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (!pool.rules.has(kind)) continue;
      const std::int64_t end = pool.rules.rows(kind, kept.length);
      const std::int64_t first = std::max(pool.rules.first_retained(kind, kept.length), kept.tables[kind].first_row);
      sections[kind] = section_of(kind, pool.lists[kind].layout(), first, end - first);
      size += sizeof(SnapshotSection) + sections[kind].num_rows * sections[kind].row_bytes * pool.num_layers;
    }
    std::vector<std::byte> bytes(size);
    std::byte* to = bytes.data();
    const auto put = [&to](const void* from, std::size_t count) {
      if (count > 0) std::memcpy(to, from, count);
      to += count;
    };
    const SnapshotHeader header = header_of(pool.problem, pool.num_layers, kept.length, pool.num_caches());
    put(&header, sizeof(header));
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (pool.rules.has(kind)) put(&sections[kind], sizeof(SnapshotSection));
    }
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (!pool.rules.has(kind)) continue;
      const SnapshotSection& section = sections[kind];
      HostRows rows(pool.lists[kind], kept.tables[kind], section.first_row);
      for (int layer = 0; layer < pool.num_layers; ++layer) {
        rows.read(pool.lists[kind], layer);
        FATHOM_TRY(synchronize(*pool.device, pool.stream));
        rows.for_each_part(section.first_row, section.first_row + section.num_rows, put);
      }
    }
    FATHOM_TRY(pool.trouble());
    return bytes;
  });
}

Status PagePool::Impl::read_sections(std::span<const std::byte>& bytes, Sequence& restored) const noexcept {
  const std::size_t headers = sizeof(SnapshotHeader) + num_caches() * sizeof(SnapshotSection);
  if (bytes.size() < sizeof(SnapshotHeader)) {
    return Status::invalid("restore: the snapshot has %zu bytes, its header alone has %zu", bytes.size(),
                           sizeof(SnapshotHeader));
  }
  const auto header = take<SnapshotHeader>(bytes);
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return Status::invalid("restore: the bytes do not begin as a snapshot does");
  }
  FATHOM_TRY(check_number("version", header.version, kVersion));
  FATHOM_TRY(check_number("num_layers", header.num_layers, num_layers));
  FATHOM_TRY(check_number("window", header.window, problem.window));
  FATHOM_TRY(check_number("compress_ratio", header.compress_ratio, problem.compress_ratio));
  FATHOM_TRY(check_number("number of caches", header.num_caches, num_caches()));
  if (header.length < 0 || header.length > kMaxLength) {
    return Status::invalid("restore: the snapshot's length is %" PRId64 ", expected 0 to %" PRId64, header.length,
                           kMaxLength);
  }
  if (rules.ratio > 0 && header.length / rules.ratio > problem.max_entries) {
    return Status::invalid("restore: the snapshot has %" PRId64 " entries, max_entries is %d",
                           header.length / rules.ratio, problem.max_entries);
  }
  const std::int64_t length = restored.length = header.length;
  if (bytes.size() + sizeof(SnapshotHeader) < headers) {
    return Status::invalid("restore: the snapshot has %zu bytes, its headers alone have %zu",
                           bytes.size() + sizeof(SnapshotHeader), headers);
  }
  std::int64_t bytes_left = static_cast<std::int64_t>(bytes.size() + sizeof(SnapshotHeader) - headers);
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    const auto section = take<SnapshotSection>(bytes);
    const char* name = kCacheNames[kind];
    const std::int64_t first = section.first_row, most = rules.first_needed(kind, length);
    if (first < 0 || first > most) {
      return Status::invalid("restore: the snapshot's %s rows begin at %" PRId64 ", expected 0 to %" PRId64, name,
                             first, most);
    }
    const SnapshotSection expected = section_of(kind, lists[kind].layout(), first, rules.rows(kind, length) - first);
    if (std::memcmp(&section, &expected, sizeof(section)) != 0) {
      return Status::invalid("restore: the snapshot holds %" PRId64 " %s rows of %.24s with dim %" PRId64
                             ", expected %" PRId64 " of %s with dim %" PRId64,
                             section.num_rows, name, section.format, section.dim, expected.num_rows, expected.format,
                             expected.dim);
    }
    const std::int64_t bytes_each = section.row_bytes * num_layers;
    if (section.num_rows > bytes_left / bytes_each) {
      return Status::invalid("restore: the snapshot ends inside its %s rows", name);
    }
    bytes_left -= section.num_rows * bytes_each;
    restored.tables[kind].first_row = first;
  }
  if (bytes_left != 0) return Status::invalid("restore: %" PRId64 " bytes follow the snapshot's last row", bytes_left);
  return {};
}

Status PagePool::Impl::fill_restored(int number, std::span<const std::byte> rows_left) {
  for (int kind = 0; kind < kNumCaches; ++kind) {
    if (!rules.has(kind)) continue;
    PageTable& table = sequences[number].tables[kind];
    PageList& list = lists[kind];
    for (auto page = table.pages.begin() + table.first_row / list.page_size(); page != table.pages.end(); ++page)
      *page = list.take();
    HostRows rows(list, table, table.first_row);
    for (int layer = 0; layer < num_layers; ++layer) {
      rows.for_each_part(table.first_row, rules.rows(kind, sequences[number].length),
                         [&](std::byte* to, std::int64_t count) {
                           if (count > 0) std::memcpy(to, rows_left.data(), static_cast<std::size_t>(count));
                           rows_left = rows_left.subspan(static_cast<std::size_t>(count));
                         });
      rows.write(list, layer);
      FATHOM_TRY(synchronize(*device, stream));  // the pages in host memory are filled again, and then gone
    }
  }
  return trouble();
}

Result<int> PagePool::restore(std::span<const std::byte> snapshot) noexcept {
  return guarded("restore", [&]() -> Result<int> {
    FATHOM_TRY(check_pool("restore", impl_.get()));
    FATHOM_TRY(impl_->check_no_step("restore"));
    Impl& pool = *impl_;
    Sequence restored;
    FATHOM_TRY(pool.read_sections(snapshot, restored));
    for (int kind = 0; kind < kNumCaches; ++kind) {
      if (!pool.rules.has(kind)) continue;
      PageTable& table = restored.tables[kind];
      const std::int64_t blocks = pool.num_blocks(kind, restored.length);
      const std::int64_t needed = blocks - table.first_row / pool.lists[kind].page_size(),
                         free = pool.lists[kind].num_free();
      if (needed > free) {
        return Status::exhausted("restore: the %s cache needs %" PRId64 " pages, %" PRId64 " of %" PRId64 " are free",
                                 kCacheNames[kind], needed, free, pool.lists[kind].num_pages());
      }
      table.pages.assign(blocks, -1);
    }
    const int number = pool.adopt(std::move(restored));
    const Status status = guarded("restore", [&] { return pool.fill_restored(number, snapshot); });
    if (status.ok()) return number;
    // Backwards, so that the free pages stand in the order they had.
    for (int kind = 0; kind < kNumCaches; ++kind) {
      std::vector<std::int32_t>& pages = pool.sequences[number].tables[kind].pages;
      for (auto page = pages.rbegin(); page != pages.rend() && *page >= 0; ++page) {
        pool.lists[kind].release(*page);
        *page = -1;
      }
    }
    FATHOM_TRY(remove_sequence(number));
    return status;
  });
}

}  // namespace fathom
