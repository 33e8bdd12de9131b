// Tensors that lie in host memory, where a device sees them, and back. On the CPU nothing is copied that need not be.
#pragma once

#include <span>
#include <vector>

#include "fathom/core/memory.h"
#include "fathom/layer.h"

namespace fathom::cli {

/// Owns what it copies; the views it returns live as long as it does.
class DeviceCopies {
 public:
  explicit DeviceCopies(const Device& device) : device_(device) {}

  /// `host` as the device sees it: a copy with the same strides, or on the CPU the view itself. Absent stays absent.
  Result<TensorView> of(const TensorView& host);
  /// The same of every weight.
  Result<LayerWeights> of(const LayerWeights& host);

 private:
  Device device_;
  std::vector<DeviceMemory> memory_;
};

/// Bytes on a device that runs write and the host reads.
class DeviceRows {
 public:
  /// Room for `rows` rows of `columns` elements.
  static Result<DeviceRows> create(const Device& device, DType dtype, std::int64_t rows, std::int64_t columns);

  /// The first `rows` rows as a packed view; a row is `shape`, whose extents multiply to the columns.
  TensorView view(std::int64_t rows, std::initializer_list<std::int64_t> shape) const;
  /// Copies the first `rows` rows to host memory, after all that was given to the device.
  Status read(std::int64_t rows, void* to) const;
  /// The same of rows in f32 or bf16, widened.
  Status read_floats(std::int64_t rows, float* to) const;

 private:
  DeviceRows(const Device& device, DType dtype, std::int64_t columns) : device_(device), dtype_(dtype), columns_(columns) {}

  Device device_;
  DType dtype_;
  std::int64_t columns_;
  DeviceMemory memory_;
};

/// A cache's pages in host memory: a copy, or on the CPU the pages themselves.
class HostPages {
 public:
  static Result<HostPages> of(const Device& device, const TensorView& pages);
  const TensorView& view() const noexcept { return view_; }

 private:
  std::vector<std::byte> bytes_;
  TensorView view_;
};

}  // namespace fathom::cli
