#include "simd/words.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/words.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

/// A Rows x Cols block of dot products, one accumulator each.
template <int Rows, int Cols>
HWY_INLINE void dot_block(const float* HWY_RESTRICT a, std::int64_t a_stride, const float* HWY_RESTRICT b, std::int64_t b_stride,
                          std::int64_t count, float* HWY_RESTRICT out, std::int64_t out_stride) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> sums[Rows][Cols];
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Cols; ++j) sums[i][j] = hn::Zero(d);
  }
  std::int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    hn::Vec<D> columns[Cols];
    for (int j = 0; j < Cols; ++j) columns[j] = hn::LoadU(d, b + j * b_stride + k);
    for (int i = 0; i < Rows; ++i) {
      const auto row = hn::LoadU(d, a + i * a_stride + k);
      for (int j = 0; j < Cols; ++j) sums[i][j] = hn::MulAdd(row, columns[j], sums[i][j]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Cols; ++j) {
      float sum = hn::GetLane(hn::SumOfLanes(d, sums[i][j]));
      for (std::int64_t rest = k; rest < count; ++rest) sum += a[i * a_stride + rest] * b[j * b_stride + rest];
      out[i * out_stride + j] = sum;
    }
  }
}

template <int Rows>
HWY_INLINE void dot_strip(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, int b_rows,
                          std::int64_t count, float* out, std::int64_t out_stride) {
  int j = 0;
  for (; j + 4 <= b_rows; j += 4) dot_block<Rows, 4>(a, a_stride, b + j * b_stride, b_stride, count, out + j, out_stride);
  for (; j < b_rows; ++j) dot_block<Rows, 1>(a, a_stride, b + j * b_stride, b_stride, count, out + j, out_stride);
}

void dot_rows(const float* a, std::int64_t a_stride, int a_rows, const float* b, std::int64_t b_stride, int b_rows,
              std::int64_t count, float* out, std::int64_t out_stride) {
  int i = 0;
  for (; i + 4 <= a_rows; i += 4) dot_strip<4>(a + i * a_stride, a_stride, b, b_stride, b_rows, count, out + i * out_stride, out_stride);
  for (; i < a_rows; ++i) dot_strip<1>(a + i * a_stride, a_stride, b, b_stride, b_rows, count, out + i * out_stride, out_stride);
}

/// Heads x (Cols vectors) of sums held in registers while the rows go by.
template <int Heads, int Cols>
HWY_INLINE void accumulate_block(const float* HWY_RESTRICT weights, std::int64_t weights_stride, const float* HWY_RESTRICT v,
                                 std::int64_t v_stride, int rows, float* HWY_RESTRICT sums, std::int64_t sums_stride) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> held[Heads][Cols];
  for (int i = 0; i < Heads; ++i) {
    for (int c = 0; c < Cols; ++c) held[i][c] = hn::LoadU(d, sums + i * sums_stride + c * lanes);
  }
  for (int j = 0; j < rows; ++j) {
    hn::Vec<D> row[Cols];
    for (int c = 0; c < Cols; ++c) row[c] = hn::LoadU(d, v + j * v_stride + c * lanes);
    for (int i = 0; i < Heads; ++i) {
      const auto weight = hn::Set(d, weights[i * weights_stride + j]);
      for (int c = 0; c < Cols; ++c) held[i][c] = hn::MulAdd(weight, row[c], held[i][c]);
    }
  }
  for (int i = 0; i < Heads; ++i) {
    for (int c = 0; c < Cols; ++c) hn::StoreU(held[i][c], d, sums + i * sums_stride + c * lanes);
  }
}

template <int Heads>
HWY_INLINE void accumulate_strip(const float* weights, std::int64_t weights_stride, const float* v, std::int64_t v_stride, int rows,
                                 std::int64_t dim, float* sums, std::int64_t sums_stride) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D()));
  std::int64_t c = 0;
  for (; c + 4 * lanes <= dim; c += 4 * lanes) {
    accumulate_block<Heads, 4>(weights, weights_stride, v + c, v_stride, rows, sums + c, sums_stride);
  }
  for (; c + lanes <= dim; c += lanes) {
    accumulate_block<Heads, 1>(weights, weights_stride, v + c, v_stride, rows, sums + c, sums_stride);
  }
  for (; c < dim; ++c) {
    for (int i = 0; i < Heads; ++i) {
      for (int j = 0; j < rows; ++j) sums[i * sums_stride + c] += weights[i * weights_stride + j] * v[j * v_stride + c];
    }
  }
}

void accumulate_rows(const float* weights, std::int64_t weights_stride, int heads, const float* v, std::int64_t v_stride,
                     int rows, std::int64_t dim, float* sums, std::int64_t sums_stride) {
  int i = 0;
  for (; i + 4 <= heads; i += 4) {
    accumulate_strip<4>(weights + i * weights_stride, weights_stride, v, v_stride, rows, dim, sums + i * sums_stride, sums_stride);
  }
  for (; i < heads; ++i) {
    accumulate_strip<1>(weights + i * weights_stride, weights_stride, v, v_stride, rows, dim, sums + i * sums_stride, sums_stride);
  }
}

void scale_row(float* values, std::int64_t count, float factor) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factors = hn::Set(d, factor);
  std::int64_t c = 0;
  for (; c + lanes <= count; c += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, values + c), factors), d, values + c);
  for (; c < count; ++c) values[c] *= factor;
}

float sum_of_squares(const float* values, std::int64_t count) {
  float sum = 0;
  dot_block<1, 1>(values, 0, values, 0, count, &sum, 0);
  return sum;
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fathom::simd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(dot_rows);
HWY_EXPORT(accumulate_rows);
HWY_EXPORT(scale_row);
HWY_EXPORT(sum_of_squares);
HWY_EXPORT(target_name);

void dot_rows(const float* a, std::int64_t a_stride, int a_rows, const float* b, std::int64_t b_stride, int b_rows,
              std::int64_t count, float* out, std::int64_t out_stride) {
  HWY_DYNAMIC_DISPATCH(dot_rows)(a, a_stride, a_rows, b, b_stride, b_rows, count, out, out_stride);
}
void accumulate_rows(const float* weights, std::int64_t weights_stride, int heads, const float* v, std::int64_t v_stride,
                     int rows, std::int64_t dim, float* sums, std::int64_t sums_stride) {
  HWY_DYNAMIC_DISPATCH(accumulate_rows)(weights, weights_stride, heads, v, v_stride, rows, dim, sums, sums_stride);
}
void scale_row(float* values, std::int64_t count, float factor) { HWY_DYNAMIC_DISPATCH(scale_row)(values, count, factor); }
float sum_of_squares(const float* values, std::int64_t count) { return HWY_DYNAMIC_DISPATCH(sum_of_squares)(values, count); }
const char* target_name() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

std::vector<const char*> target_names() {
  std::vector<const char*> names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) names.push_back(hwy::TargetName(target));
  return names;
}

bool force_target(const char* name) {
  std::int64_t wanted = 0;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (name != nullptr && std::strcmp(name, hwy::TargetName(target)) == 0) wanted = target;
  }
  if (name != nullptr && wanted == 0) return false;
  hwy::SetSupportedTargetsForTest(wanted);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

}  // namespace fathom::simd
#endif
