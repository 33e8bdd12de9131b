// The C interface's host functions on rows: rope tables, cache layouts, and rows in and out of pages.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "fathom/c/fathom.h"
#include "fathom/config.h"

namespace {

TEST(CApiRows, RopeTableIsTheLibrarys) {
  const fathom_rope rope = {64, 160000.0f, 16.0f, 32.0f, 1.0f, 65536};
  float by_c[3 * 64], by_cpp[3 * 64];
  const fathom_tensor table = fathom_tensor_packed(by_c, FATHOM_F32, 2, 3, 64, 0, 0);
  fathom_status status;
  ASSERT_EQ(fathom_rope_table(&rope, 1000, &table, &status), FATHOM_OK) << status.text;
  fathom::RopeConfig config;
  config.theta = 160000.0f;
  config.factor = 16.0f;
  ASSERT_TRUE(fathom::fill_rope_table(config, 1000, fathom::view(by_cpp, fathom::DType::f32, {3, 64})).ok());
  EXPECT_EQ(std::memcmp(by_c, by_cpp, sizeof(by_c)), 0);
  EXPECT_NE(fathom_rope_table(&rope, -1, &table, &status), FATHOM_OK);
  for (const int64_t stride : {int64_t{0}, int64_t{-64}, INT64_MAX / 2, INT64_MIN}) {
    fathom_tensor bent = table;
    bent.strides[0] = stride;
    EXPECT_EQ(fathom_rope_table(&rope, 0, &bent, &status), FATHOM_INVALID_ARGUMENT) << stride;
  }
  fathom_tensor askew = table;
  askew.data = reinterpret_cast<char*>(by_c) + 1;
  askew.shape[0] = 2;
  EXPECT_EQ(fathom_rope_table(&rope, 0, &askew, &status), FATHOM_INVALID_ARGUMENT);
  fathom_rope odd = rope;
  odd.rope_dim = -64;
  EXPECT_NE(fathom_rope_table(&odd, 0, &table, &status), FATHOM_OK);
}

TEST(CApiRows, CacheLayoutsAreThePublishedOnes) {
  fathom_cache_layout layout;
  fathom_status status;
  ASSERT_EQ(fathom_cache_layout_of("kv_e4m3_ue8m0", 512, 64, &layout, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(layout.dim, 512);
  EXPECT_EQ(layout.row_bytes + layout.footer_bytes, 584);
  EXPECT_EQ(layout.page_bytes, 37376);
  EXPECT_EQ(layout.page_stride, 37440);
  const fathom_cache_layout before = layout;
  EXPECT_EQ(fathom_cache_layout_of("kv_e5m2", 512, 64, &layout, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(std::strstr(status.text, "kv_e5m2"), nullptr) << status.text;
  for (const int64_t page_size : {int64_t{0}, int64_t{-64}, INT64_MAX}) {
    EXPECT_EQ(fathom_cache_layout_of("kv_f32", 512, page_size, &layout, &status), FATHOM_INVALID_ARGUMENT) << page_size;
  }
  for (const int32_t dim : {0, -512, INT32_MAX}) EXPECT_NE(fathom_cache_layout_of("kv_f32", dim, 64, &layout, &status), FATHOM_OK) << dim;
  EXPECT_EQ(std::memcmp(&layout, &before, sizeof(before)), 0);
}

TEST(CApiRows, RowsComeBackThroughTheirSlots) {
  std::vector<std::byte> pages(3 * 4 * 8 * sizeof(float), std::byte{0xff});
  const std::vector<std::byte> before = pages;
  float values[2 * 8], back[2 * 8];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(i);
  int64_t slots[2] = {9, 2};
  const fathom_tensor cache = fathom_tensor_packed(pages.data(), FATHOM_U8, 2, 3, 4 * 8 * sizeof(float), 0, 0);
  const fathom_tensor at = fathom_tensor_packed(slots, FATHOM_I64, 1, 2, 0, 0, 0);
  const fathom_tensor from = fathom_tensor_packed(values, FATHOM_F32, 2, 2, 8, 0, 0);
  const fathom_tensor to = fathom_tensor_packed(back, FATHOM_F32, 2, 2, 8, 0, 0);
  fathom_status status;
  const fathom_tensor narrow = fathom_tensor_packed(pages.data(), FATHOM_U8, 2, 3, 4 * 8 * sizeof(float) - 1, 0, 0);
  EXPECT_EQ(fathom_cache_write("kv_f32", 8, 4, &narrow, &at, &from, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(std::strstr(status.text, "pages"), nullptr) << status.text;
  EXPECT_EQ(pages, before);

  const auto refused = [&](const fathom_tensor& p, const fathom_tensor& s, const fathom_tensor& v, const char* part) {
    for (const auto copy : {fathom_cache_write, fathom_cache_read}) {
      EXPECT_EQ(copy("kv_f32", 8, 4, &p, &s, &v, &status), FATHOM_INVALID_ARGUMENT) << part;
      EXPECT_NE(std::strstr(status.text, part), nullptr) << status.text;
    }
    EXPECT_EQ(pages, before);
  };
  fathom_tensor elsewhere = cache;
  elsewhere.device = FATHOM_CUDA;
  refused(elsewhere, at, from, "lies on cuda");
  elsewhere.device = 77;
  refused(elsewhere, at, from, "lies on ?");
  fathom_tensor bent = at;
  bent.device = FATHOM_CUDA;
  refused(cache, bent, from, "slots");
  bent = at;
  bent.strides[0] = INT64_MAX;
  refused(cache, bent, from, "slots");
  bent = at;
  bent.dtype = 255;
  refused(cache, bent, from, "type ?");
  for (const int64_t stride : {int64_t{-8}, INT64_MAX, INT64_MIN}) {
    bent = from;
    bent.strides[0] = stride;
    refused(cache, at, bent, "values");
    bent = cache;
    bent.strides[0] = stride;
    refused(bent, at, from, "pages");
  }

  ASSERT_EQ(fathom_cache_write("kv_f32", 8, 4, &cache, &at, &from, &status), FATHOM_OK) << status.text;
  ASSERT_EQ(fathom_cache_read("kv_f32", 8, 4, &cache, &at, &to, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(std::memcmp(values, back, sizeof(values)), 0);
  EXPECT_EQ(std::memcmp(pages.data() + 9 * 32, values, 32), 0);
  slots[0] = 12, slots[1] = INT64_MIN;
  ASSERT_EQ(fathom_cache_read("kv_f32", 8, 4, &cache, &at, &to, &status), FATHOM_OK) << status.text;
  for (const float value : back) EXPECT_EQ(value, 0.0f);
}

}  // namespace
