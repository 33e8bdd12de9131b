#include "cli/device_copy.h"

#include "harness/op_case.h"

namespace fathom::cli {

Result<TensorView> DeviceCopies::of(const TensorView& host) {
  if (host.is_absent() || device_.kind() == DeviceKind::cpu) return host;
  const std::int64_t bytes = harness::span_bytes(host);
  FATHOM_ASSIGN(DeviceMemory memory, DeviceMemory::allocate(device_, bytes));
  FATHOM_TRY(copy_bytes(device_, memory.data(), host.data, bytes));
  TensorView copy = host;
  copy.data = memory.data();
  copy.device = device_.kind();
  copy.device_index = static_cast<std::int16_t>(device_.index());
  memory_.push_back(std::move(memory));
  return copy;
}

Result<LayerWeights> DeviceCopies::of(const LayerWeights& host) {
  LayerWeights copies = host;
  // Weights are an array of views and nothing else, as all arguments are.
  const std::span<TensorView> views(reinterpret_cast<TensorView*>(&copies), sizeof(copies) / sizeof(TensorView));
  for (TensorView& weight : views) {
    FATHOM_ASSIGN(weight, of(weight));
  }
  return copies;
}

Result<DeviceRows> DeviceRows::create(const Device& device, DType dtype, std::int64_t rows, std::int64_t columns) {
  DeviceRows result(device, dtype, columns);
  FATHOM_ASSIGN(result.memory_, DeviceMemory::allocate(device, bytes_of(dtype, rows * columns)));
  return result;
}

TensorView DeviceRows::view(std::int64_t rows, std::initializer_list<std::int64_t> shape) const {
  TensorView result = fathom::view(memory_.data(), dtype_, {rows}, device_);
  result.rank = 1 + static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), result.shape.begin() + 1);
  std::int64_t stride = 1;
  for (int i = result.rank - 1; i >= 0; --i) {
    result.strides[i] = stride;
    stride *= result.shape[i];
  }
  return result;
}

Status DeviceRows::read(std::int64_t rows, void* to) const {
  FATHOM_TRY(copy_bytes(device_, to, memory_.data(), bytes_of(dtype_, rows * columns_)));
  return synchronize(device_);
}

Status DeviceRows::read_floats(std::int64_t rows, float* to) const {
  const std::int64_t count = rows * columns_;
  if (dtype_ == DType::f32) return read(rows, to);
  std::vector<std::byte> narrow(static_cast<std::size_t>(bytes_of(dtype_, count)));
  FATHOM_TRY(read(rows, narrow.data()));
  const TensorView values = fathom::view(narrow.data(), dtype_, {count});
  for (std::int64_t i = 0; i < count; ++i) to[i] = load_f32(values, i);
  return {};
}

Result<HostPages> HostPages::of(const Device& device, const TensorView& pages) {
  HostPages result;
  result.view_ = pages;
  if (device.kind() == DeviceKind::cpu) return result;
  result.bytes_.resize(static_cast<std::size_t>(harness::span_bytes(pages)));
  FATHOM_TRY(copy_bytes(device, result.bytes_.data(), pages.data, static_cast<std::int64_t>(result.bytes_.size())));
  FATHOM_TRY(synchronize(device));
  result.view_.data = result.bytes_.data();
  result.view_.device = DeviceKind::cpu;
  result.view_.device_index = 0;
  return result;
}

}  // namespace fathom::cli
