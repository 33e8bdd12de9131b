// Section 0 and 7 of the specification in plain double arithmetic: number formats, quantisers, norms, rotation, rows in
// pages. Only *_reference.cpp files include this, and it stands on the public headers alone, so that a slip in a kernel's
// helper cannot hide in the definition it is compared with. Slow on purpose: every formula is written as the text has it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fathom/cache.h"
#include "fathom/core/problem.h"
#include "fathom/core/tensor.h"

namespace fathom::reference {

using Vector = std::vector<double>;

// ---- rounding (0.2) -----------------------------------------------------------------------------------------------

/// bf(v): bfloat16, nearest even.
inline double bf(double v) { return round_bf16(static_cast<float>(v)); }
inline double f32(double v) { return static_cast<double>(static_cast<float>(v)); }

/// Rounding of activations between the steps of a stage: bfloat16 in `served`, f32 in `exact`.
inline double activation(Numerics numerics, double v) { return numerics == Numerics::served ? bf(v) : f32(v); }

inline double e4m3_value(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}
inline double e2m1_value(int code) {
  constexpr double kValues[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -kValues[code & 7] : kValues[code & 7];
}
/// 2^(b - 127); 0xFF is NaN.
inline double ue8m0_value(int b) { return b == 255 ? std::nan("") : std::ldexp(1.0, b - 127); }

/// Nearest of `count` ascending magnitudes, ties to the even code: the same rule for E4M3 and E2M1.
template <class Value>
int nearest_code(double v, int count, int sign_bit, Value&& value) {
  if (std::isnan(v)) return count;  // callers pass `count` so that this is the format's NaN, or handle NaN first
  const double magnitude = std::min(std::fabs(v), value(count - 1));  // saturates, infinity included
  int best = 0;
  for (int code = 1; code < count; ++code) {
    const double closer = std::fabs(magnitude - value(code)) - std::fabs(magnitude - value(best));
    if (closer < 0 || (closer == 0 && code % 2 == 0)) best = code;
  }
  return std::signbit(v) ? best | sign_bit : best;
}
inline int e4m3_code(double v) {
  // 127 finite magnitudes, 0x00 to 0x7E; 0x7F is NaN.
  return nearest_code(v, 127, 0x80, e4m3_value);
}
/// E2M1 has no NaN; a NaN's code is a zero and its block's scale byte says NaN.
inline int e2m1_code(double v) { return nearest_code(std::isnan(v) ? std::copysign(0.0, v) : v, 8, 8, e2m1_value); }

// ---- quantisers (0.3) ---------------------------------------------------------------------------------------------

/// E(v) = ceil(log2 v) of an f32, by its bits.
inline int ceil_log2(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof(bits));
  return static_cast<int>(bits >> 23 & 255) - 127 + ((bits & 0x7fffff) != 0 ? 1 : 0);
}
/// Largest magnitude that is a number; NaNs do not widen a block.
inline double largest(const double* v, int count) {
  double a = 0;
  for (int i = 0; i < count; ++i) {
    if (std::fabs(v[i]) > a) a = std::fabs(v[i]);
  }
  return std::min(a, 3.3895313892515355e38);  // an infinity counts as bfloat16's largest number
}
/// Exponent of a Q8 block's scale.
inline int q8_exponent(const double* v, int count) {
  const float a = std::max(static_cast<float>(largest(v, count)), 1e-4f);
  return ceil_log2(a * (1.0f / 448.0f));
}
inline int q4_exponent(const double* v, int count) {
  const float a = std::max(static_cast<float>(largest(v, count)), static_cast<float>(6 * std::ldexp(1.0, -126)));
  return ceil_log2(a * (1.0f / 6.0f));
}
/// Scale byte of a Q4 block.
inline int q4_scale_byte(const double* v, int count) {
  return std::any_of(v, v + count, [](double value) { return std::isnan(value); }) ? 255 : q4_exponent(v, count) + 127;
}
inline int q8_code(double v, int exponent) { return e4m3_code(std::ldexp(v, -exponent)); }
inline int q4_code(double v, int exponent) { return e2m1_code(std::ldexp(v, -exponent)); }

/// Quantise and dequantise in blocks of `block`; the last one may be short.
inline Vector fake_q8(const Vector& v, int block) {
  Vector out(v.size());
  for (std::size_t b = 0; b < v.size(); b += block) {
    const int count = static_cast<int>(std::min<std::size_t>(block, v.size() - b));
    const int exponent = q8_exponent(&v[b], count);
    // The product of code and scale is an f32: the largest blocks overflow to infinity.
    for (int i = 0; i < count; ++i) out[b + i] = f32(std::ldexp(e4m3_value(q8_code(v[b + i], exponent)), exponent));
  }
  return out;
}

// ---- tensors ------------------------------------------------------------------------------------------------------

/// Element `i` of a packed row that starts at `row`.
inline double element(const void* row, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::f32: return static_cast<const float*>(row)[i];
    case DType::bf16: return to_f32(static_cast<const bf16*>(row)[i]);
    case DType::e4m3: return e4m3_value(static_cast<const std::uint8_t*>(row)[i]);
    case DType::ue8m0: return ue8m0_value(static_cast<const std::uint8_t*>(row)[i]);
    case DType::e2m1x2: return e2m1_value(static_cast<const std::uint8_t*>(row)[i / 2] >> (i % 2 * 4) & 15);
    case DType::i32: return static_cast<const std::int32_t*>(row)[i];
    case DType::i64: return static_cast<double>(static_cast<const std::int64_t*>(row)[i]);
    case DType::u8: return static_cast<const std::uint8_t*>(row)[i];
  }
  return 0;
}
/// Offset, in elements, of row (i, j).
inline std::int64_t offset_of(const TensorView& t, std::int64_t i, std::int64_t j = 0) {
  return i * t.strides[0] + (t.rank > 2 ? j * t.strides[1] : 0);
}
/// `count` elements of row (i, j) (rank 3), row i (rank 2) or the whole vector (rank 1, i = 0).
inline Vector row_of(const TensorView& t, std::int64_t count, std::int64_t i = 0, std::int64_t j = 0) {
  Vector row(count);
  for (std::int64_t k = 0; k < count; ++k) row[k] = element(t.data, t.dtype, offset_of(t, i, j) + k);
  return row;
}
inline void store(const TensorView& t, std::int64_t at, double v) {
  if (t.dtype == DType::bf16) {
    static_cast<bf16*>(t.data)[at] = to_bf16(static_cast<float>(v));
  } else if (t.dtype == DType::f32) {
    static_cast<float*>(t.data)[at] = static_cast<float>(v);
  } else if (t.dtype == DType::i32) {
    static_cast<std::int32_t*>(t.data)[at] = static_cast<std::int32_t>(v);
  } else {
    static_cast<std::uint8_t*>(t.data)[at] = static_cast<std::uint8_t>(v);
  }
}
inline void store_row(const TensorView& t, const Vector& row, std::int64_t i, std::int64_t j = 0) {
  for (std::size_t k = 0; k < row.size(); ++k) store(t, offset_of(t, i, j) + static_cast<std::int64_t>(k), row[k]);
}
inline std::int64_t integer(const TensorView& t, std::int64_t i) {
  return t.dtype == DType::i64 ? static_cast<const std::int64_t*>(t.data)[i * t.strides[0]]
                               : static_cast<const std::int32_t*>(t.data)[i * t.strides[0]];
}

// ---- linear (0.5) -------------------------------------------------------------------------------------------------

/// Weight [n, k] with its tile's scale.
inline double weight_at(const TensorView& weight, const TensorView& scale, std::int64_t n, std::int64_t k) {
  const double code = element(weight.data, weight.dtype, n * weight.strides[0] + k);
  return scale.is_absent() ? code : code * element(scale.data, DType::ue8m0, n / 128 * scale.strides[0] + k / 128);
}
/// Rows [first, first + count) of weight times x.
inline Vector times(const TensorView& weight, const TensorView& scale, const Vector& x, std::int64_t first, std::int64_t count) {
  Vector y(count);
  for (std::int64_t n = 0; n < count; ++n) {
    double sum = 0;
    for (std::size_t k = 0; k < x.size(); ++k) sum += x[k] * weight_at(weight, scale, first + n, static_cast<std::int64_t>(k));
    y[n] = sum;
  }
  return y;
}
/// Linear8 where the weight is E4M3 and numerics are served; the plain product otherwise. Not rounded.
inline Vector linear8(const TensorView& weight, const TensorView& scale, const Vector& x, Numerics numerics) {
  const bool quantised = weight.dtype == DType::e4m3 && numerics == Numerics::served;
  return times(weight, scale, quantised ? fake_q8(x, 128) : x, 0, weight.shape[0]);
}

// ---- norm, rotation, Hadamard (0.4, 0.6, 0.7) ---------------------------------------------------------------------

inline void round_all(Vector& v, Numerics numerics) {
  for (double& value : v) value = activation(numerics, value);
}
/// 1 / sqrt(mean(v^2) + eps).
inline double inverse_rms(const Vector& v, double eps) {
  double sum = 0;
  for (const double value : v) sum += value * value;
  return 1.0 / std::sqrt(sum / static_cast<double>(v.size()) + eps);
}
/// RMSNorm with weights, not rounded.
inline Vector rms_norm(const Vector& v, const TensorView& weight, double eps) {
  const double s = inverse_rms(v, eps);
  Vector y(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) y[i] = element(weight.data, weight.dtype, static_cast<std::int64_t>(i)) * (v[i] * s);
  return y;
}
/// The weightless per-head norm of spec 2: in `served` every step rounds, as bf16 tensor arithmetic does.
inline void head_norm(Vector& head, double eps, Numerics numerics) {
  double sum = 0;
  for (const double value : head) sum += activation(numerics, value * value);
  const double mean = activation(numerics, sum / static_cast<double>(head.size()));
  const double s = activation(numerics, 1.0 / std::sqrt(activation(numerics, mean + eps)));
  for (double& value : head) value = activation(numerics, value * s);
}
/// Rotates the last rope_dim elements, adjacent pairs, by row `position` of the table; `direction` -1 undoes it.
inline void rotate(Vector& v, const TensorView& table, std::int64_t position, int direction = 1) {
  const std::int64_t rope_dim = table.shape[1], half = rope_dim / 2;
  double* last = v.data() + v.size() - rope_dim;
  for (std::int64_t i = 0; i < half; ++i) {
    const double c = element(table.data, DType::f32, position * table.strides[0] + i);
    const double s = direction * element(table.data, DType::f32, position * table.strides[0] + half + i);
    const double e = last[2 * i], o = last[2 * i + 1];
    last[2 * i] = e * c - o * s;
    last[2 * i + 1] = e * s + o * c;
  }
}
/// Walsh-Hadamard, natural order, by its defining sum.
inline Vector hadamard(const Vector& v) {
  Vector y(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < v.size(); ++j) sum += __builtin_popcountll(i & j) % 2 == 0 ? v[j] : -v[j];
    y[i] = sum / std::sqrt(static_cast<double>(v.size()));
  }
  return y;
}
/// True if the position is inside the rotary table; otherwise the token is padding.
inline bool is_token(const TensorView& rope_table, std::int64_t position) { return position >= 0 && position < rope_table.shape[0]; }

// ---- rows in pages (7) --------------------------------------------------------------------------------------------

/// A paged cache with its addresses worked out here, by the byte tables of section 7.
struct Pages {
  TensorView pages;  ///< u8 [num_pages, page_bytes]
  CacheFormat format;
  std::int64_t dim;
  std::int64_t page_size;

  bool holds(std::int64_t slot) const { return slot >= 0 && slot < pages.shape[0] * page_size; }
  std::uint8_t* page_of(std::int64_t slot) const { return static_cast<std::uint8_t*>(pages.data) + slot / page_size * pages.strides[0]; }

  Vector read(std::int64_t slot) const {
    const std::uint8_t* page = page_of(slot);
    const std::int64_t t = slot % page_size;
    Vector v(dim);
    for (std::int64_t c = 0; c < dim; ++c) {
      switch (format) {
        case CacheFormat::kv_f32:
        case CacheFormat::index_f32:
        case CacheFormat::state_f32: v[c] = f32_at(page + 4 * (dim * t + c)); break;
        case CacheFormat::kv_bf16: v[c] = bf16_at(page + 2 * (dim * t + c)); break;
        case CacheFormat::kv_e4m3_ue8m0:
          v[c] = c < 448 ? e4m3_value(page[576 * t + c]) * ue8m0_value(page[576 * page_size + 8 * t + c / 64])
                         : bf16_at(page + 576 * t + 448 + 2 * (c - 448));
          break;
        case CacheFormat::kv_e4m3_f32:
          v[c] = c < 512 ? e4m3_value(page[656 * t + c]) * f32_at(page + 656 * t + 512 + c / 128 * 4)
                         : bf16_at(page + 656 * t + 528 + 2 * (c - 512));
          break;
        case CacheFormat::index_e4m3_f32: v[c] = e4m3_value(page[dim * t + c]) * f32_at(page + dim * page_size + 4 * t); break;
        case CacheFormat::index_e2m1_ue8m0:
          v[c] = e2m1_value(page[dim / 2 * t + c / 2] >> (c % 2 * 4) & 15) * ue8m0_value(page[dim / 2 * page_size + dim / 32 * t + c / 32]);
          break;
      }
    }
    return v;
  }

  void write(std::int64_t slot, const Vector& v) const {
    std::uint8_t* page = page_of(slot);
    const std::int64_t t = slot % page_size;
    switch (format) {
      case CacheFormat::kv_f32:
      case CacheFormat::index_f32:
      case CacheFormat::state_f32:
        for (std::int64_t c = 0; c < dim; ++c) put_f32(page + 4 * (dim * t + c), v[c]);
        break;
      case CacheFormat::kv_bf16:
        for (std::int64_t c = 0; c < dim; ++c) put_bf16(page + 2 * (dim * t + c), v[c]);
        break;
      case CacheFormat::kv_e4m3_ue8m0:
        for (int g = 0; g < 7; ++g) {
          const Vector block = rounded(v, 64 * g, 64);
          const int exponent = q8_exponent(block.data(), 64);
          for (int i = 0; i < 64; ++i) page[576 * t + 64 * g + i] = static_cast<std::uint8_t>(q8_code(block[i], exponent));
          page[576 * page_size + 8 * t + g] = static_cast<std::uint8_t>(exponent + 127);
        }
        page[576 * page_size + 8 * t + 7] = 0;
        for (int e = 0; e < 64; ++e) put_bf16(page + 576 * t + 448 + 2 * e, v[448 + e]);
        break;
      case CacheFormat::kv_e4m3_f32:
        for (int g = 0; g < 4; ++g) {
          const Vector block = rounded(v, 128 * g, 128);
          const int exponent = q8_exponent(block.data(), 128);
          for (int i = 0; i < 128; ++i) page[656 * t + 128 * g + i] = static_cast<std::uint8_t>(q8_code(block[i], exponent));
          put_f32(page + 656 * t + 512 + 4 * g, std::ldexp(1.0, exponent));
        }
        for (int e = 0; e < 64; ++e) put_bf16(page + 656 * t + 528 + 2 * e, v[512 + e]);
        break;
      case CacheFormat::index_e4m3_f32: {
        const Vector row = rounded(v, 0, dim);
        const int exponent = q8_exponent(row.data(), static_cast<int>(dim));
        for (std::int64_t c = 0; c < dim; ++c) page[dim * t + c] = static_cast<std::uint8_t>(q8_code(row[c], exponent));
        put_f32(page + dim * page_size + 4 * t, std::ldexp(1.0, exponent));
        break;
      }
      case CacheFormat::index_e2m1_ue8m0:
        for (std::int64_t g = 0; g < dim / 32; ++g) {
          const Vector block = rounded(v, 32 * g, 32);
          const int exponent = q4_exponent(block.data(), 32);
          for (int i = 0; i < 32; i += 2) {
            page[dim / 2 * t + 16 * g + i / 2] =
                static_cast<std::uint8_t>(q4_code(block[i], exponent) | q4_code(block[i + 1], exponent) << 4);
          }
          page[dim / 2 * page_size + dim / 32 * t + g] = static_cast<std::uint8_t>(q4_scale_byte(block.data(), 32));
        }
        break;
    }
  }

 private:
  /// The quantisers take bfloat16.
  static Vector rounded(const Vector& v, std::int64_t first, std::int64_t count) {
    Vector block(v.begin() + first, v.begin() + first + count);
    for (double& value : block) value = bf(value);
    return block;
  }
  static double f32_at(const std::uint8_t* at) {
    float v;
    std::memcpy(&v, at, 4);
    return v;
  }
  static double bf16_at(const std::uint8_t* at) {
    bf16 v;
    std::memcpy(&v, at, 2);
    return to_f32(v);
  }
  static void put_f32(std::uint8_t* at, double v) {
    const auto value = static_cast<float>(v);
    std::memcpy(at, &value, 4);
  }
  static void put_bf16(std::uint8_t* at, double v) {
    const bf16 value = to_bf16(static_cast<float>(v));
    std::memcpy(at, &value, 2);
  }
};

/// Slot of row `row` of sequence `seq` through a block table i32 [num_seqs, max_pages]; -1 where there is none.
inline std::int64_t slot_of(const TensorView& table, std::int64_t seq, std::int64_t row, std::int64_t page_size) {
  if (seq < 0 || seq >= table.shape[0] || row < 0 || row / page_size >= table.shape[1]) return -1;
  const std::int64_t page = static_cast<const std::int32_t*>(table.data)[seq * table.strides[0] + row / page_size];
  return page < 0 ? -1 : page * page_size + row % page_size;
}

}  // namespace fathom::reference
