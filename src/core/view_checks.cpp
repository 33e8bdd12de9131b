#include "core/view_checks.h"

#include <algorithm>
#include <array>

namespace fathom {

Status check_strides(const char* call, const char* argument, std::span<const std::int64_t> shape,
                     std::span<const std::int64_t> strides) noexcept {
  constexpr std::int64_t kMaxSpan = std::int64_t{1} << 56;  // elements; in bytes it still fits an address
  std::int64_t span = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    std::int64_t reach = 0;
    if (strides[i] < 0 || __builtin_mul_overflow(strides[i], std::max<std::int64_t>(shape[i] - 1, 0), &reach) ||
        __builtin_add_overflow(span, reach, &span) || span > kMaxSpan) {
      return Status::invalid("%s: %s has strides that are negative or overflow", call, argument);
    }
  }
  return {};
}

namespace {

/// Elements of a written view must not share memory, or threads would race on it: from the innermost dimension outwards,
/// each stride must step over everything inside it.
Status check_apart(const char* call, const char* argument, const TensorView& view) noexcept {
  std::array<int, TensorView::kMaxRank> order{};
  int count = 0;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] == 0) return {};
    if (view.shape[i] > 1) order[count++] = i;
  }
  std::sort(order.begin(), order.begin() + count, [&](int a, int b) { return view.strides[a] < view.strides[b]; });
  std::int64_t reach = 0;
  for (int k = 0; k < count; ++k) {
    const int i = order[k];
    if (view.strides[i] <= reach) {
      return Status::invalid("%s: %s is written but its stride %lld in dimension %d folds elements onto each other", call, argument,
                             static_cast<long long>(view.strides[i]), i);
    }
    reach += view.strides[i] * (view.shape[i] - 1);
  }
  return {};
}

}  // namespace

Status check_memory(const char* call, const char* argument, const TensorView& view, bool is_written) noexcept {
  const std::span shape = std::span(view.shape).first(static_cast<std::size_t>(view.rank));
  FATHOM_TRY(check_strides(call, argument, shape, std::span(view.strides).first(shape.size())));
  if (is_written) FATHOM_TRY(check_apart(call, argument, view));
  const bool has_elements = std::all_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent > 0; });
  if (view.data == nullptr && has_elements) return Status::invalid("%s: %s has no data", call, argument);
  const int bytes = std::max(1, bits_of(view.dtype) / 8);
  if (reinterpret_cast<std::uintptr_t>(view.data) % bytes != 0) {
    return Status::invalid("%s: %s is not aligned to its %d-byte elements", call, argument, bytes);
  }
  return {};
}

}  // namespace fathom
