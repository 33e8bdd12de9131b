#include "fathom/core/memory.h"

#include <cstring>
#include <new>
#include <utility>

#include "core/cuda_runtime.h"

namespace fathom {
namespace {

constexpr std::size_t kAlignment = 256;

}  // namespace

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), kind_(other.kind_), index_(other.index_) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(kind_, other.kind_);
  std::swap(index_, other.index_);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  if (kind_ == DeviceKind::cuda) {
    cuda::release(index_, data_);
  } else {
    ::operator delete (data_, std::align_val_t{kAlignment});
  }
}

Result<DeviceMemory> DeviceMemory::allocate(const Device& device, std::int64_t bytes) noexcept {
  if (bytes < 0) return Status::invalid("allocate: bytes is %lld, expected at least 0", static_cast<long long>(bytes));
  return guarded("allocate", [&]() -> Result<DeviceMemory> {
    DeviceMemory memory;
    memory.kind_ = device.kind();
    memory.index_ = device.index();
    if (bytes == 0) return memory;
    if (device.kind() == DeviceKind::cuda) {
      FATHOM_ASSIGN(void* data, cuda::allocate(device.index(), bytes));
      memory.data_ = static_cast<std::byte*>(data);
    } else {
      memory.data_ = static_cast<std::byte*>(::operator new (static_cast<std::size_t>(bytes), std::align_val_t{kAlignment}));
    }
    memory.bytes_ = bytes;
    return memory;
  });
}

Status copy_bytes(const Device& device, void* to, const void* from, std::int64_t bytes, Stream stream) noexcept {
  if (bytes <= 0) return bytes == 0 ? Status() : Status::invalid("copy_bytes: bytes is %lld, expected at least 0", static_cast<long long>(bytes));
  if (device.kind() == DeviceKind::cuda) return cuda::copy(device.index(), to, from, bytes, stream);
  std::memmove(to, from, static_cast<std::size_t>(bytes));
  return {};
}

Status fill_bytes(const Device& device, void* to, std::byte value, std::int64_t bytes, Stream stream) noexcept {
  if (bytes <= 0) return bytes == 0 ? Status() : Status::invalid("fill_bytes: bytes is %lld, expected at least 0", static_cast<long long>(bytes));
  if (device.kind() == DeviceKind::cuda) return cuda::fill(device.index(), to, static_cast<int>(value), bytes, stream);
  std::memset(to, static_cast<int>(value), static_cast<std::size_t>(bytes));
  return {};
}

Status synchronize(const Device& device, Stream stream) noexcept {
  return device.kind() == DeviceKind::cuda ? cuda::synchronize(device.index(), stream) : Status();
}

}  // namespace fathom
