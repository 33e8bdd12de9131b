// TensorView: where the bytes are. Non-owning, trivially copyable.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "fathom/core/dtype.h"

namespace fathom FATHOM_PUBLIC {

enum class DeviceKind : std::uint8_t { cpu, cuda };
constexpr const char* name_of(DeviceKind kind) noexcept {
  return kind == DeviceKind::cpu ? "cpu" : kind == DeviceKind::cuda ? "cuda" : "?";
}

/// A strided view of up to four dimensions. Strides count elements; the last one is 1 wherever an op reads it.
/// A default-made view is null: it stands for an optional argument that was left out.
struct TensorView {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::f32;
  DeviceKind device = DeviceKind::cpu;
  std::int16_t device_index = 0;
  std::int32_t rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> strides{};

  /// True for an argument that was left out. A view of no elements may have null data and still be given.
  constexpr bool is_absent() const noexcept { return rank == 0; }
  constexpr std::int64_t numel() const noexcept {
    std::int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    return rank == 0 ? 0 : count;
  }
  /// Address of row `i` (a step along the first dimension).
  template <class T>
  constexpr T* row(std::int64_t i) const noexcept {
    return static_cast<T*>(data) + i * strides[0];
  }
  /// Address of row (i, j) of a view of rank >= 2.
  template <class T>
  constexpr T* row(std::int64_t i, std::int64_t j) const noexcept {
    return static_cast<T*>(data) + i * strides[0] + j * strides[1];
  }
  template <class T>
  constexpr T& at(std::int64_t i) const noexcept {
    return static_cast<T*>(data)[i * strides[0]];
  }
};

/// A densely packed view; `data` may be const, ops never write through an `in` argument. More than kMaxRank extents give
/// a view of rank kMaxRank + 1, which every op refuses.
inline TensorView view(const void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                       DeviceKind device = DeviceKind::cpu) noexcept {
  TensorView result;
  result.data = const_cast<void*>(data);
  result.dtype = dtype;
  result.device = device;
  for (const std::int64_t extent : shape) {
    if (result.rank < TensorView::kMaxRank) result.shape[result.rank] = extent;
    result.rank = std::min(result.rank + 1, TensorView::kMaxRank + 1);
  }
  std::int64_t stride = 1;
  for (int i = std::min(result.rank, TensorView::kMaxRank) - 1; i >= 0; --i) {
    result.strides[i] = stride;
    // Extents of any size may come; strides that overflowed are for the checks to refuse.
    stride = static_cast<std::int64_t>(static_cast<std::uint64_t>(stride) * static_cast<std::uint64_t>(result.shape[i]));
  }
  return result;
}

/// The first `count` rows of `tensor`.
inline TensorView first_rows(TensorView tensor, std::int64_t count) noexcept {
  if (!tensor.is_absent()) tensor.shape[0] = count;
  return tensor;
}

/// Rows [first, first + count) of `tensor`.
inline TensorView rows_of(TensorView tensor, std::int64_t first, std::int64_t count) noexcept {
  if (tensor.is_absent()) return tensor;
  tensor.data = static_cast<std::byte*>(tensor.data) + bytes_of(tensor.dtype, first * tensor.strides[0]);
  tensor.shape[0] = count;
  return tensor;
}

/// One element of an f32 or bf16 row, widened.
inline float load_f32(const TensorView& tensor, std::int64_t element) noexcept {
  return tensor.dtype == DType::bf16 ? to_f32(static_cast<const bf16*>(tensor.data)[element])
                                     : static_cast<const float*>(tensor.data)[element];
}

}  // namespace fathom
