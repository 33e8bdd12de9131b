// Who comes last: the blocks or warps that share an answer count themselves, and the last one puts the answer together. Nobody waits.
#pragma once

#include "device/rows.cuh"

namespace fathom {

/// Whether this warp is the last of `count` to come here, the same in all lanes. What the others' lanes wrote before they came is visible to it
/// then, and the counter is zero again. All lanes come.
__device__ __forceinline__ bool is_last_warp(std::int32_t* counter, std::int32_t count) {
  __threadfence();  // every lane's own writes, before the one that counts
  __syncwarp();
  int is_last = 0;
  if (threadIdx.x % 32 == 0) {
    is_last = atomicAdd(counter, 1) == count - 1;
    if (is_last != 0) *counter = 0;
  }
  is_last = __shfl_sync(kAllLanes, is_last, 0);
  if (is_last != 0) __threadfence();
  return is_last != 0;
}

/// The same of whole blocks. `is_last` is a place in shared memory that nobody else uses until the block's next barrier. All threads come.
__device__ __forceinline__ bool is_last_block(std::int32_t* counter, std::int32_t count, bool& is_last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(counter, 1) == count - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}

}  // namespace fathom
