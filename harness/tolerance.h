// How far an implementation may be from the reference, and why that far.
#pragma once

#include <string_view>

#include "harness/op_case.h"

namespace fathom::harness {

/// An element passes if |a - b| <= absolute * rms(reference) + relative * |b|; the whole argument if its relative L2
/// error is at most `l2` times 1 + 4 / sqrt(elements).
struct Tolerance {
  double absolute;
  double relative;
  double l2;
  const char* because;
};
/// For the floats of argument `name`, whose elements are `dtype`.
Tolerance tolerance_of(const OpCase& built, std::string_view name, DType dtype) noexcept;

/// Codes (cached rows, index queries) may differ by one step where a value behind an f32 sum fell on the other side of
/// a rounding boundary; two where the block's scale differs too. At most this share of them, and kMostLoneCodes in
/// small cases.
inline constexpr double kMostDifferingCodes = 0.005;
inline constexpr std::int64_t kMostLoneCodes = 3;
/// Cached bf16 values pass through up to four roundings, so that more of them stand at a boundary.
inline constexpr double kMostDifferingRoundings = 0.02;
/// A pick may differ where its score is this close to the cut, as a share of the row's largest |score|.
double pick_tolerance(const OpCase& built) noexcept;
/// True if the problem rounds activations to bf16: served numerics, or bf16 queries.
bool is_served(const OpCase& built) noexcept;

}  // namespace fathom::harness
