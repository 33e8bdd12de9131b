// The tensor copy engine of sm_90: boxes of a matrix between global and shared memory, described once by the host.
//
// A box is 128 bytes of some rows; it lies in shared memory as wgmma.cuh's slabs do, and what is outside of the matrix arrives as zeros.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device/copy.cuh"
#include "device/launch.h"

namespace fathom::tensor_copy {

// ---- host ---------------------------------------------------------------------------------------------------------

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// The driver's function that fills maps, or null where the driver has none. Asked while planning.
inline EncodeTiled find_encoder() noexcept {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(function) : nullptr;
}

/// Rows of `width` elements, numbered by two more coordinates; strides in elements.
struct Matrix {
  struct Axis {
    std::int64_t extent, stride;
    int box;  ///< how many of them a box has
  };
  const void* data;
  CUtensorMapDataType type;
  int element_bytes;
  std::int64_t width;
  Axis inner, outer;
};

/// Whether the map could be made: addresses and strides in multiples of 16 bytes, everything within the engine's reach.
inline bool describe(EncodeTiled encode, const Matrix& matrix, CUtensorMap& map) noexcept {
  const auto unsigned64 = [](std::int64_t value) { return static_cast<cuuint64_t>(value); };
  const cuuint64_t extents[] = {unsigned64(matrix.width), unsigned64(matrix.inner.extent), unsigned64(matrix.outer.extent)};
  const cuuint64_t strides[] = {unsigned64(matrix.inner.stride * matrix.element_bytes), unsigned64(matrix.outer.stride * matrix.element_bytes)};
  const cuuint32_t box[] = {128u / matrix.element_bytes, static_cast<cuuint32_t>(matrix.inner.box), static_cast<cuuint32_t>(matrix.outer.box)};
  const cuuint32_t steps[] = {1, 1, 1};
  return encode(&map, matrix.type, 3, const_cast<void*>(matrix.data), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// ---- device -------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
/// Brings a box to shared memory; its bytes count towards `barrier`'s.
__device__ __forceinline__ void fetch(void* to_shared, const CUtensorMap& map, std::uint64_t* barrier, int k, int inner, int outer) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
                   copy::shared_address(to_shared)),
               "l"(&map), "r"(copy::shared_address(barrier)), "r"(k), "r"(inner), "r"(outer)
               : "memory");
}
/// The same for `bytes` bytes in a row, no map needed; a multiple of 16, as are both addresses.
__device__ __forceinline__ void fetch_bytes(void* to_shared, const void* from, std::uint64_t* barrier, int bytes) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(copy::shared_address(to_shared)),
               "l"(from), "r"(bytes), "r"(copy::shared_address(barrier))
               : "memory");
}
/// Has the map at hand when the first copy asks for it. It lies among the kernel's parameters.
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
/// Brings a box into L2.
__device__ __forceinline__ void prefetch_to_l2(const CUtensorMap& map, int k, int inner, int outer) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(&map), "r"(k), "r"(inner), "r"(outer) : "memory");
}
/// One arrival, and `bytes` that fetches will bring before the phase ends.
__device__ __forceinline__ void arrive_expecting(std::uint64_t* barrier, int bytes) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;}" ::"r"(copy::shared_address(barrier)), "r"(bytes)
               : "memory");
}
#endif

}  // namespace fathom::tensor_copy
