// Blocks that run together on neighbouring multiprocessors (sm_90): their barrier, and each other's shared memory.
#pragma once

#include <cstdint>

#include "device/copy.cuh"

namespace fathom::cluster {

/// All threads of all blocks of the cluster come here; what they wrote before is seen by the others after.
__device__ __forceinline__ void sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
/// What lies at this block's `own` address in the shared memory of the cluster's block `rank`.
__device__ __forceinline__ float4 load_of_block(const float4* own, int rank) {
  float4 v;
  asm volatile(
      "{.reg .b32 at; mapa.shared::cluster.u32 at, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [at];}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(copy::shared_address(own)), "r"(rank)
      : "memory");
  return v;
}

}  // namespace fathom::cluster
