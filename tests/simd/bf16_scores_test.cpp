// Scores by products of bf16 pairs against plain sums over decode_row's keys. Skipped where the machine lacks the
// instructions.
#include "simd/bf16_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "cache/row_codec.h"
#include "simd/instruction_sets.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

using simd::InstructionSet, simd::kLine, simd::kPiece, simd::kStep, simd::Pair;

class Bf16Scores : public testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override {
    if (const char* why = simd::why_not(GetParam())) GTEST_SKIP() << why;
    scores_ = GetParam() == InstructionSet::amx ? &simd::bf16_tile_scores() : &simd::bf16_dot_scores();
  }
  const simd::Bf16Scores* scores_ = nullptr;
  test::Random random_{13};
};

struct Rows {
  std::vector<std::byte> bytes, footers;
  std::vector<float> values;
  std::vector<RowBytes> where;
};

/// Arbitrary codes under the scales that `scale` draws; `values` as decode_row has them.
template <class Scale>
Rows make_rows(const RowLayout& layout, int count, test::Random& random, Scale&& scale) {
  Rows rows;
  rows.bytes.resize(count * layout.row_bytes);
  rows.footers.resize(count * layout.footer_bytes);
  rows.values.resize(count * layout.dim);
  for (int j = 0; j < count; ++j) {
    std::byte *row = rows.bytes.data() + j * layout.row_bytes, *footer = rows.footers.data() + j * layout.footer_bytes;
    for (int i = 0; i < layout.row_bytes; ++i) {
      row[i] = static_cast<std::byte>(
          layout.format == CacheFormat::index_e4m3_f32 ? random.below(112) | random.below(2) << 7 : random.below(256));
    }
    scale(j, footer);
    decode_row(layout, row, footer, rows.values.data() + j * layout.dim);
    rows.where.push_back({row, footer});
  }
  return rows;
}

TEST_P(Bf16Scores, AreThoseOfTheDefinition) {
  for (const CacheFormat format : {CacheFormat::index_e4m3_f32, CacheFormat::index_e2m1_ue8m0}) {
    for (const int dim : {128, 256}) {
      const RowLayout layout = row_layout(format, dim).value();
      for (const int heads : {1, 16, 17, 33, 64}) {
        for (const int num_keys : {1, 31, 32, 70}) {
          const auto draw = [&](int j, std::byte* footer) {
            if (format == CacheFormat::index_e4m3_f32) {
              const float scale = j % 5 == 4 ? -0.3f : 0.25f;  // any f32 is a scale
              std::memcpy(footer, &scale, sizeof(scale));
            }
            for (int i = 0; format != CacheFormat::index_e4m3_f32 && i < dim / 32; ++i)
              footer[i] = static_cast<std::byte>(120 + random_.below(9));
          };
          const Rows keys = make_rows(layout, num_keys, random_, draw);
          Rows q = make_rows(layout, heads, random_, [&](int j, std::byte* footer) {
            draw(0, footer);
            if (format == CacheFormat::index_e4m3_f32)
              std::memset(footer, j % 2 == 0 ? 0xff : 0, 4);  // queries have none
          });
          if (format == CacheFormat::index_e4m3_f32) {
            const float one = 1;
            for (int h = 0; h < heads; ++h)
              decode_row(layout, q.where[h].row, reinterpret_cast<const std::byte*>(&one), q.values.data() + h * dim);
          }
          const int groups = (heads + kLine - 1) / kLine, steps = dim / kStep;
          std::vector<Pair> packed(groups * steps * kPiece), scratch(2 * steps * kPiece);
          std::vector<float> weights(groups * kLine), scores(num_keys + 1, -7);
          for (int h = 0; h < heads; ++h) weights[h] = random_.next();
          scores_->pack(layout, q.where.data(), heads, packed.data());
          scores_->score(layout, keys.where.data(), num_keys, scratch.data(), packed.data(), heads, weights.data(),
                         scores.data());
          for (int j = 0; j < num_keys; ++j) {
            double score = 0, size = 0;
            for (int h = 0; h < heads; ++h) {
              double dot = 0;
              for (int c = 0; c < dim; ++c)
                dot += static_cast<double>(q.values[h * dim + c]) * keys.values[j * dim + c];
              score += std::max(dot, 0.0) * weights[h];
              size += std::abs(dot);
            }
            ASSERT_NEAR(scores[j], score, 3e-6 * (size + 1))
                << name_of(format) << " dim " << dim << " heads " << heads << " key " << j;
          }
          EXPECT_EQ(scores[num_keys], -7);
        }
      }
    }
  }
}

TEST_P(Bf16Scores, E2m1UnderEveryScale) {
  const RowLayout layout = row_layout(CacheFormat::index_e2m1_ue8m0, 128).value();
  std::vector<std::byte> one(64, std::byte{0x22}), same(4, std::byte{127});  // ones
  const RowBytes query{one.data(), same.data()};
  std::vector<Pair> packed(4 * kPiece), scratch(8 * kPiece);
  const std::vector<float> weights = [] {
    std::vector<float> w(kLine, 0.0f);
    w[0] = 1;
    return w;
  }();
  scores_->pack(layout, &query, 1, packed.data());
  for (int code = 0; code < 8; ++code) {
    for (int scale = 0; scale < 256; ++scale) {
      std::vector<std::byte> key(64, std::byte{0}), scales(4, std::byte{127});
      key[20] = static_cast<std::byte>(code);  // element 40, of the second scale
      scales[1] = static_cast<std::byte>(scale);
      std::vector<float> values(128), score(1);
      decode_row(layout, key.data(), scales.data(), values.data());
      const RowBytes row{key.data(), scales.data()};
      scores_->score(layout, &row, 1, scratch.data(), packed.data(), 1, weights.data(), score.data());
      const float exact = values[40];
      if (scale == 255 || std::isinf(exact)) {
        EXPECT_FALSE(std::isfinite(score[0])) << code << " under " << scale;
      } else {
        EXPECT_EQ(score[0], exact < 0x1p-126f ? 0.0f : exact) << code << " under " << scale;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Bf16Scores, testing::Values(InstructionSet::avx512bf16, InstructionSet::amx),
                         [](const auto& tested) { return tested.param == InstructionSet::amx ? "tiles" : "dots"; });

}  // namespace
}  // namespace fathom
