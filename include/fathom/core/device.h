// Device: where an op runs, and with how many threads.
#pragma once

#include <cstdint>
#include <memory>

#include "fathom/core/status.h"
#include "fathom/core/tensor.h"

namespace fathom FATHOM_PUBLIC {

namespace detail {
struct ThreadArena;
}

/// What a GPU gives a kernel. Policies choose tiles from these numbers, never from a name.
struct DeviceLimits {
  std::int32_t compute_capability = 0;     ///< major * 10 + minor
  std::int32_t num_multiprocessors = 0;
  std::int32_t shared_bytes_per_block = 0;  ///< dynamic, opted in to
  std::int64_t l2_bytes = 0;
  std::int64_t memory_bytes = 0;

  bool operator==(const DeviceLimits&) const = default;
};

/// A place to run. Cheap to copy; copies share one thread arena. A Device must outlive no plan: plans keep a copy.
class Device {
 public:
  /// The machine's processors. `num_threads` = 0 takes every hardware thread this process may use.
  static Result<Device> cpu(int num_threads = 0) noexcept;
  /// GPU number `index`. Unsupported, with the reason, where the library was built without CUDA or no driver or GPU is.
  static Result<Device> cuda(int index = 0) noexcept;
  /// How many GPUs there are; 0 where Device::cuda would refuse.
  static int cuda_count() noexcept;

  /// The same device, for plans that must fit a smaller one: each limit is the smaller of both (0 = keep).
  Device limited_to(const DeviceLimits& limits) const noexcept;

  DeviceKind kind() const noexcept { return kind_; }
  int index() const noexcept { return index_; }
  int num_threads() const noexcept { return num_threads_; }
  /// All zero on the CPU.
  const DeviceLimits& limits() const noexcept { return limits_; }
  /// The threads behind parallel_for (src/core/parallel.h).
  detail::ThreadArena* arena() const noexcept { return arena_.get(); }

 private:
  Device() = default;
  DeviceKind kind_ = DeviceKind::cpu;
  int index_ = 0;
  int num_threads_ = 1;
  DeviceLimits limits_;
  std::shared_ptr<detail::ThreadArena> arena_;
};

/// The targets that the library's CUDA kernels were compiled for, blanks between ("sm_80 sm_90a"); empty without CUDA.
const char* cuda_targets() noexcept;

/// As view() of core/tensor.h, of memory on `device`.
inline TensorView view(const void* data, DType dtype, std::initializer_list<std::int64_t> shape, const Device& device) noexcept {
  TensorView result = view(data, dtype, shape, device.kind());
  result.device_index = static_cast<std::int16_t>(device.index());
  return result;
}

/// A CUDA stream as an opaque handle (cudaStream_t); null on the CPU, where ops run before they return.
struct Stream {
  void* handle = nullptr;
};

}  // namespace fathom
