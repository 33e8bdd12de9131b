// The core's questions to CUDA, answered by the runtime that is linked into libfathom: it loads the driver when it is first
// asked, so a machine without one can still start.
#include "core/cuda_runtime.h"

#include <cuda_runtime.h>

#include "device/launch.h"

namespace fathom::cuda {

const char* compiled_targets() noexcept { return FATHOM_CUDA_TARGETS; }

int device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver is an answer, not a fault that the caller's next call should see
  return 0;
}

Result<DeviceLimits> limits_of(int index) noexcept {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();
    return Status::unsupported("device: no GPU can be used here: %s", cudaGetErrorString(error));
  }
  if (index < 0 || index >= count) return Status::invalid("device: there is no cuda:%d, this machine has %d GPUs", index, count);
  DeviceLimits limits;
  int major = 0, minor = 0, l2 = 0;
  const auto ask = [&](int* value, cudaDeviceAttr attribute) { return cudaDeviceGetAttribute(value, attribute, index); };
  FATHOM_CUDA_TRY("device", ask(&major, cudaDevAttrComputeCapabilityMajor));
  FATHOM_CUDA_TRY("device", ask(&minor, cudaDevAttrComputeCapabilityMinor));
  FATHOM_CUDA_TRY("device", ask(&limits.num_multiprocessors, cudaDevAttrMultiProcessorCount));
  FATHOM_CUDA_TRY("device", ask(&limits.shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  FATHOM_CUDA_TRY("device", ask(&l2, cudaDevAttrL2CacheSize));
  limits.compute_capability = major * 10 + minor;
  limits.l2_bytes = l2;
  const DeviceGuard guard(index);
  FATHOM_TRY(guard.status());
  std::size_t free = 0, total = 0;
  FATHOM_CUDA_TRY("device", cudaMemGetInfo(&free, &total));
  limits.memory_bytes = static_cast<std::int64_t>(total);
  if (limits.compute_capability < 80) {
    return Status::unsupported("device: cuda:%d has compute capability %d.%d, expected 8.0 or newer", index, major, minor);
  }
  return limits;
}

Result<void*> allocate(int index, std::int64_t bytes) noexcept {
  const DeviceGuard guard(index);
  FATHOM_TRY(guard.status());
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<std::size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return Status::exhausted("allocate: cuda:%d has no %lld bytes left", index, static_cast<long long>(bytes));
  }
  FATHOM_CUDA_TRY("allocate", error);
  return data;
}

void release(int index, void* data) noexcept {
  const DeviceGuard guard(index);
  cudaFree(data);
}

Status copy(int index, void* to, const void* from, std::int64_t bytes, Stream stream) noexcept {
  const DeviceGuard guard(index);
  FATHOM_TRY(guard.status());
  return cuda_status("copy_bytes", cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_of(stream)));
}

Status copy_rows(int index, void* to, const void* from, std::int64_t stride, std::int64_t bytes, std::int64_t rows,
                 Stream stream) noexcept {
  const DeviceGuard guard(index);
  FATHOM_TRY(guard.status());
  const auto pitch = static_cast<std::size_t>(stride);
  return cuda_status("copy_rows",
                     cudaMemcpy2DAsync(to, pitch, from, pitch, static_cast<std::size_t>(bytes),
                                       static_cast<std::size_t>(rows), cudaMemcpyDefault, stream_of(stream)));
}

Status fill(int index, void* to, int value, std::int64_t bytes, Stream stream) noexcept {
  const DeviceGuard guard(index);
  FATHOM_TRY(guard.status());
  return cuda_status("fill_bytes", cudaMemsetAsync(to, value, static_cast<std::size_t>(bytes), stream_of(stream)));
}

Status synchronize(int index, Stream stream) noexcept {
  const DeviceGuard guard(index);
  FATHOM_TRY(guard.status());
  return cuda_status("synchronize", cudaStreamSynchronize(stream_of(stream)));
}

}  // namespace fathom::cuda
