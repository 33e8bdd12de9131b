// How the library treats the thread that calls it: its current device and its last error stay its own.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "fathom/core/memory.h"
#include "support/cuda.h"

namespace fathom {
namespace {

TEST(CudaErrors, AreToldOnce) {
  FATHOM_NEEDS_CUDA(device);
  const Status status = fill_bytes(device, nullptr, std::byte{1}, 16);
  EXPECT_EQ(status.code(), StatusCode::device_error);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << "the caller's next look would see it again";
  EXPECT_TRUE(synchronize(device).ok());
}

}  // namespace
}  // namespace fathom
