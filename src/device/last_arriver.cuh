// Who comes last: the blocks or warps that share an answer count themselves, and the last one puts the answer together.
// Nobody waits.
#pragma once

#include "device/rows.cuh"

namespace fathom {

/// Whether the calling thread is the last of `count` to count itself. What it wrote, and what others wrote and it met
/// at a barrier, is seen by the last one, and by whom that one meets at a barrier. The counter is zero again then.
__device__ __forceinline__ bool counts_last(std::int32_t* counter, std::int32_t count) {
  __threadfence();
  const bool is_last = atomicAdd(counter, 1) == count - 1;
  if (is_last) *counter = 0;
  __threadfence();
  return is_last;
}

/// Whether this warp is the last of `count`, the same in all lanes. All lanes come.
__device__ __forceinline__ bool is_last_warp(std::int32_t* counter, std::int32_t count) {
  __syncwarp();
  int is_last = 0;
  if (threadIdx.x % 32 == 0) is_last = counts_last(counter, count) ? 1 : 0;
  return __shfl_sync(kAllLanes, is_last, 0) != 0;
}

/// The same of blocks. `is_last` is a place in shared memory, nobody else's until the block's next barrier. All threads
/// come.
__device__ __forceinline__ bool is_last_block(std::int32_t* counter, std::int32_t count, bool& is_last) {
  __syncthreads();
  if (threadIdx.x == 0) is_last = counts_last(counter, count);
  __syncthreads();
  return is_last;
}

}  // namespace fathom
