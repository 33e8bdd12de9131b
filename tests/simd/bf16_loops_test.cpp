// The products of bf16 pairs against plain sums over decode_row's rows: formats, odd runs, rows and heads that do not
// fill pieces, codes and scales from end to end. Skipped where the machine lacks the instructions.
#include "simd/bf16_loops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cache/row_codec.h"
#include "simd/instruction_sets.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

using simd::InstructionSet, simd::kLine, simd::kPiece, simd::kScoreRows, simd::kStep, simd::kValueColumns, simd::Pair;

class Bf16Loops : public testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override {
    if (const char* why = simd::why_not(GetParam())) GTEST_SKIP() << why;
    loops_ = GetParam() == InstructionSet::amx ? &simd::bf16_tile_loops() : &simd::bf16_dot_loops();
  }
  /// Rows of a format, every third of arbitrary codes; scales stay where bf16 holds the values.
  void make_rows(CacheFormat format, int dim, int count) {
    layout_ = row_layout(format, dim).value();
    bytes_.resize(count * layout_.row_bytes);
    footers_.resize(count * 8);
    values_.assign(count * dim, 0);
    rows_.clear();
    for (int j = 0; j < count; ++j) {
      std::byte *row = bytes_.data() + j * layout_.row_bytes, *footer = footers_.data() + j * 8;
      std::vector<float> values(dim);
      for (float& value : values) value = random_.next();
      encode_row(layout_, values.data(), row, footer);
      for (int i = 0; format == CacheFormat::kv_e4m3_ue8m0 && j % 3 == 2 && i < 448; ++i) {
        row[i] = static_cast<std::byte>(random_.below(127) | random_.below(2) << 7);
        footer[i / 64] = static_cast<std::byte>(120 + random_.below(5));
      }
      rows_.push_back({row, footer});
    }
    decode_all();
  }
  void decode_all() {
    for (std::size_t j = 0; j < rows_.size(); ++j)
      decode_row(layout_, rows_[j].row, rows_[j].footer, values_.data() + j * layout_.dim);
  }
  std::vector<bf16> make_q(int heads, int dim) {
    std::vector<bf16> q(heads * dim);
    for (bf16& value : q) value = to_bf16(random_.next());
    return q;
  }
  /// Logits of all rows as the loops compute them, [rows][groups * kLine].
  std::vector<float> scored(const std::vector<bf16>& q, int heads, std::vector<float>* most = nullptr,
                            float scale = 1) {
    const int dim = layout_.dim, steps = (dim + 63) / 64 * 2, groups = (heads + kLine - 1) / kLine,
              count = static_cast<int>(rows_.size());
    std::vector<Pair> packed(groups * steps * kPiece), keys(2 * steps * kPiece);
    for (int g = 0; g < groups; ++g) {
      loops_->pack(q.data() + g * kLine * dim, dim, std::min(kLine, heads - g * kLine), dim,
                   packed.data() + g * steps * kPiece);
    }
    const int blocks = (count + kScoreRows - 1) / kScoreRows;
    std::vector<float> logits(blocks * kScoreRows * groups * kLine), its(groups * kLine);
    loops_->begin();
    for (int b = 0; b < blocks; ++b) {
      const int rows = std::min(kScoreRows, count - b * kScoreRows), half = rows / 3;
      std::fill(keys.begin(), keys.end(), Pair{0});
      loops_->decode_keys(layout_, rows_.data() + b * kScoreRows, half, 0, nullptr, 0, keys.data());
      loops_->decode_keys(layout_, rows_.data() + b * kScoreRows + half, rows - half, half, rows_.data(), rows,
                          keys.data());
      loops_->score(keys.data(), rows, steps, packed.data(), groups, scale,
                    logits.data() + b * kScoreRows * groups * kLine, its.data());
      if (most != nullptr) *most = its;
    }
    loops_->end();
    return logits;
  }

  const simd::Bf16Loops* loops_ = nullptr;
  test::Random random_{11};
  RowLayout layout_;
  std::vector<std::byte> bytes_, footers_;
  std::vector<float> values_;
  std::vector<RowBytes> rows_;
};

struct Format {
  CacheFormat format;
  int dim;
};
constexpr Format kFormats[] = {{CacheFormat::kv_e4m3_ue8m0, 512},
                               {CacheFormat::kv_bf16, 512},
                               {CacheFormat::kv_bf16, 96},
                               {CacheFormat::kv_bf16, 7}};

TEST_P(Bf16Loops, ScoreIsTheDotProduct) {
  for (const auto& [format, dim] : kFormats) {
    for (const int heads : {1, 16, 17, 64}) {
      make_rows(format, dim, 45);
      const std::vector<bf16> q = make_q(heads, dim);
      std::vector<float> most;
      const std::vector<float> logits = scored(q, heads, &most, -0.5f);
      const int stride = (heads + kLine - 1) / kLine * kLine;
      for (int h = 0; h < heads; ++h) {
        float largest = -std::numeric_limits<float>::infinity();
        for (int j = 0; j < 45; ++j) {
          double dot = 0;
          for (int c = 0; c < dim; ++c) dot += static_cast<double>(to_f32(q[h * dim + c])) * values_[j * dim + c];
          ASSERT_NEAR(logits[j * stride + h], dot, 1e-5 * (20 + std::abs(dot)))
              << name_of(format) << " row " << j << " head " << h;
          if (j >= kScoreRows) largest = std::max(largest, logits[j * stride + h] * -0.5f);
        }
        EXPECT_EQ(most[h], largest);
      }
    }
  }
}

TEST_P(Bf16Loops, EveryCodeUnderEveryScale) {
  // Row and query number `j` has one element each, so that a logit is one decoded value.
  for (int scale = 0; scale < 256; ++scale) {
    make_rows(CacheFormat::kv_e4m3_ue8m0, 512, 8);
    std::vector<bf16> q(32 * 512);
    for (int h = 0; h < 32; ++h) q[h * 512 + h].bits = 0x3f80;
    for (int j = 0; j < 8; ++j) {
      std::byte *row = bytes_.data() + j * layout_.row_bytes, *footer = footers_.data() + j * 8;
      std::fill_n(row, 448, std::byte{0});
      std::fill_n(row + 448, 128, std::byte{0});
      for (int h = 0; h < 32; ++h) row[h] = static_cast<std::byte>(j * 32 + h);
      std::fill_n(footer, 7, static_cast<std::byte>(127));
      footer[0] = static_cast<std::byte>(scale);
    }
    decode_all();
    const std::vector<float> logits = scored(q, 32);
    for (int j = 0; j < 8; ++j) {
      bool poisoned = false;
      for (int h = 0; h < 32; ++h) poisoned |= !std::isfinite(values_[j * 512 + h]);
      for (int h = 0; h < 32; ++h) {
        const float exact = values_[j * 512 + h], came = logits[j * 32 + h];
        if (poisoned) {  // an element that is not finite times a zero of q
          EXPECT_FALSE(std::isfinite(came)) << "scale " << scale << " code " << j * 32 + h;
        } else {
          EXPECT_EQ(came, std::abs(exact) < 0x1p-126f ? 0.0f : exact) << "scale " << scale << " code " << j * 32 + h;
        }
      }
    }
  }
}

TEST_P(Bf16Loops, GatherIsTheWeightedSum) {
  for (const auto& [format, dim] : kFormats) {
    for (const int heads : {1, 17, 64}) {
      for (const int window : {0, 1, 32, 33}) {
        constexpr int kRows = 71;
        make_rows(format, dim, kRows);
        const int groups = (heads + kLine - 1) / kLine, blocks = (kRows + kScoreRows - 1) / kScoreRows,
                  stride = groups * kLine;
        std::vector<float> logits(blocks * kScoreRows * stride), base(stride, 0.25f), total(stride), sum(stride);
        for (float& logit : logits) logit = random_.next();
        std::vector<Pair> weights(groups * blocks * kPiece, 0xffffffff), values(4 * blocks * kPiece, 0);
        for (int b = 0; b < blocks; ++b) {
          loops_->weigh(logits.data() + b * kScoreRows * stride, std::min(kScoreRows, kRows - b * kScoreRows), groups,
                        3, base.data(), weights.data() + b * kPiece, blocks * kPiece, total.data());
          for (int h = 0; h < stride; ++h) sum[h] += total[h];
        }
        for (int column = 0; column < dim; column += kValueColumns) {
          std::fill(values.begin(), values.end(), Pair{0});
          loops_->decode_values(layout_, rows_.data(), window, 0, column, values.data(), blocks * kPiece);
          loops_->decode_values(layout_, rows_.data() + window, kRows - window, window, column, values.data(),
                                blocks * kPiece);
          std::vector<float> sums(stride * kValueColumns, NAN);
          loops_->begin();
          for (const bool fresh : {true, false}) {
            loops_->gather({.weights = weights.data(),
                            .weights_group = blocks * kPiece,
                            .values = values.data(),
                            .sums = sums.data(),
                            .sums_head = kValueColumns,
                            .groups = groups,
                            .row_steps = blocks,
                            .fresh = fresh});
          }
          loops_->end();
          for (int h = 0; h < heads; ++h) {
            double all = 0;
            std::vector<double> expected(kValueColumns);
            for (int j = 0; j < kRows; ++j) {
              const float weight = std::exp(logits[j * stride + h] * 3 - 0.25f);
              all += weight;
              for (int c = 0; c < kValueColumns && column + c < dim; ++c)
                expected[c] += 2.0 * round_bf16(weight) * values_[j * dim + column + c];
            }
            EXPECT_NEAR(sum[h], all, 1e-5 * all);
            // A weight may be rounded to the other neighbour where it stands between two.
            for (int c = 0; c < kValueColumns; ++c) {
              ASSERT_NEAR(sums[h * kValueColumns + c], expected[c], 2e-3 * all)
                  << name_of(format) << " head " << h << " column " << column + c;
            }
          }
        }
      }
    }
  }
}

TEST_P(Bf16Loops, WeighingAnyLogitStaysInBounds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> logits(kScoreRows * kLine, -1), base(kLine, 1e15f), total(kLine);
  std::vector<Pair> weights(kPiece);
  const float hostile[] = {1e15f, -kInfinity, -1e30f, 1e15f - 2e9f, -0.0f, 9.9e14f};
  for (int j = 0; j < 6; ++j) std::fill_n(logits.begin() + j * kLine, kLine, hostile[j]);
  loops_->weigh(logits.data(), 6, 1, 1, base.data(), weights.data(), kPiece, total.data());
  EXPECT_EQ(total[3], 1) << "the largest weighs 1, however large";
  logits[0] = NAN;
  loops_->weigh(logits.data(), 6, 1, 1, base.data(), weights.data(), kPiece, total.data());
  EXPECT_TRUE(std::isnan(total[0]));
  EXPECT_EQ(total[1], 1) << "in its own head";
}

INSTANTIATE_TEST_SUITE_P(All, Bf16Loops, testing::Values(InstructionSet::avx512bf16, InstructionSet::amx),
                         [](const auto& tested) { return tested.param == InstructionSet::amx ? "tiles" : "dots"; });

}  // namespace
}  // namespace fathom
