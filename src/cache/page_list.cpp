// PageList: reference counts, a stack of free pages, and poison in the bytes nobody holds.
#include "cache/page_list.h"

#include <limits>
#include <new>
#include <utility>

namespace fathom {
namespace {

// splitmix64: a few lines that give the same order with every standard library.
std::uint64_t next_random(std::uint64_t& state) noexcept {
  state += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

Result<PageList> PageList::create(const RowLayout& layout, std::int64_t page_size, std::int64_t num_pages, int num_layers,
                                  std::uint64_t order_seed, const Device& device, Stream stream) {
  PageList list;
  list.layout_ = layout;
  list.page_size_ = page_size;
  list.stride_ = layout.page_stride(page_size);
  list.device_ = device;
  list.stream_ = stream;
  if (num_pages > std::numeric_limits<std::ptrdiff_t>::max() / list.stride_) throw std::bad_alloc();
  list.bytes_.reserve(num_layers);
  for (int layer = 0; layer < num_layers; ++layer) {
    FATHOM_ASSIGN(DeviceMemory bytes, DeviceMemory::allocate(device, num_pages * list.stride_));
    FATHOM_TRY(fill_bytes(device, bytes.data(), kPoison, bytes.bytes(), stream));
    list.bytes_.push_back(std::move(bytes));
  }
  list.holders_.assign(num_pages, 0);
  std::vector<std::int32_t>& free = list.free_;
  free.resize(num_pages);
  for (std::int64_t i = 0; i < num_pages; ++i) free[i] = static_cast<std::int32_t>(num_pages - 1 - i);
  if (order_seed == 0) return list;
  for (std::int64_t i = num_pages - 1; i > 0; --i) {
    std::swap(free[i], free[next_random(order_seed) % static_cast<std::uint64_t>(i + 1)]);
  }
  return list;
}

std::int32_t PageList::take() noexcept {
  const std::int32_t page = free_.back();
  free_.pop_back();
  holders_[page] = 1;
  return page;
}

void PageList::release(std::int32_t page) noexcept {
  if (--holders_[page] > 0) return;
  for (const DeviceMemory& layer : bytes_) note(fill_bytes(*device_, layer.data() + page * stride_, kPoison, stride_, stream_));
  free_.push_back(page);
}

void PageList::copy(std::int32_t from, std::int32_t to) noexcept {
  for (const DeviceMemory& layer : bytes_) {
    note(copy_bytes(*device_, layer.data() + to * stride_, layer.data() + from * stride_, stride_, stream_));
  }
}

void PageList::read_page(int layer, std::int32_t page, std::byte* to) const noexcept {
  note(copy_bytes(*device_, to, bytes_[layer].data() + page * stride_, stride_, stream_));
}

void PageList::write_page(int layer, std::int32_t page, const std::byte* from) noexcept {
  note(copy_bytes(*device_, bytes_[layer].data() + page * stride_, from, stride_, stream_));
}

TensorView PageList::pages(int layer) const noexcept {
  return view(bytes_[layer].data(), DType::u8, {num_pages(), stride_}, *device_);
}

PagedCacheView PageList::paged(int layer) const noexcept {
  return {bytes_[layer].data(), layout_, page_size_, num_pages(), stride_, device_->kind()};
}

}  // namespace fathom
