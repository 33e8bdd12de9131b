// Memory for tensors: aligned for any vector unit, not zeroed first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace fathom {

inline constexpr std::align_val_t kTensorAlignment{64};

struct AlignedDelete {
  void operator()(std::byte* bytes) const noexcept { ::operator delete[](bytes, kTensorAlignment); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

inline AlignedBytes aligned_bytes(std::int64_t count) {
  return AlignedBytes(static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(count), kTensorAlignment)));
}

}  // namespace fathom
