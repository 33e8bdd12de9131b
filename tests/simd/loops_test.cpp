// The loops of attend and index against plain ones, for each instruction set that the machine has: every size around
// the edges of tiles and vectors, every row format, hostile numbers.
#include "simd/loops.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cache/row_codec.h"
#include "simd/words.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Loops : public testing::TestWithParam<const char*> {
 protected:
  Loops() : forced_(simd::force_target(GetParam())), loops_(simd::best_loops()) {}
  ~Loops() override { simd::force_target(nullptr); }
  std::vector<float> values(std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = random_.next();
    return values;
  }
  bool forced_;
  const simd::Loops& loops_;
  test::Random random_{7};
};

TEST_P(Loops, AreThoseOfTheForcedSet) {
  EXPECT_TRUE(forced_);
  EXPECT_STREQ(loops_.target, GetParam());
  EXPECT_GE(loops_.lanes, 1);
}

/// Equal bits, or both NaN, or both zero.
bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b)) || (a == 0 && b == 0);
}

TEST_P(Loops, DecodeIsDecodeRowForEveryFormatAndStripe) {
  struct Format {
    CacheFormat format;
    int dim, step;  // stripes of e2m1 rows are whole blocks
  };
  const Format formats[] = {{CacheFormat::kv_f32, 70, 1},           {CacheFormat::kv_bf16, 70, 1},
                            {CacheFormat::kv_e4m3_ue8m0, 512, 1},   {CacheFormat::kv_e4m3_f32, 576, 1},
                            {CacheFormat::index_f32, 40, 1},        {CacheFormat::index_e4m3_f32, 128, 1},
                            {CacheFormat::index_e4m3_f32, 36, 1},   {CacheFormat::index_e2m1_ue8m0, 128, 32},
                            {CacheFormat::index_e2m1_ue8m0, 32, 32}};
  for (const auto& [format, dim, step] : formats) {
    const RowLayout layout = row_layout(format, dim).value();
    constexpr int kRows = 20;
    std::vector<std::byte> rows(kRows * layout.row_bytes), footers(kRows * layout.footer_bytes + 1);
    std::vector<RowBytes> where;
    std::vector<float> expected(kRows * dim);
    for (int j = 0; j < kRows; ++j) {
      std::byte *row = rows.data() + j * layout.row_bytes, *footer = footers.data() + j * layout.footer_bytes;
      // Half of the rows are arbitrary bytes: NaN codes, subnormal codes, scales from end to end.
      for (int i = 0; i < layout.row_bytes; ++i) row[i] = static_cast<std::byte>(random_.next() * 1e4f);
      for (int i = 0; i < layout.footer_bytes; ++i) footer[i] = static_cast<std::byte>(random_.next() * 1e4f);
      if (j % 2 == 0) encode_row(layout, values(dim).data(), row, footer);
      decode_row(layout, row, footer, expected.data() + j * dim);
      where.push_back({row, footer});
    }
    for (int first = 0; first < dim; first += std::max(step, dim / 7)) {
      first -= first % step;
      for (int count = step; first + count <= dim; count += std::max(step, (dim / 5) - (dim / 5) % step)) {
        std::vector<float> out(kRows * (count + 3), -5);
        loops_.decode(layout, where.data(), kRows, first, count, out.data(), count + 3);
        for (int j = 0; j < kRows; ++j) {
          for (int c = 0; c < count + 3; ++c) {
            const float came = out[j * (count + 3) + c];
            if (c >= count) {
              ASSERT_EQ(came, -5) << "written past the stripe";
            } else {
              ASSERT_TRUE(same(came, expected[j * dim + first + c]))
                  << name_of(format) << " row " << j << " element " << first + c << ": " << came << ", expected "
                  << expected[j * dim + first + c];
            }
          }
        }
      }
    }
  }
}

TEST_P(Loops, MultiplyIsOneChainForEachElement) {
  const int width = loops_.width();
  for (const int m : {1, 5, 6, 7, 8, 9, 48}) {
    for (int n = loops_.lanes; n <= 2 * width; n += loops_.lanes) {
      for (const int k : {1, 3, 48}) {
        const auto a = values(m * k), b = values(2 * width * k);
        const auto before = values(m * n);
        for (const bool turned : {false, true}) {
          std::vector<float> out = before;
          loops_.multiply({.m = m,
                           .n = n,
                           .k = k,
                           .a = a.data(),
                           .a_i = turned ? 1 : k,
                           .a_p = turned ? m : 1,
                           .b = b.data(),
                           .b_p = width,
                           .b_panel = width * k,
                           .out = out.data(),
                           .out_i = n});
          for (int i = 0; i < m; ++i) {
            for (int j = 0; j < n; ++j) {
              double sum = before[i * n + j];
              for (int p = 0; p < k; ++p) {
                sum += static_cast<double>(a[turned ? i + p * m : i * k + p]) *
                       b[j / width * width * k + p * width + j % width];
              }
              ASSERT_NEAR(out[i * n + j], sum, 1e-5) << m << " x " << n << " x " << k;
            }
          }
          // The same in two steps: the chain goes on where it stood.
          std::vector<float> steps = before;
          for (int p = 0; p < k; p += 2) {
            loops_.multiply({.m = m,
                             .n = n,
                             .k = std::min(2, k - p),
                             .a = a.data() + (turned ? p * m : p),
                             .a_i = turned ? 1 : k,
                             .a_p = turned ? m : 1,
                             .b = b.data() + p * width,
                             .b_p = width,
                             .b_panel = width * k,
                             .out = steps.data(),
                             .out_i = n});
          }
          ASSERT_EQ(std::memcmp(out.data(), steps.data(), out.size() * sizeof(float)), 0);
        }
      }
    }
  }
}

TEST_P(Loops, WeighIsTheExponential) {
  const int heads = loops_.lanes;
  std::vector<float> offsets;
  for (float x = -90; x <= 0; x += 0.037f) offsets.push_back(x);
  for (const float x : {-0.0f, -1e-30f, -87.2f, -100.0f, -1e30f, -kInfinity}) offsets.push_back(x);
  const auto rows = static_cast<std::int64_t>(offsets.size());
  for (const bool round : {false, true}) {
    std::vector<float> weights(rows * heads), base(heads, 3.0f), total(heads);
    double sum = 0;
    for (std::int64_t j = 0; j < rows; ++j) {
      std::fill_n(weights.begin() + j * heads, heads, 3.0f + offsets[j]);
      sum += std::exp(static_cast<double>(weights[j * heads] - 3.0f));
    }
    const std::vector<float> logits = weights;
    loops_.weigh(weights.data(), heads, rows, heads, base.data(), round, total.data());
    for (std::int64_t j = 0; j < rows; ++j) {
      const double exact = std::exp(static_cast<double>(logits[j * heads] - 3.0f));
      const float came = weights[j * heads + heads - 1];
      EXPECT_NEAR(came, exact, (round ? 4e-3 : 2.5e-7) * exact + 1.2e-38) << offsets[j];
      EXPECT_EQ(came, round ? round_bf16(came) : came);
    }
    EXPECT_NEAR(total[0], sum, 1e-5 * sum);
  }
  for (const std::uint32_t bits : {0x7fc00000u, 0x7fffffffu, 0xffffffffu}) {
    std::vector<float> weights(heads, std::bit_cast<float>(bits)), base(heads, 0), total(heads);
    loops_.weigh(weights.data(), heads, 1, heads, base.data(), true, total.data());
    EXPECT_TRUE(std::isnan(weights[0]) && std::isnan(total[0])) << bits;
  }
}

TEST_P(Loops, LargestPassesOverNaN) {
  const int heads = loops_.lanes;
  std::vector<float> logits(4 * heads, NAN), most(heads);
  loops_.largest(logits.data(), heads, 4, heads, 1, most.data());
  EXPECT_EQ(most[0], -kInfinity);
  for (int place = 0; place < 4; ++place) {
    std::fill(logits.begin(), logits.end(), NAN);
    std::fill_n(logits.begin() + place * heads, heads, 3.0f);
    loops_.largest(logits.data(), heads, 4, heads, -2, most.data());
    EXPECT_EQ(most[heads - 1], -6) << place;
  }
}

TEST_P(Loops, StoreRoundsAsToBf16Does) {
  for (const int count : {1, 7, 16, 33}) {
    std::vector<float> in = values(count);
    in[0] = count == 7    ? NAN
            : count == 16 ? std::bit_cast<float>(0xffffffffu)
            : count == 33 ? std::bit_cast<float>(0x7fffffffu)
                          : kInfinity;
    std::vector<bf16> out(count + 1, bf16{0x1234});
    std::vector<float> wide(count + 1, -5);
    loops_.store(in.data(), count, 0.3f, DType::bf16, out.data());
    loops_.store(in.data(), count, 0.3f, DType::f32, wide.data());
    for (int c = 0; c < count; ++c) {
      EXPECT_EQ(out[c].bits, to_bf16(in[c] * 0.3f).bits);
      EXPECT_TRUE(same(wide[c], in[c] * 0.3f));
    }
    EXPECT_EQ(out[count].bits, 0x1234);
    EXPECT_EQ(wide[count], -5);
  }
}

TEST_P(Loops, ScoreLeavesOutLanesWithoutHeads) {
  const int width = loops_.width();
  for (const int heads : {1, width - 1, width, width + 1, 2 * width}) {
    for (const int num_keys : {1, 5, 6, 9, 17}) {
      constexpr int kDim = 32;
      const int panels = (heads + width - 1) / width;
      std::vector<float> q(panels * width * kDim), weights(panels * width), keys = values(num_keys * kDim),
                                                                            scores(num_keys);
      for (int h = 0; h < heads; ++h) {
        weights[h] = random_.next();
        for (int c = 0; c < kDim; ++c) q[(h / width * kDim + c) * width + h % width] = random_.next();
      }
      keys[0] = num_keys == 5 ? kInfinity : num_keys == 9 ? NAN : keys[0];
      loops_.score(keys.data(), num_keys, q.data(), kDim, heads, weights.data(), scores.data());
      for (int j = 0; j < num_keys; ++j) {
        double score = 0;
        for (int h = 0; h < heads; ++h) {
          double dot = 0;
          for (int c = 0; c < kDim; ++c)
            dot += static_cast<double>(q[(h / width * kDim + c) * width + h % width]) * keys[j * kDim + c];
          score += (dot < 0 ? 0 : dot) * weights[h];
        }
        if (std::isfinite(score)) {
          EXPECT_NEAR(scores[j], score, 1e-5 * heads) << heads << " heads, key " << j;
        } else {
          EXPECT_EQ(std::isnan(scores[j]), std::isnan(score)) << heads << " heads, key " << j;
        }
      }
    }
  }
}

TEST_P(Loops, AboveKeepsWhatIsNotBelowTheCut) {
  for (const int count : {0, 1, 15, 16, 17, 100}) {
    std::vector<float> scores = values(count);
    for (int j = 0; j < count; j += 7) scores[j] = j % 2 == 0 ? 0.25f : NAN;
    for (const float cut : {0.25f, -kInfinity, kInfinity, NAN}) {
      std::vector<std::int32_t> which(count + 1, -9), expected;
      for (int j = 0; j < count; ++j) {
        if (!(scores[j] <= cut)) expected.push_back(j);
      }
      which.resize(loops_.above(scores.data(), count, cut, which.data()));
      EXPECT_EQ(which, expected) << count << " scores, cut " << cut;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Loops, testing::ValuesIn(simd::target_names()),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace fathom
