// Launches that may begin before the one in front of them has ended (programmatic dependent launch, sm_90 and later): their
// way onto the device and what they read of older data overlaps the end of the launch before.
//
// A kernel launched so calls wait_for_launch_before in every block, whether it has work or not, before it touches anything
// that the launches in front of it in this run read or write: who waits for it then waits for them too.
#pragma once

#include "device/launch.h"

namespace fathom {

__device__ __forceinline__ void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The launch behind may begin as soon as every block has come here.
__device__ __forceinline__ void let_next_launch_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Whether the device runs a build of `kernel` that can wait. Asked while planning.
template <class... Params>
Result<bool> can_begin_early(const char* op, const Device& device, void (*kernel)(Params...)) noexcept {
  const DeviceGuard guard(device.index());
  FATHOM_TRY(guard.status());
  cudaFuncAttributes attributes{};
  FATHOM_CUDA_TRY(op, cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)));
  return attributes.ptxVersion >= 90 && device.limits().compute_capability >= 90;
}

/// `launch`, early where `early` says so.
template <class... Params, class... Args>
Status launch_early(bool early, const char* op, const RunContext& context, void (*kernel)(Params...), dim3 grid, dim3 block,
                    std::size_t shared_bytes, const Args&... args) noexcept {
  if (!early) return launch(op, context, kernel, grid, block, shared_bytes, args...);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return launch_with(&attribute, 1, op, context, kernel, grid, block, shared_bytes, args...);
}

}  // namespace fathom
