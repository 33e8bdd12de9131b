// Quantised values: rows of caches, and index queries. Both may differ by a code step where a value behind an f32 sum
// stood at a rounding boundary, and by the scale of a block whose largest value did.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "harness/cache_args.h"
#include "harness/compare.h"
#include "harness/numbers.h"
#include "harness/tolerance.h"

namespace fathom::harness {
namespace {

double step_of(DType dtype, double value) noexcept {
  return dtype == DType::e4m3 ? e4m3_step(value) : e2m1_step(value);
}

/// True if two dequantised values are at most one code step apart, two where their scales differ.
bool are_neighbours(DType dtype, double came, double came_scale, double expected, double expected_scale) noexcept {
  if (came == expected || (std::isnan(came) && std::isnan(expected))) return true;
  const double step = std::max(step_of(dtype, came / came_scale) * came_scale,
                               step_of(dtype, expected / expected_scale) * expected_scale);
  const double steps = came_scale == expected_scale ? 1 : 2;
  return std::fabs(came - expected) <= steps * step * (1 + 1e-9);
}

std::string sentence(const char* format, long long slot, int element, double came, double expected) {
  char text[160];
  std::snprintf(text, sizeof(text), format, slot, element, came, expected);
  return text;
}

/// How many of something there are, and how many of them differ.
struct Share {
  std::int64_t all = 0;
  std::int64_t differing = 0;
};

void check_share(ArgComparison& result, const char* what, const Share& share, double most = kMostDifferingCodes) {
  const double allowed = std::max(most * static_cast<double>(share.all), static_cast<double>(kMostLoneCodes));
  if (!result.failure.empty() || static_cast<double>(share.differing) <= allowed) return;
  char text[120];
  std::snprintf(text, sizeof(text), "%lld of %lld %s differ, allowed %.0f", static_cast<long long>(share.differing),
                static_cast<long long>(share.all), what, allowed);
  result.failure = text;
}

/// Scale of block `block` of a row; 1 where the row has none.
double scale_of(const PagedCacheView& cache, std::int64_t slot, int block) noexcept {
  for (int i = 0; i < cache.layout.num_segments; ++i) {
    const RowSegment& segment = cache.layout.segments[i];
    if (std::strcmp(segment.name, "scales") != 0) continue;
    const std::byte* at = (segment.in_footer ? cache.footer(slot) : cache.row(slot)) + segment.offset;
    return element_of(at, segment.dtype, block);
  }
  return 1;
}

bool same_row(const PagedCacheView& a, const PagedCacheView& b, std::int64_t slot) noexcept {
  return std::memcmp(a.row(slot), b.row(slot), static_cast<std::size_t>(a.layout.row_bytes)) == 0 &&
         std::memcmp(a.footer(slot), b.footer(slot), static_cast<std::size_t>(a.layout.footer_bytes)) == 0;
}

std::vector<float> decoded(const PagedCacheView& cache, std::int64_t slot) {
  std::vector<float> values(static_cast<std::size_t>(cache.layout.dim));
  const Status status =
      read_rows(cache, view(&slot, DType::i64, {1}), view(values.data(), DType::f32, {1, cache.layout.dim}));
  if (!status.ok()) std::fill(values.begin(), values.end(), 0.0f);
  return values;
}

/// What the rows compared so far hold: codes with their scales, and plain bf16 values.
struct Quantised {
  Share codes, scales, roundings;
};

/// One row that both runs wrote.
void compare_row(const OpCase& built, const PagedCacheView& came, const PagedCacheView& expected, std::int64_t slot,
                 Quantised& quantised, ArgComparison& result) {
  const std::vector<float> a = decoded(came, slot), b = decoded(expected, slot);
  double square = 0;
  for (const float value : b) square += std::isfinite(value) ? static_cast<double>(value) * value : 0;
  const double rms = std::sqrt(square / static_cast<double>(b.size()));
  // A row of floats holds bf16 values in served numerics, whatever its container; state rows are never rounded.
  const bool served = is_served(built) && came.layout.format != CacheFormat::state_f32;
  const auto fail = [&](int element) {
    if (result.failure.empty()) {
      result.failure = sentence("slot %lld element %d is %.9g, expected %.9g", slot, element, a[element], b[element]);
    }
  };
  for (int s = 0; s < came.layout.num_segments; ++s) {
    const RowSegment& segment = came.layout.segments[s];
    if (std::strcmp(segment.name, "scales") == 0) continue;
    if (std::strcmp(segment.name, "pad") == 0) {
      const std::byte* pad = (segment.in_footer ? came.footer(slot) : came.row(slot)) + segment.offset;
      const bool zero = std::all_of(pad, pad + segment.count, [](std::byte byte) { return byte == std::byte{0}; });
      if (!zero && result.failure.empty())
        result.failure = "slot " + std::to_string(slot) + " has padding that is not zero";
      continue;
    }
    const bool rounded = served || segment.dtype == DType::bf16;
    const Tolerance tolerance = tolerance_of(built, result.name, rounded ? DType::bf16 : DType::f32);
    double scale = 1, expected_scale = 1;
    for (int i = 0; i < segment.count; ++i) {
      const int element = segment.first + i;
      const bool is_code = segment.scale_block > 0;
      if (is_code && i % segment.scale_block == 0) {
        scale = scale_of(came, slot, i / segment.scale_block);
        expected_scale = scale_of(expected, slot, i / segment.scale_block);
        ++quantised.scales.all;
        quantised.scales.differing += scale != expected_scale && !(std::isnan(scale) && std::isnan(expected_scale));
      }
      ++result.elements;
      quantised.codes.all += is_code;
      quantised.roundings.all += rounded && !is_code;
      if (a[element] == b[element] || (std::isnan(a[element]) && std::isnan(b[element]))) continue;
      ++result.differing;
      const double difference = std::fabs(static_cast<double>(a[element]) - b[element]);
      if (std::isfinite(difference)) result.max_absolute = std::max(result.max_absolute, difference);
      if (is_code) {
        ++quantised.codes.differing;
        if (!are_neighbours(segment.dtype, a[element], scale, b[element], expected_scale)) fail(element);
        continue;
      }
      quantised.roundings.differing += rounded;
      if (!(difference <= tolerance.absolute * rms + tolerance.relative * std::fabs(b[element]))) {
        fail(element);
      }
    }
  }
}

}  // namespace

ArgComparison compare_cache(const OpCase& built, std::size_t arg, const WatchedRun& run, const WatchedRun& reference) {
  ArgComparison result;
  result.name = built.op->args[arg].name;
  result.because = "codes flip where a value behind an f32 sum stood at a rounding boundary";
  const auto before = cache_of(built, arg, built.args[arg].view), came = cache_of(built, arg, run.views[arg]),
             expected = cache_of(built, arg, reference.views[arg]);
  if (!before || !came || !expected) {
    result.failure = "the harness does not know this cache (harness/cache_args.cpp)";
    return result;
  }
  Quantised quantised;
  for (std::int64_t slot = 0; slot < before->num_slots() && result.failure.empty(); ++slot) {
    if (!same_row(*expected, *before, slot)) {
      compare_row(built, *came, *expected, slot, quantised, result);
    } else if (!same_row(*came, *before, slot)) {
      result.failure = "slot " + std::to_string(slot) + " was written, the reference leaves it alone";
    }
  }
  check_share(result, "codes", quantised.codes);
  check_share(result, "scales", quantised.scales);
  check_share(result, "bf16 values", quantised.roundings, kMostDifferingRoundings);
  const std::int64_t page_bytes = before->layout.page_bytes(before->page_size);
  for (std::int64_t page = 0; page < before->num_pages && result.failure.empty(); ++page) {
    const std::int64_t at = page * before->page_stride + page_bytes;
    const std::int64_t tail = std::min(before->page_stride - page_bytes, built.args[arg].block.size() - at);
    if (tail > 0 && std::memcmp(before->pages + at, came->pages + at, static_cast<std::size_t>(tail)) != 0) {
      result.failure = "the bytes behind page " + std::to_string(page) + " were written";
    }
  }
  return result;
}

std::vector<ArgComparison> compare_result_codes(const OpCase& built, const WatchedRun& run,
                                                const WatchedRun& reference) {
  constexpr std::int64_t kBlock = 128;
  // Results may be 4e-3 off where code steps are 6e-2 apart, and closer together near zero.
  constexpr double kMostDiffering = 0.1;
  const std::size_t out_at = built.index_of("out"), scale_at = built.index_of("out_scale");
  const TensorView &out = run.views[out_at], &expected_out = reference.views[out_at];
  if (out.dtype != DType::e4m3) return {};
  const TensorView &scale = run.views[scale_at], &expected_scale = reference.views[scale_at];
  ArgComparison codes, scales;
  codes.name = "out";
  scales.name = "out_scale";
  codes.because = scales.because = "as out in bf16, and codes and scales flip at rounding boundaries";
  const Tolerance tolerance = tolerance_of(built, "out", DType::bf16);
  const auto value_of = [&](const TensorView& rows, const TensorView& row_scales, std::int64_t t, std::int64_t h,
                            std::int64_t i) {
    return element_of(rows.row<std::byte>(t, h), DType::e4m3, i) *
           ue8m0_value(row_scales.row<std::uint8_t>(t, h)[i / kBlock]);
  };
  double square = 0;
  for (std::int64_t t = 0; t < out.shape[0]; ++t) {
    for (std::int64_t h = 0; h < out.shape[1]; ++h) {
      for (std::int64_t i = 0; i < out.shape[2]; ++i) {
        const double value = value_of(expected_out, expected_scale, t, h, i);
        square += std::isfinite(value) ? value * value : 0;
      }
    }
  }
  const double rms = std::sqrt(square / std::max<double>(1, static_cast<double>(out.numel())));
  for (std::int64_t t = 0; t < out.shape[0]; ++t) {
    for (std::int64_t h = 0; h < out.shape[1]; ++h) {
      for (std::int64_t i = 0; i < out.shape[2]; ++i) {
        const double s = ue8m0_value(scale.row<std::uint8_t>(t, h)[i / kBlock]),
                     expected_s = ue8m0_value(expected_scale.row<std::uint8_t>(t, h)[i / kBlock]);
        if (i % kBlock == 0) {
          ++scales.elements;
          scales.differing += s != expected_s;
        }
        const double a = value_of(out, scale, t, h, i), b = value_of(expected_out, expected_scale, t, h, i);
        ++codes.elements;
        if (a == b || (std::isnan(a) && std::isnan(b))) continue;
        ++codes.differing;
        const double difference = std::fabs(a - b);
        if (std::isfinite(difference)) codes.max_absolute = std::max(codes.max_absolute, difference);
        const double off = tolerance.absolute * rms + tolerance.relative * std::fabs(b);
        const double moved = a > b ? a - off : a + off;  // what is left of the difference must be one step
        if (!(difference <= off) && !are_neighbours(DType::e4m3, moved, s, b, expected_s) && codes.failure.empty()) {
          codes.failure =
              sentence("token %lld element %d is %.9g, expected %.9g", t, static_cast<int>(h * out.shape[2] + i), a, b);
        }
      }
    }
  }
  check_share(codes, "codes", {codes.elements, codes.differing}, kMostDiffering);
  check_share(scales, "scales", {scales.elements, scales.differing}, kMostDiffering);
  return {codes, scales};
}

std::vector<ArgComparison> compare_index_queries(const OpCase& built, const WatchedRun& run,
                                                 const WatchedRun& reference) {
  const std::size_t q_at = built.index_of("q"), scale_at = built.index_of("q_scale"),
                    weights_at = built.index_of("weights");
  const TensorView &q = run.views[q_at], &expected_q = reference.views[q_at];
  if (q.dtype == DType::f32) return {};  // plain floats
  const TensorView &scale = run.views[scale_at], &expected_scale = reference.views[scale_at];
  const TensorView &weights = run.views[weights_at], &expected_weights = reference.views[weights_at];
  const bool in_weights = q.dtype == DType::e4m3;  // the query's scale is a factor of the head's weight
  const Tolerance tolerance = tolerance_of(built, "weights", DType::f32);

  ArgComparison codes, factors, heads;
  codes.name = "q";
  factors.name = "q_scale";
  heads.name = "weights";
  codes.because = factors.because = "codes and scales flip at rounding boundaries";
  heads.because = tolerance.because;
  const std::int64_t num_heads = q.shape[1], dim = q.shape[2];
  double square = 0;
  for_each_row(expected_weights, [&](const std::byte* row, std::int64_t count) {
    for (std::int64_t h = 0; h < count; ++h) square += std::pow(element_of(row, DType::f32, h), 2);
  });
  const double rms = std::sqrt(square / std::max<double>(1, static_cast<double>(expected_weights.numel())));
  std::int64_t differing_scales = 0;
  for (std::int64_t t = 0; t < q.shape[0]; ++t) {
    for (std::int64_t h = 0; h < num_heads; ++h) {
      const double came = weights.row<float>(t)[h], expected = expected_weights.row<float>(t)[h];
      double ratio = 1;
      if (in_weights && expected != 0 && came / expected > 0)
        ratio = std::exp2(std::clamp(std::round(std::log2(came / expected)), -1.0, 1.0));
      if (ratio != 1) ++differing_scales;
      ++heads.elements;
      if (came != expected && !(std::isnan(came) && std::isnan(expected))) {
        ++heads.differing;
        const double difference = std::fabs(came / ratio - expected);
        heads.max_absolute = std::max(heads.max_absolute, difference);
        if (!(difference <= tolerance.absolute * rms + tolerance.relative * std::fabs(expected)) &&
            heads.failure.empty()) {
          heads.failure = sentence("token %lld head %d is %.9g, expected %.9g", t, static_cast<int>(h), came, expected);
        }
      }
      const std::byte* row = q.row<std::byte>(0) + (t * q.strides[0] + h * q.strides[1]) * bits_of(q.dtype) / 8;
      const std::byte* expected_row = expected_q.row<std::byte>(0) + (row - q.row<std::byte>(0));
      for (std::int64_t i = 0; i < dim; ++i) {
        double s = ratio, expected_s = 1;
        if (!in_weights) {
          s = ue8m0_value(scale.row<std::uint8_t>(t, h)[i / 32]);
          expected_s = ue8m0_value(expected_scale.row<std::uint8_t>(t, h)[i / 32]);
          if (i % 32 == 0) {
            ++factors.elements;
            factors.differing += s != expected_s && !(std::isnan(s) && std::isnan(expected_s));
          }
        }
        const double a = element_of(row, q.dtype, i) * s, b = element_of(expected_row, q.dtype, i) * expected_s;
        ++codes.elements;
        if (a == b || (std::isnan(a) && std::isnan(b))) continue;
        ++codes.differing;
        if (!are_neighbours(q.dtype, a, s, b, expected_s) && codes.failure.empty()) {
          codes.failure =
              sentence("token %lld element %d is %.9g, expected %.9g", t, static_cast<int>(h * dim + i), a, b);
        }
      }
    }
  }
  check_share(codes, "codes", {codes.elements, codes.differing});
  check_share(factors, "scales", {factors.elements, factors.differing});
  check_share(heads, "scales", {heads.elements, differing_scales});
  if (in_weights) return {codes, heads};
  return {codes, factors, heads};
}

}  // namespace fathom::harness
