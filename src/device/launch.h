// Launching: the device that a plan belongs to, kernels that opt in to large shared memory, errors as statuses.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <mutex>

#include "core/implementation.h"
#include "fathom/core/device.h"

namespace fathom {

/// An error becomes a status and is told there: the thread's last error is cleared, for it would be the caller's next.
inline Status cuda_status(const char* call, cudaError_t error) noexcept {
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  return Status::device_error("%s: CUDA says: %s", call, cudaGetErrorString(error));
}
#define FATHOM_CUDA_TRY(call, expression)                                           \
  do {                                                                              \
    if (const cudaError_t fathom_error = (expression); fathom_error != cudaSuccess) \
      return ::fathom::cuda_status(call, fathom_error);                             \
  } while (0)

inline cudaStream_t stream_of(Stream stream) noexcept { return static_cast<cudaStream_t>(stream.handle); }

/// Makes `index` the thread's device while it lives, and puts the caller's back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int index) noexcept {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && before_ != index) {
      error_ = cudaSetDevice(index);
      changed_ = error_ == cudaSuccess;
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  Status status() const noexcept { return cuda_status("device", error_); }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

/// Lets a kernel use `bytes` of dynamic shared memory. Called while planning; never in a run. The limit is the
/// kernel's, for all plans of the process, so it only ever rises.
template <class Kernel>
Status allow_shared_bytes(const char* op, const Device& device, Kernel* kernel, std::size_t bytes) noexcept {
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  const DeviceGuard guard(device.index());
  FATHOM_TRY(guard.status());
  const auto* function = reinterpret_cast<const void*>(kernel);
  cudaFuncAttributes now{};
  FATHOM_CUDA_TRY(op, cudaFuncGetAttributes(&now, function));
  const int most = std::max(now.maxDynamicSharedSizeBytes, static_cast<int>(bytes));
  return cuda_status(op, cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
}

/// Launches with the attributes given and says what the launch itself said; what the kernel does later is the stream's
/// to tell. An empty grid is nothing.
template <class... Params, class... Args>
Status launch_with(cudaLaunchAttribute* attributes, unsigned num_attributes, const char* op, const RunContext& context,
                   void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
                   const Args&... args) noexcept {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
  const DeviceGuard guard(context.device.index());
  FATHOM_TRY(guard.status());
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_of(context.stream);
  config.attrs = attributes;
  config.numAttrs = num_attributes;
  return cuda_status(op, cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}
template <class... Params, class... Args>
Status launch(const char* op, const RunContext& context, void (*kernel)(Params...), dim3 grid, dim3 block,
              std::size_t shared_bytes, const Args&... args) noexcept {
  return launch_with(nullptr, 0, op, context, kernel, grid, block, shared_bytes, args...);
}

}  // namespace fathom
