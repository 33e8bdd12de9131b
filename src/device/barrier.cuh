// Barriers among the threads of a block: mbarriers in shared memory for producers and consumers, numbered barriers for groups of
// warps, and the registers that groups trade (sm_90a).
#pragma once

#include <cstdint>

#include "device/copy.cuh"

namespace fathom::barrier {

__device__ __forceinline__ void init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(copy::shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(std::uint64_t* barrier) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(copy::shared_address(barrier)) : "memory");
}
/// Lanes of a warp that arrive when the whole warp is done with what a barrier guards, after __syncwarp: the first.
/// racecheck does not see that __syncwarp stands between the other lanes and the arrival; for it, a build lets all arrive.
#ifdef FATHOM_EVERY_LANE_ARRIVES
inline constexpr int kArrivalsOfWarp = 32;
#else
inline constexpr int kArrivalsOfWarp = 1;
#endif
/// Waits for the phase of that parity to end.
__device__ __forceinline__ void wait(std::uint64_t* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(copy::shared_address(barrier)),
      "r"(parity)
      : "memory");
}
/// Numbered barrier of `kThreads` threads.
template <int kNumber, int kThreads>
__device__ __forceinline__ void sync() {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}
/// Shared memory written by ordinary stores may now be read by the tensor cores' own path.
__device__ __forceinline__ void publish_to_tensor_cores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace fathom::barrier
