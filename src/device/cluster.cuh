// Blocks of one cluster: a barrier among them, and loads from each other's shared memory (sm_90).
#pragma once

#include <cstdint>

#include "device/copy.cuh"

namespace fathom::cluster {

/// The barrier of all threads of the cluster that have not ended. What was written before `arrive` is seen after
/// `wait`.
__device__ __forceinline__ void arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
/// The same without promising what was written.
__device__ __forceinline__ void arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// Both, also for threads that have gone different ways.
__device__ __forceinline__ void sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

/// Where block `rank` of the cluster has what this block has at `pointer`, in shared memory.
__device__ __forceinline__ std::uint32_t address_in(const void* pointer, int rank) {
  std::uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(copy::shared_address(pointer)), "r"(rank));
  return address;
}
__device__ __forceinline__ float load(std::uint32_t address) {
  float value;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
__device__ __forceinline__ float4 load4(std::uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

}  // namespace fathom::cluster
