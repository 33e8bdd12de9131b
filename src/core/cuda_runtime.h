// What the core asks of CUDA. Defined in src/device/cuda_runtime.cpp, or in without_cuda.cpp where nvcc is missing, so that
// everything else is compiled once, without a CUDA header.
#pragma once

#include <cstdint>

#include "fathom/core/device.h"

namespace fathom::cuda {

/// Space-separated compute targets of this build ("sm_80 sm_90a"); empty without CUDA.
const char* compiled_targets() noexcept;
int device_count() noexcept;
Result<DeviceLimits> limits_of(int index) noexcept;

Result<void*> allocate(int index, std::int64_t bytes) noexcept;
void release(int index, void* data) noexcept;
Status copy(int index, void* to, const void* from, std::int64_t bytes, Stream stream) noexcept;
/// `rows` pieces of `bytes` each, `stride` bytes apart on both sides.
Status copy_rows(int index, void* to, const void* from, std::int64_t stride, std::int64_t bytes, std::int64_t rows,
                 Stream stream) noexcept;
Status fill(int index, void* to, int value, std::int64_t bytes, Stream stream) noexcept;
Status synchronize(int index, Stream stream) noexcept;

}  // namespace fathom::cuda
