// DeviceMemory: bytes where a Device computes. For programs, tests and pools: ops never allocate, they take views.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fathom/core/device.h"

namespace fathom FATHOM_PUBLIC {

/// Owned bytes on a device, aligned to 256. Moves, does not copy.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  /// resource_exhausted if the device has not that much. No bytes are a valid size.
  static Result<DeviceMemory> allocate(const Device& device, std::int64_t bytes) noexcept;

  std::byte* data() const noexcept { return data_; }
  std::int64_t bytes() const noexcept { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
  DeviceKind kind_ = DeviceKind::cpu;
  int index_ = 0;
};

/// Copies between any two places that `device` can reach: host memory and its own. Ordered on the stream; returns before
/// the bytes are there only if both lie on the GPU or the host's are page-locked.
Status copy_bytes(const Device& device, void* to, const void* from, std::int64_t bytes, Stream stream = {}) noexcept;
/// Sets every byte of memory on the device to `value`.
Status fill_bytes(const Device& device, void* to, std::byte value, std::int64_t bytes, Stream stream = {}) noexcept;
/// Waits until everything given to the stream is done, and says what failed since. Does nothing on the CPU.
Status synchronize(const Device& device, Stream stream = {}) noexcept;

}  // namespace fathom
