// PageList: order, holders, poison, and copies in every layer.
#include "cache/page_list.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

namespace fathom {
namespace {

constexpr int kPages = 6, kLayers = 2;

Result<PageList> list_of(const RowLayout& layout, std::int64_t page_size, std::int64_t num_pages, int num_layers, std::uint64_t seed) {
  return PageList::create(layout, page_size, num_pages, num_layers, seed, Device::cpu(1).value(), {});
}
PageList small_list(std::uint64_t seed = 0) {
  return list_of(row_layout(CacheFormat::kv_f32, 4).value(), 2, kPages, kLayers, seed).value();
}

std::vector<std::int32_t> take_all(PageList& list) {
  std::vector<std::int32_t> pages;
  while (list.num_free() > 0) pages.push_back(list.take());
  return pages;
}

bool is_poison(const PageList& list, int layer, std::int32_t page) {
  const TensorView pages = list.pages(layer);
  const std::byte* bytes = pages.row<std::byte>(page);
  return std::all_of(bytes, bytes + pages.shape[1], [](std::byte byte) { return byte == std::byte{0xff}; });
}

TEST(PageList, HandsPagesOutInOrderAndTheLastFreedFirst) {
  PageList list = small_list();
  EXPECT_EQ(take_all(list), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
  list.release(2);
  list.release(4);
  EXPECT_EQ(take_all(list), (std::vector<std::int32_t>{4, 2}));
}

TEST(PageList, ASeedPermutesTheOrderRepeatably) {
  PageList a = small_list(7), b = small_list(7), c = small_list(8);
  const std::vector<std::int32_t> order = take_all(a);
  EXPECT_EQ(order, take_all(b));
  EXPECT_NE(order, take_all(c));
  std::vector<std::int32_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_NE(sorted, order);
}

TEST(PageList, APageIsFreeWhenItsLastHolderLetsGo) {
  PageList list = small_list();
  const std::int32_t page = list.take();
  EXPECT_FALSE(list.is_shared(page));
  list.share(page);
  EXPECT_TRUE(list.is_shared(page));
  list.release(page);
  EXPECT_FALSE(list.is_shared(page));
  EXPECT_EQ(list.num_free(), kPages - 1);
  list.release(page);
  EXPECT_EQ(list.num_free(), kPages);
}

TEST(PageList, WhatNobodyHoldsIsPoison) {
  PageList list = small_list();
  const std::int32_t page = list.take();
  for (int layer = 0; layer < kLayers; ++layer) {
    for (std::int32_t p = 0; p < kPages; ++p) EXPECT_TRUE(is_poison(list, layer, p));
    std::memset(list.paged(layer).row(page * 2 + 1), 0, 16);
    EXPECT_FALSE(is_poison(list, layer, page));
  }
  list.release(page);
  for (int layer = 0; layer < kLayers; ++layer) EXPECT_TRUE(is_poison(list, layer, page));
}

TEST(PageList, CopiesEveryLayer) {
  PageList list = small_list();
  const std::int32_t from = list.take(), to = list.take();
  for (int layer = 0; layer < kLayers; ++layer) std::memset(list.paged(layer).row(from * 2), layer + 1, 32);
  list.copy(from, to);
  for (int layer = 0; layer < kLayers; ++layer) {
    EXPECT_EQ(std::memcmp(list.paged(layer).row(to * 2), list.paged(layer).row(from * 2), 32), 0);
    EXPECT_EQ(*list.paged(layer).row(to * 2), static_cast<std::byte>(layer + 1));
  }
}

TEST(PageList, RoundsPagesUpToTheirAlignment) {
  const PageList list = list_of(row_layout(CacheFormat::kv_e4m3_ue8m0, 512).value(), 2, 3, 1, 0).value();
  EXPECT_EQ(list.pages(0).shape[1], 1728);
  EXPECT_EQ(list.paged(0).page_stride, 1728);
}

TEST(PageList, NoPagesAtAll) {
  const PageList list = list_of(row_layout(CacheFormat::kv_f32, 4).value(), 2, 0, 1, 3).value();
  EXPECT_EQ(list.num_free(), 0);
  EXPECT_EQ(list.pages(0).shape[0], 0);
}

TEST(PageList, AnImpossibleSizeIsBadAlloc) {
  const RowLayout wide = row_layout(CacheFormat::state_f32, 1 << 20).value();
  EXPECT_THROW((void)list_of(wide, 65536, 1 << 30, 1, 0), std::bad_alloc);
}

}  // namespace
}  // namespace fathom
