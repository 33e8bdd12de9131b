// Rows of every format: bytes against the independent packer of tests/golden, round trips, and values no model
// produces.
#include "cache/row_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cache/number_codecs.h"
#include "fathom/checkpoint.h"

namespace fathom {
namespace {

constexpr CacheFormat kQuantised[] = {CacheFormat::kv_e4m3_ue8m0, CacheFormat::kv_e4m3_f32, CacheFormat::index_e4m3_f32,
                                      CacheFormat::index_e2m1_ue8m0};

RowLayout layout_of(CacheFormat format) {
  if (format == CacheFormat::kv_e4m3_ue8m0) return row_layout(format, 512).value();
  return row_layout(format, format == CacheFormat::kv_e4m3_f32 ? 576 : 128).value();
}

struct Row {
  std::vector<std::byte> row, footer;
  bool operator==(const Row&) const = default;
};

Row encoded(const RowLayout& layout, const std::vector<float>& values) {
  Row row{std::vector<std::byte>(layout.row_bytes, std::byte{0xa5}),
          std::vector<std::byte>(layout.footer_bytes, std::byte{0xa5})};
  encode_row(layout, values.data(), row.row.data(), row.footer.data());
  return row;
}

std::vector<float> decoded(const RowLayout& layout, const Row& row) {
  std::vector<float> values(layout.dim, -12345.0f);
  decode_row(layout, row.row.data(), row.footer.data(), values.data());
  return values;
}

std::vector<float> random_values(int count, std::uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random) * scale;
  return values;
}

int byte_at(const std::vector<std::byte>& bytes, int i) { return static_cast<int>(bytes[i]); }

TEST(RowCodec, PlainFormatsKeepTheirBits) {
  for (const CacheFormat format : {CacheFormat::kv_f32, CacheFormat::index_f32, CacheFormat::state_f32}) {
    std::vector<float> values = random_values(128, 3);
    values[5] = std::numeric_limits<float>::infinity();
    values[6] = -0.0f;
    values[7] = std::numeric_limits<float>::denorm_min();
    const std::vector<float> back = decoded(layout_of(format), encoded(layout_of(format), values));
    EXPECT_EQ(std::memcmp(back.data(), values.data(), 128 * sizeof(float)), 0) << name_of(format);
  }
  const std::vector<float> values = random_values(128, 4);
  const std::vector<float> back =
      decoded(layout_of(CacheFormat::kv_bf16), encoded(layout_of(CacheFormat::kv_bf16), values));
  for (int i = 0; i < 128; ++i) EXPECT_EQ(back[i], round_bf16(values[i]));
}

TEST(RowCodec, LayoutOfA584ByteRow) {
  std::vector<float> values(512);
  values[0] = 448.0f;     // tile 0: scale 1
  values[447] = -896.0f;  // tile 6: scale 2
  values[448] = 1.0f;     // rope
  values[511] = -2.0f;
  const Row row = encoded(layout_of(CacheFormat::kv_e4m3_ue8m0), values);
  EXPECT_EQ(byte_at(row.row, 0), 0x7e);
  EXPECT_EQ(byte_at(row.row, 447), 0xfe);
  EXPECT_EQ(byte_at(row.row, 448), 0x80);  // bf16 1.0 = 0x3f80, little-endian
  EXPECT_EQ(byte_at(row.row, 449), 0x3f);
  EXPECT_EQ(byte_at(row.row, 574), 0x00);
  EXPECT_EQ(byte_at(row.row, 575), 0xc0);
  const int scales[] = {127, 105, 105, 105, 105, 105, 128, 0};  // the eighth byte is padding
  for (int i = 0; i < 8; ++i) EXPECT_EQ(byte_at(row.footer, i), scales[i]) << i;
}

TEST(RowCodec, LayoutOfA656ByteRow) {
  std::vector<float> values(576);
  values[128] = 896.0f;
  values[575] = 1.0f;
  const Row row = encoded(layout_of(CacheFormat::kv_e4m3_f32), values);
  float scales[4];
  std::memcpy(scales, row.row.data() + 512, sizeof(scales));
  EXPECT_EQ(scales[0], 0x1p-22f);
  EXPECT_EQ(scales[1], 2.0f);
  EXPECT_EQ(byte_at(row.row, 128), 0x7e);
  EXPECT_EQ(byte_at(row.row, 655), 0x3f);
  EXPECT_TRUE(row.footer.empty());
}

TEST(RowCodec, ReadersTakeAnyScale) {
  const RowLayout v32 = layout_of(CacheFormat::kv_e4m3_f32);
  Row row = encoded(v32, std::vector<float>(576, 1.0f));
  const float scale = 0.3f;  // no power of two, as DeepSeek-V3.2's own writer stores
  std::memcpy(row.row.data() + 512, &scale, sizeof(scale));
  EXPECT_EQ(decoded(v32, row)[0], kE4m3Values[byte_at(row.row, 0)] * 0.3f);
  const RowLayout kv = layout_of(CacheFormat::kv_e4m3_ue8m0);
  row = encoded(kv, std::vector<float>(512, 1.0f));
  for (int byte = 0; byte < 256; ++byte) {
    row.footer[2] = static_cast<std::byte>(byte);
    const std::vector<float> back = decoded(kv, row);
    if (byte == 255) {
      EXPECT_TRUE(std::isnan(back[128]) && std::isnan(back[191]));
    } else {
      EXPECT_EQ(back[128], static_cast<float>(std::ldexp(256.0, byte - 127))) << byte;
    }
    EXPECT_EQ(back[127], 1.0f);
    EXPECT_EQ(back[192], 1.0f);
  }
}

TEST(RowCodec, NanStaysInItsBlock) {
  for (const CacheFormat format : kQuantised) {
    const RowLayout layout = layout_of(format);
    const std::vector<float> clean = random_values(layout.dim, 5);
    std::vector<float> dirty = clean;
    dirty[70] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> before = decoded(layout, encoded(layout, clean)),
                             after = decoded(layout, encoded(layout, dirty));
    const bool whole_block = format == CacheFormat::index_e2m1_ue8m0;
    for (int i = 0; i < layout.dim; ++i) {
      if (i == 70 || (whole_block && i / 32 == 70 / 32)) {
        EXPECT_TRUE(std::isnan(after[i])) << name_of(format) << " " << i;
      } else {
        EXPECT_EQ(after[i], before[i]) << name_of(format) << " " << i;
      }
    }
  }
}

TEST(RowCodec, InfinityStaysInItsBlockAndReadsBack) {
  for (const CacheFormat format : kQuantised) {
    const RowLayout layout = layout_of(format);
    std::vector<float> values = random_values(layout.dim, 6);
    values[3] = -std::numeric_limits<float>::infinity();
    const std::vector<float> back = decoded(layout, encoded(layout, values));
    EXPECT_EQ(back[3], values[3]) << name_of(format);
    for (const float value : back) EXPECT_FALSE(std::isnan(value));
    if (format == CacheFormat::index_e4m3_f32) continue;  // one block
    EXPECT_NE(back[layout.dim - 1], 0.0f);
  }
}

// Spec 10.3, 8: the values of a dequantised row survive quantising them again, whatever the bytes.
TEST(RowCodec, QuantisingAgainKeepsTheValues) {
  for (const CacheFormat format : kQuantised) {
    const RowLayout layout = layout_of(format);
    for (std::uint32_t seed = 0; seed < 300; ++seed) {
      const float scale = std::ldexp(1.0f, static_cast<int>(seed % 60) - 20);
      const std::vector<float> once = decoded(layout, encoded(layout, random_values(layout.dim, seed, scale)));
      ASSERT_EQ(decoded(layout, encoded(layout, once)), once) << name_of(format) << " seed " << seed;
    }
  }
}

TEST(RowCodec, AMaximumRoundedDownTo224EncodesWithHalfTheScale) {
  std::vector<float> values(512);
  values[0] = 225.0f;  // scale 1 (225 > 224), rounds to 224
  const RowLayout layout = layout_of(CacheFormat::kv_e4m3_ue8m0);
  const Row first = encoded(layout, values), second = encoded(layout, decoded(layout, first));
  EXPECT_EQ(byte_at(first.footer, 0), 127);
  EXPECT_EQ(byte_at(second.footer, 0), 126);
  EXPECT_EQ(decoded(layout, first), decoded(layout, second));
}

class GoldenPages : public testing::TestWithParam<int> {};

// Pages of the independent packer. It floors a near-zero tile's scale elsewhere (spec 7.6): those 8 tiles may differ,
// in scale byte and codes; every other byte, padding included, is equal.
TEST_P(GoldenPages, AreByteExactApartFromNearZeroTiles) {
  const std::int64_t page_size = GetParam();
  const Result<Checkpoint> file = Checkpoint::open(FATHOM_GOLDEN_DIR "/tables.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().text();
  const Result<FileTensor> rows = file->tensor("page_rows");
  const Result<FileTensor> pages = file->tensor("pages_" + std::to_string(page_size));
  ASSERT_TRUE(rows.ok() && pages.ok());
  const RowLayout layout = layout_of(CacheFormat::kv_e4m3_ue8m0);
  ASSERT_EQ(rows->shape, (std::vector<std::int64_t>{256, 512}));
  ASSERT_EQ(pages->shape, (std::vector<std::int64_t>{256 / page_size, layout.page_stride(page_size)}));

  std::vector<std::byte> ours(pages->bytes);
  const TensorView tensor = view(ours.data(), DType::u8, {pages->shape[0], pages->shape[1]});
  const Result<PagedCacheView> cache = paged_cache("test", "pages", tensor, layout, page_size);
  ASSERT_TRUE(cache.ok()) << cache.status().text();
  std::vector<float> values(512);
  for (std::int64_t t = 0; t < 256; ++t) {
    for (int c = 0; c < 512; ++c) {
      bf16 stored;
      std::memcpy(&stored, rows->data + (t * 512 + c) * 2, 2);
      values[c] = to_f32(stored);
    }
    encode_row(layout, values.data(), cache->row(t), cache->footer(t));
  }

  int floored_tiles = 0;
  for (std::int64_t t = 0; t < 256; ++t) {
    const std::byte* theirs_row = pages->data + (cache->row(t) - ours.data());
    const std::byte* theirs_footer = pages->data + (cache->footer(t) - ours.data());
    for (int g = 0; g < 7; ++g) {
      if (cache->footer(t)[g] == theirs_footer[g]) continue;
      ++floored_tiles;
      EXPECT_LT(static_cast<int>(cache->footer(t)[g]), 127 - 13);  // below the packer's smallest scale, 2^-13
      EXPECT_EQ(static_cast<int>(theirs_footer[g]), 127 - 13);
      std::memcpy(cache->footer(t) + g, theirs_footer + g, 1);
      std::memcpy(cache->row(t) + 64 * g, theirs_row + 64 * g, 64);
    }
  }
  EXPECT_EQ(floored_tiles, 8);
  EXPECT_EQ(std::memcmp(ours.data(), pages->data, ours.size()), 0);
}
INSTANTIATE_TEST_SUITE_P(RowCodec, GoldenPages, testing::Values(2, 64));

}  // namespace
}  // namespace fathom
