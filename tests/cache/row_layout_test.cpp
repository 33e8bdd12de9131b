// The formats' sizes (spec 7), the dims they take, and tensors read as pages.
#include "fathom/cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

namespace fathom {
namespace {

constexpr CacheFormat kFormats[] = {CacheFormat::kv_f32,           CacheFormat::kv_bf16,   CacheFormat::kv_e4m3_ue8m0,
                                    CacheFormat::kv_e4m3_f32,      CacheFormat::index_f32, CacheFormat::index_e4m3_f32,
                                    CacheFormat::index_e2m1_ue8m0, CacheFormat::state_f32};

int typical_dim(CacheFormat format) {
  if (format == CacheFormat::kv_e4m3_ue8m0) return 512;
  return format == CacheFormat::kv_e4m3_f32 ? 576 : 128;
}

RowLayout layout_of(CacheFormat format, int dim) {
  const Result<RowLayout> layout = row_layout(format, dim);
  EXPECT_TRUE(layout.ok()) << layout.status().text();
  return layout.value();
}

TEST(RowLayout, SizesAreThoseOfTheSpecification) {
  EXPECT_EQ(layout_of(CacheFormat::kv_f32, 512).page_bytes(1), 2048);
  EXPECT_EQ(layout_of(CacheFormat::kv_bf16, 512).page_bytes(1), 1024);
  EXPECT_EQ(layout_of(CacheFormat::kv_e4m3_ue8m0, 512).page_bytes(1), 584);
  EXPECT_EQ(layout_of(CacheFormat::kv_e4m3_f32, 576).page_bytes(1), 656);
  EXPECT_EQ(layout_of(CacheFormat::index_f32, 128).page_bytes(1), 512);
  EXPECT_EQ(layout_of(CacheFormat::index_e4m3_f32, 128).page_bytes(1), 132);
  EXPECT_EQ(layout_of(CacheFormat::index_e2m1_ue8m0, 128).page_bytes(1), 68);
  EXPECT_EQ(layout_of(CacheFormat::state_f32, 2048).page_bytes(1), 8192);
  const RowLayout kv = layout_of(CacheFormat::kv_e4m3_ue8m0, 512);
  const std::int64_t sizes[] = {2, 32, 64, 128, 256}, strides[] = {1728, 19008, 37440, 74880, 149760};  // spec 7.1
  for (int i = 0; i < 5; ++i) EXPECT_EQ(kv.page_stride(sizes[i]), strides[i]);
  EXPECT_EQ(kv.page_bytes(64), 37376);
  EXPECT_EQ(layout_of(CacheFormat::index_e4m3_f32, 128).page_stride(64), 8448);  // spec 7.3
  EXPECT_EQ(layout_of(CacheFormat::index_e2m1_ue8m0, 128).page_stride(64), 4352);
}

TEST(RowLayout, EveryFormatKnowsItsNameAndDim) {
  for (const CacheFormat format : kFormats) {
    const RowLayout layout = layout_of(format, typical_dim(format));
    EXPECT_EQ(layout.format, format);
    EXPECT_EQ(layout.dim, typical_dim(format));
    EXPECT_GE(layout.num_segments, 1);
  }
}

TEST(RowLayout, RefusesDimsTheFormatCannotHold) {
  struct Case {
    CacheFormat format;
    int dim;
  };
  constexpr int kHuge = std::numeric_limits<int>::max(), kLeast = std::numeric_limits<int>::min();
  for (const auto& [format, dim] : {Case{CacheFormat::kv_f32, 0}, Case{CacheFormat::kv_bf16, -1},
                                    Case{CacheFormat::kv_e4m3_ue8m0, 576}, Case{CacheFormat::kv_e4m3_f32, 512},
                                    Case{CacheFormat::index_e4m3_f32, 130}, Case{CacheFormat::index_e2m1_ue8m0, 48},
                                    Case{CacheFormat::state_f32, kHuge}, Case{CacheFormat::index_f32, kLeast}}) {
    const Result<RowLayout> layout = row_layout(format, dim);
    ASSERT_FALSE(layout.ok()) << name_of(format) << " " << dim;
    EXPECT_EQ(layout.status().code(), StatusCode::invalid_argument);
    EXPECT_NE(std::strstr(layout.status().text(), name_of(format)), nullptr) << layout.status().text();
    EXPECT_NE(std::strstr(layout.status().text(), std::to_string(dim).c_str()), nullptr) << layout.status().text();
  }
  EXPECT_EQ(row_layout(static_cast<CacheFormat>(200), 128).status().code(), StatusCode::invalid_argument);
}

TEST(PagedCache, AddressesOfTheWorkedExample) {  // spec 13.5: page of 64, index 130
  std::vector<std::byte> bytes(4 * 37440);
  const RowLayout layout = layout_of(CacheFormat::kv_e4m3_ue8m0, 512);
  const auto cache = paged_cache("attend", "cache", view(bytes.data(), DType::u8, {4, 37440}), layout, 64);
  ASSERT_TRUE(cache.ok()) << cache.status().text();
  EXPECT_EQ(cache->row(130) - bytes.data(), 76032);
  EXPECT_EQ(cache->row(130) + layout.segments[2].offset - bytes.data(), 76480);
  EXPECT_STREQ(layout.segments[2].name, "rope");
  EXPECT_EQ(cache->footer(130) - bytes.data(), 111760);
  EXPECT_EQ(cache->num_slots(), 256);
  EXPECT_TRUE(cache->holds(0) && cache->holds(255));
  EXPECT_FALSE(cache->holds(-1) || cache->holds(256) || cache->holds(std::numeric_limits<std::int64_t>::max()));
}

TEST(PagedCache, TakesWideStridesAndEmptyCaches) {
  std::vector<std::byte> bytes(3 * 5000);
  const RowLayout layout = layout_of(CacheFormat::index_e2m1_ue8m0, 128);
  TensorView pages = view(bytes.data(), DType::u8, {3, 5000});
  const auto cache = paged_cache("index", "index_cache", pages, layout, 64);
  ASSERT_TRUE(cache.ok()) << cache.status().text();
  EXPECT_EQ(cache->page_stride, 5000);
  EXPECT_EQ(cache->row(64) - bytes.data(), 5000);
  const auto empty = paged_cache("index", "index_cache", view(nullptr, DType::u8, {0, 4352}), layout, 64);
  ASSERT_TRUE(empty.ok()) << empty.status().text();
  EXPECT_FALSE(empty->holds(0));
}

TEST(PagedCache, RefusesWhatIsNotPages) {
  std::vector<std::byte> bytes(4 * 37440 + 1);
  const RowLayout layout = layout_of(CacheFormat::kv_e4m3_ue8m0, 512);
  const TensorView good = view(bytes.data(), DType::u8, {4, 37440});
  const auto refused = [&](TensorView pages, std::int64_t page_size, const char* part) {
    const auto cache = paged_cache("attend", "window.cache", pages, layout, page_size);
    ASSERT_FALSE(cache.ok()) << part;
    EXPECT_EQ(cache.status().code(), StatusCode::invalid_argument);
    EXPECT_EQ(std::strncmp(cache.status().text(), "attend: window.cache ", 21), 0) << cache.status().text();
    EXPECT_NE(std::strstr(cache.status().text(), part), nullptr) << cache.status().text();
  };
  refused(good, 0, "page size 0");
  refused(good, -5, "page size -5");
  refused(good, std::int64_t{1} << 40, "page size");
  refused({}, 64, "rank 0");
  refused(view(bytes.data(), DType::u8, {4 * 37440}), 64, "rank 1");
  refused(view(bytes.data(), DType::bf16, {4, 37440}), 64, "bf16");
  refused(good, 65, "37440");
  refused(view(nullptr, DType::u8, {4, 37440}), 64, "no data");
  refused(view(bytes.data() + 1, DType::u8, {4, 37440}), 64, "multiples of 2");
  TensorView strided = good;
  strided.strides[1] = 2;
  refused(strided, 64, "strides");
  strided = good;
  strided.strides[0] = -37440;
  refused(strided, 64, "strides");
  strided.strides[0] = std::int64_t{1} << 62;
  refused(strided, 64, "strides");
  strided.strides[0] = 37377;
  refused(strided, 64, "multiples of 2");
  strided = good;
  strided.shape[0] = -1;
  refused(strided, 64, "-1 pages");
  strided.shape[0] = std::int64_t{1} << 31;
  refused(strided, 64, "pages");
}

TEST(PagedCache, RemembersItsDeviceAndAStrayFormatHasAName) {
  const TensorView pages = view(nullptr, DType::u8, {0, 64}, DeviceKind::cuda);
  EXPECT_EQ(paged_cache("attend", "cache", pages, layout_of(CacheFormat::kv_f32, 8), 2)->device, DeviceKind::cuda);
  EXPECT_STREQ(name_of(CacheFormat::state_f32), "state_f32");
  EXPECT_STREQ(name_of(static_cast<CacheFormat>(8)), "?");
  EXPECT_STREQ(name_of(static_cast<CacheFormat>(255)), "?");
}

TEST(SlotThrough, FollowsTheTableAndStopsAtItsEnds) {
  const std::int32_t table[] = {7, -1, 2};
  EXPECT_EQ(slot_through(table, 3, 4, 0), 28);
  EXPECT_EQ(slot_through(table, 3, 4, 3), 31);
  EXPECT_EQ(slot_through(table, 3, 4, 4), -1);
  EXPECT_EQ(slot_through(table, 3, 4, 11), 11);
  EXPECT_EQ(slot_through(table, 3, 4, 12), -1);
  EXPECT_EQ(slot_through(table, 3, 4, -1), -1);
  EXPECT_EQ(slot_through(nullptr, 0, 4, 0), -1);
}

TEST(CacheFormatFrom, ReadsEveryWordAndNothingElse) {
  for (std::size_t i = 0; i < std::size(kCacheFormatWords); ++i) {
    EXPECT_EQ(cache_format_from(kCacheFormatWords[i]), static_cast<CacheFormat>(i));
  }
  for (const char* word : {"", "kv_f33", "kv_f3", "kv_f32 ", "KV_F32"}) EXPECT_FALSE(cache_format_from(word)) << word;
}

}  // namespace
}  // namespace fathom
