// Asynchronous copies from global to shared memory: one instruction per function.
#pragma once

#include <cstdint>

namespace fathom::copy {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies kBytes (4, 8 or 16) bytes; both addresses are aligned to it. 16 bytes pass L1 by.
template <int kBytes>
__device__ __forceinline__ void async(void* to_shared, const void* from) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to_shared)), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to_shared)), "l"(from), "n"(kBytes) : "memory");
  }
}
/// The same for 8 or 16 bytes, or zeros if `is_there` is false: then `from` is not read.
template <int kBytes>
__device__ __forceinline__ void async_or_zeros(void* to_shared, const void* from, bool is_there) {
  const int bytes = is_there ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to_shared)), "l"(from), "n"(kBytes), "r"(bytes) : "memory");
  }
}
/// Closes the group of this thread's copies since the last commit.
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most kOpen of this thread's groups are unfinished.
template <int kOpen>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

}  // namespace fathom::copy
