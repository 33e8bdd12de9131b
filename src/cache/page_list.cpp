// PageList: reference counts, a stack of free pages, and poison in the bytes nobody holds.
#include "cache/page_list.h"

#include <cstring>
#include <limits>
#include <new>
#include <utility>

namespace fathom {
namespace {

constexpr int kPoison = 0xff;

// splitmix64: a few lines that give the same order with every standard library.
std::uint64_t next_random(std::uint64_t& state) noexcept {
  state += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

PageList::PageList(const RowLayout& layout, std::int64_t page_size, std::int64_t num_pages, int num_layers,
                   std::uint64_t order_seed)
    : layout_(layout), page_size_(page_size), stride_(layout.page_stride(page_size)) {
  if (num_pages > std::numeric_limits<std::ptrdiff_t>::max() / stride_) throw std::bad_alloc();
  bytes_.reserve(num_layers);
  for (int layer = 0; layer < num_layers; ++layer) bytes_.emplace_back(num_pages * stride_, std::byte{kPoison});
  holders_.assign(num_pages, 0);
  free_.resize(num_pages);
  for (std::int64_t i = 0; i < num_pages; ++i) free_[i] = static_cast<std::int32_t>(num_pages - 1 - i);
  if (order_seed == 0) return;
  for (std::int64_t i = num_pages - 1; i > 0; --i) {
    std::swap(free_[i], free_[next_random(order_seed) % static_cast<std::uint64_t>(i + 1)]);
  }
}

std::int32_t PageList::take() noexcept {
  const std::int32_t page = free_.back();
  free_.pop_back();
  holders_[page] = 1;
  return page;
}

void PageList::release(std::int32_t page) noexcept {
  if (--holders_[page] > 0) return;
  for (std::vector<std::byte>& layer : bytes_) std::memset(layer.data() + page * stride_, kPoison, stride_);
  free_.push_back(page);
}

void PageList::copy(std::int32_t from, std::int32_t to) noexcept {
  for (std::vector<std::byte>& layer : bytes_)
    std::memcpy(layer.data() + to * stride_, layer.data() + from * stride_, stride_);
}

TensorView PageList::pages(int layer) const noexcept {
  return view(bytes_[layer].data(), DType::u8, {num_pages(), stride_});
}

PagedCacheView PageList::paged(int layer) const noexcept {
  return {const_cast<std::byte*>(bytes_[layer].data()), layout_, page_size_, num_pages(), stride_};
}

}  // namespace fathom
