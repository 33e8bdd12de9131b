// PageList: the pages of one cache in all layers of a pool: their bytes, who holds them, and which are free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "fathom/cache.h"
#include "fathom/core/memory.h"

namespace fathom {

/// A page number stands for the same page in every layer. Bytes of a page that nobody holds are 0xFF, which is NaN in
/// every format: reading a row that was never written shows.
class PageList {
 public:
  static constexpr std::byte kPoison{0xff};

  PageList() = default;
  /// `order_seed` = 0 hands pages out in order; other seeds permute them. The bytes lie on `device`; what the list does
  /// to them is ordered on `stream`. May throw bad_alloc.
  static Result<PageList> create(const RowLayout& layout, std::int64_t page_size, std::int64_t num_pages, int num_layers,
                                 std::uint64_t order_seed, const Device& device, Stream stream);

  const RowLayout& layout() const noexcept { return layout_; }
  std::int64_t page_size() const noexcept { return page_size_; }
  std::int64_t num_pages() const noexcept { return static_cast<std::int64_t>(holders_.size()); }
  std::int64_t num_free() const noexcept { return static_cast<std::int64_t>(free_.size()); }
  bool is_shared(std::int32_t page) const noexcept { return holders_[page] > 1; }

  /// A free page with one holder; there must be one. The page freed last is handed out first.
  std::int32_t take() noexcept;
  /// One holder more.
  void share(std::int32_t page) noexcept { ++holders_[page]; }
  /// One holder less; without holders the page is free.
  void release(std::int32_t page) noexcept;
  /// Copies a page's rows in every layer.
  void copy(std::int32_t from, std::int32_t to) noexcept;

  /// All bytes of a page, page_stride of them, to or from host memory.
  std::int64_t page_stride() const noexcept { return stride_; }
  void read_page(int layer, std::int32_t page, std::byte* to) const noexcept;
  void write_page(int layer, std::int32_t page, const std::byte* from) noexcept;
  /// The first thing that the device refused to do, if anything.
  const Status& trouble() const noexcept { return trouble_; }

  /// u8 [num_pages, page_stride] of one layer.
  TensorView pages(int layer) const noexcept;
  PagedCacheView paged(int layer) const noexcept;

 private:
  void note(const Status& status) const noexcept {
    if (trouble_.ok() && !status.ok()) trouble_ = status;
  }

  RowLayout layout_;
  std::int64_t page_size_ = 1;
  std::int64_t stride_ = 0;
  std::optional<Device> device_;
  Stream stream_;
  std::vector<DeviceMemory> bytes_;   // by layer
  mutable Status trouble_;
  std::vector<std::int32_t> holders_;          // by page
  std::vector<std::int32_t> free_;             // a stack; room for every page is reserved, so release never allocates
};

}  // namespace fathom
