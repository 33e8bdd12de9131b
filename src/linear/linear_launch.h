// Launches that may begin before the one in front of them has ended: a product's weights are on their way while what
// makes its x still runs. Only for kernels that wait for the launch before (linear_kernel.cuh), so only where they were
// compiled for sm_90 or later.
#pragma once

#include "device/launch.h"

namespace fathom {

/// Whether the device runs a build of `kernel` that has the instruction.
template <class... Params>
Result<bool> waits_for_the_launch_before(const char* op, const Device& device, void (*kernel)(Params...)) noexcept {
  const DeviceGuard guard(device.index());
  FATHOM_TRY(guard.status());
  cudaFuncAttributes attributes{};
  FATHOM_CUDA_TRY(op, cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)));
  return attributes.ptxVersion >= 90 && device.limits().compute_capability >= 90;
}

/// `launch` of device/launch.h, early where `early` says so.
template <class... Params, class... Args>
Status launch_early(const char* op, const RunContext& context, void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
                    bool early, const Args&... args) noexcept {
  if (!early) return launch(op, context, kernel, grid, block, shared_bytes, args...);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
  const DeviceGuard guard(context.device.index());
  FATHOM_TRY(guard.status());
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_of(context.stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cuda_status(op, cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

}  // namespace fathom
