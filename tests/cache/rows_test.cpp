// write_rows, read_rows, convert_rows: slots in any order, absent slots, strides, and refusals that change nothing.
#include "fathom/cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace fathom {
namespace {

constexpr std::byte kFill{0xee};

// A cache of a few pages with bytes of its own.
struct Cache {
  std::vector<std::byte> bytes;
  PagedCacheView view;

  Cache(CacheFormat format, int dim, std::int64_t page_size, std::int64_t num_pages) {
    const RowLayout layout = row_layout(format, dim).value();
    bytes.assign(num_pages * layout.page_stride(page_size), kFill);
    view =
        paged_cache("test", "cache", fathom::view(bytes.data(), DType::u8, {num_pages, layout.page_stride(page_size)}),
                    layout, page_size)
            .value();
  }
};

struct Rows {
  std::vector<float> values;
  TensorView view;
  Rows(std::int64_t count, std::int64_t dim, std::uint32_t seed) : values(count * dim) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(random);
    view = fathom::view(values.data(), DType::f32, {count, dim});
  }
};

TensorView slots_of(const std::vector<std::int64_t>& slots) {
  return view(slots.data(), DType::i64, {static_cast<std::int64_t>(slots.size())});
}

TEST(Rows, ComeBackFromAnySlotInAnyOrder) {
  const Cache cache(CacheFormat::kv_f32, 8, 3, 4);
  const Rows rows(5, 8, 1);
  const std::vector<std::int64_t> slots = {11, 0, 5, 3, 7};
  ASSERT_TRUE(write_rows(cache.view, slots_of(slots), rows.view).ok());
  Rows back(5, 8, 2);
  ASSERT_TRUE(read_rows(cache.view, slots_of(slots), back.view).ok());
  EXPECT_EQ(back.values, rows.values);
  EXPECT_EQ(cache.bytes[1 * 32], kFill);  // slot 1 was not named
}

TEST(Rows, AbsentSlotsAreNeverWrittenAndReadAsZero) {
  const Cache cache(CacheFormat::kv_e4m3_ue8m0, 512, 2, 2);
  const Rows rows(5, 512, 1);
  constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
  const std::vector<std::int64_t> slots = {-1, 4, kFar, -kFar - 1, -4};
  ASSERT_TRUE(write_rows(cache.view, slots_of(slots), rows.view).ok());
  EXPECT_EQ(cache.bytes, std::vector<std::byte>(cache.bytes.size(), kFill));
  Rows back(5, 512, 2);
  ASSERT_TRUE(read_rows(cache.view, slots_of(slots), back.view).ok());
  EXPECT_EQ(back.values, std::vector<float>(5 * 512, 0.0f));
}

TEST(Rows, WritingOneRowTouchesOnlyItsBytes) {
  for (const CacheFormat format :
       {CacheFormat::kv_e4m3_ue8m0, CacheFormat::index_e4m3_f32, CacheFormat::index_e2m1_ue8m0}) {
    const int dim = format == CacheFormat::kv_e4m3_ue8m0 ? 512 : 128;
    const Cache cache(format, dim, 4, 3);
    ASSERT_TRUE(write_rows(cache.view, slots_of({6}), Rows(1, dim, 3).view).ok());
    std::vector<bool> own(cache.bytes.size());
    for (int i = 0; i < cache.view.layout.row_bytes; ++i) own[cache.view.row(6) - cache.bytes.data() + i] = true;
    for (int i = 0; i < cache.view.layout.footer_bytes; ++i) own[cache.view.footer(6) - cache.bytes.data() + i] = true;
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (!own[i]) {
        ASSERT_EQ(cache.bytes[i], kFill) << name_of(format) << " byte " << i;
      }
    }
    EXPECT_NE(*cache.view.row(6), kFill);
  }
}

TEST(Rows, StridedSlotsAndValuesAndBf16) {
  const Cache cache(CacheFormat::kv_bf16, 4, 2, 2);
  const std::vector<std::int64_t> spread = {2, -7, 0, -7};  // every other element counts
  TensorView slots = view(spread.data(), DType::i64, {2});
  slots.strides[0] = 2;
  std::vector<bf16> values(2 * 6);
  for (int i = 0; i < 12; ++i) values[i] = to_bf16(static_cast<float>(i));
  TensorView rows = view(values.data(), DType::bf16, {2, 4});
  rows.strides[0] = 6;
  ASSERT_TRUE(write_rows(cache.view, slots, rows).ok());
  std::vector<bf16> back(8);
  ASSERT_TRUE(read_rows(cache.view, slots_of({2, 0}), view(back.data(), DType::bf16, {2, 4})).ok());
  const float expected[] = {0, 1, 2, 3, 6, 7, 8, 9};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(to_f32(back[i]), expected[i]);
}

TEST(Rows, F32AndBf16ValuesQuantiseAlike) {
  const Cache a(CacheFormat::kv_e4m3_ue8m0, 512, 4, 1), b(CacheFormat::kv_e4m3_ue8m0, 512, 4, 1);
  const Rows rows(4, 512, 9);
  std::vector<bf16> halves(4 * 512);
  for (int i = 0; i < 4 * 512; ++i) halves[i] = to_bf16(rows.values[i]);
  ASSERT_TRUE(write_rows(a.view, slots_of({0, 1, 2, 3}), rows.view).ok());
  ASSERT_TRUE(write_rows(b.view, slots_of({0, 1, 2, 3}), view(halves.data(), DType::bf16, {4, 512})).ok());
  EXPECT_EQ(a.bytes, b.bytes);
}

TEST(Rows, ConvertingBetweenFormatsQuantisesOnce) {
  const Rows rows(3, 128, 4);
  const std::vector<std::int64_t> slots = {0, 1, 2};
  const Cache plain(CacheFormat::index_f32, 128, 2, 2), direct(CacheFormat::index_e2m1_ue8m0, 128, 4, 1);
  const Cache converted(CacheFormat::index_e2m1_ue8m0, 128, 4, 1);
  ASSERT_TRUE(write_rows(plain.view, slots_of(slots), rows.view).ok());
  ASSERT_TRUE(write_rows(direct.view, slots_of(slots), rows.view).ok());
  ASSERT_TRUE(convert_rows(plain.view, slots_of(slots), converted.view, slots_of(slots)).ok());
  EXPECT_EQ(converted.bytes, direct.bytes);
}

TEST(Rows, ConvertingWithinAFormatCopiesBytesAcrossPageSizes) {
  const Rows rows(4, 512, 5);
  const Cache from(CacheFormat::kv_e4m3_ue8m0, 512, 4, 1), to(CacheFormat::kv_e4m3_ue8m0, 512, 2, 2);
  ASSERT_TRUE(write_rows(from.view, slots_of({0, 1, 2, 3}), rows.view).ok());
  from.view.footer(1)[0] = std::byte{3};  // a scale our writer would not choose
  ASSERT_TRUE(convert_rows(from.view, slots_of({0, 1, 2, -1}), to.view, slots_of({3, 0, 99, 1})).ok());
  EXPECT_EQ(std::memcmp(to.view.row(3), from.view.row(0), 576), 0);
  EXPECT_EQ(std::memcmp(to.view.row(0), from.view.row(1), 576), 0);
  EXPECT_EQ(std::memcmp(to.view.footer(0), from.view.footer(1), 8), 0);
  EXPECT_EQ(*to.view.row(1), kFill);  // an absent slot on either side skips the pair
  EXPECT_EQ(*to.view.row(2), kFill);
}

TEST(Rows, NoRowsIsFine) {
  const Cache cache(CacheFormat::kv_f32, 8, 3, 1);
  const TensorView none = view(nullptr, DType::i64, {0}), rows = view(nullptr, DType::f32, {0, 8});
  EXPECT_TRUE(write_rows(cache.view, none, rows).ok());
  EXPECT_TRUE(read_rows(cache.view, none, rows).ok());
  EXPECT_TRUE(convert_rows(cache.view, none, cache.view, none).ok());
}

TEST(Rows, RefusalsNameTheArgumentAndChangeNothing) {
  const Cache cache(CacheFormat::kv_f32, 8, 3, 2);
  Rows rows(2, 8, 1);
  const std::vector<float> before = rows.values;
  const TensorView slots = slots_of({0, 1});
  const auto refused = [&](const PagedCacheView& pages, const TensorView& named, const TensorView& values,
                           const char* part) {
    for (const Status& status : {write_rows(pages, named, values), read_rows(pages, named, values)}) {
      EXPECT_EQ(status.code(), StatusCode::invalid_argument);
      EXPECT_NE(std::strstr(status.text(), part), nullptr) << status.text();
    }
  };
  refused(cache.view, {}, rows.view, "slots");
  refused(cache.view, view(nullptr, DType::i64, {2}), rows.view, "slots");
  refused(cache.view, view(before.data(), DType::i32, {2}), rows.view, "slots");
  refused(cache.view, slots_of({0}), rows.view, "values");
  refused(cache.view, slots, view(rows.values.data(), DType::f32, {2, 4}), "dim=8");
  refused(cache.view, slots, view(rows.values.data(), DType::u8, {2, 8}), "u8");
  refused(cache.view, slots, view(rows.values.data(), DType::f32, {2, 8}, DeviceKind::cuda), "cuda");
  refused(cache.view, slots, view(nullptr, DType::f32, {2, 8}), "no data");
  refused(cache.view, slots, view(rows.values.data(), static_cast<DType>(99), {2, 8}), "type ?");
  refused(cache.view, view(before.data(), static_cast<DType>(255), {2}), rows.view, "type ?");
  refused({}, slots, rows.view, "cache");
  PagedCacheView narrow = cache.view;
  narrow.page_stride = 95;
  refused(narrow, slots, rows.view, "stride");
  EXPECT_EQ(rows.values, before);
  EXPECT_EQ(cache.bytes, std::vector<std::byte>(cache.bytes.size(), kFill));

  const Cache other(CacheFormat::kv_f32, 4, 3, 2);
  EXPECT_EQ(convert_rows(cache.view, slots, other.view, slots).code(), StatusCode::invalid_argument);
  EXPECT_EQ(convert_rows(cache.view, slots, cache.view, slots_of({0})).code(), StatusCode::invalid_argument);
}

TEST(Rows, ViewsThatLieElsewhereThanTheySayAreRefused) {
  const Cache cache(CacheFormat::kv_f32, 8, 3, 2);
  Rows rows(2, 8, 1);
  const std::vector<float> before = rows.values;
  const std::vector<std::int64_t> named = {0, 1};
  const TensorView slots = slots_of(named);
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  const auto refused = [&](const PagedCacheView& pages, const TensorView& at, const TensorView& values,
                           const char* part) {
    for (const Status& status : {write_rows(pages, at, values), read_rows(pages, at, values)}) {
      EXPECT_EQ(status.code(), StatusCode::invalid_argument) << part;
      EXPECT_NE(std::strstr(status.text(), part), nullptr) << status.text();
    }
    if (&values != &rows.view) return;  // the pages or the slots are at fault: converting refuses them on either side
    EXPECT_EQ(convert_rows(pages, at, cache.view, slots).code(), StatusCode::invalid_argument) << part;
    EXPECT_EQ(convert_rows(cache.view, slots, pages, at).code(), StatusCode::invalid_argument) << part;
  };
  for (const std::int64_t stride : {std::int64_t{-1}, -kHuge, kHuge, std::numeric_limits<std::int64_t>::min()}) {
    TensorView bad = slots;
    bad.strides[0] = stride;
    refused(cache.view, bad, rows.view, "slots has strides");
    bad = rows.view;
    bad.strides[0] = stride;
    refused(cache.view, slots, bad, "values has strides");
    PagedCacheView pages = cache.view;
    pages.page_stride = stride;
    refused(pages, slots, rows.view, "cache has strides");
  }
  TensorView bad = slots;
  bad.data = reinterpret_cast<std::byte*>(bad.data) + 1;
  refused(cache.view, bad, rows.view, "slots is not aligned to its 8-byte elements");
  bad = rows.view;
  bad.data = reinterpret_cast<std::byte*>(bad.data) + 2;
  refused(cache.view, slots, bad, "values is not aligned to its 4-byte elements");
  PagedCacheView pages = cache.view;
  pages.pages += 1;
  refused(pages, slots, rows.view, "cache has base");
  pages = cache.view;
  pages.num_pages = std::numeric_limits<std::int64_t>::max();
  refused(pages, slots, rows.view, "cache has 9223372036854775807 pages");
  pages = cache.view;
  pages.device = DeviceKind::cuda;
  refused(pages, slots, rows.view, "cache lies on cuda");
  EXPECT_EQ(rows.values, before);
  EXPECT_EQ(cache.bytes, std::vector<std::byte>(cache.bytes.size(), kFill));
}

TEST(Rows, OneRowMayFillManySlotsButManySlotsNotOneRow) {
  const Cache cache(CacheFormat::kv_f32, 8, 3, 2);
  Rows rows(2, 8, 1);
  TensorView folded = rows.view;
  folded.strides[0] = 0;
  ASSERT_TRUE(write_rows(cache.view, slots_of({0, 4}), folded).ok());
  EXPECT_EQ(std::memcmp(cache.view.row(0), rows.values.data(), 32), 0);
  EXPECT_EQ(std::memcmp(cache.view.row(4), rows.values.data(), 32), 0);
  const std::vector<float> before = rows.values;
  const Status status = read_rows(cache.view, slots_of({4, 1}), folded);
  EXPECT_STREQ(status.text(), "read_rows: values is written but its stride 0 in dimension 0 folds elements onto each other");
  EXPECT_EQ(rows.values, before);
}

}  // namespace
}  // namespace fathom
