// CUDA's answers as statuses, for the harness's own calls.
#pragma once

#include <cuda_runtime.h>

#include "fathom/core/device.h"

namespace fathom::harness {

inline Status gpu_status(const char* call, cudaError_t error) {
  return error == cudaSuccess ? Status() : Status::device_error("bench: %s: CUDA says: %s", call, cudaGetErrorString(error));
}
#define FATHOM_GPU_TRY(call, ...) FATHOM_TRY(::fathom::harness::gpu_status(#call, call(__VA_ARGS__)))

}  // namespace fathom::harness
