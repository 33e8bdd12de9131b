// Four kernels with one bug each: `planted_bugs TOOL` runs the one that compute-sanitizer's TOOL must see, or
// scripts/gpu_test.sh does not trust it. Ends with 0 unless the GPU itself could not be used.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr int kThreads = 64;

__global__ void writes_past_the_end(int* numbers) { numbers[threadIdx.x + 1] = 1; }

__global__ void reads_before_the_barrier(int* numbers) {
  __shared__ int shared[kThreads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  numbers[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

__global__ void reads_what_nobody_wrote(const int* unwritten, int* numbers) { numbers[threadIdx.x] = unwritten[threadIdx.x] + 1; }

__global__ void waits_in_a_branch(int* numbers) {
  if (threadIdx.x % 32 < 16) __syncthreads();
  numbers[threadIdx.x] = 1;
}

}  // namespace

int main(int argc, char** argv) {
  const char* tool = argc == 2 ? argv[1] : "";
  int *numbers = nullptr, *unwritten = nullptr;
  cudaError_t error = cudaMalloc(&numbers, kThreads * sizeof(int));
  if (error == cudaSuccess) error = cudaMalloc(&unwritten, kThreads * sizeof(int));
  if (error != cudaSuccess) {
    std::fprintf(stderr, "planted_bugs: %s\n", cudaGetErrorString(error));
    return 1;
  }
  if (std::strcmp(tool, "memcheck") == 0) {
    writes_past_the_end<<<1, kThreads>>>(numbers);
  } else if (std::strcmp(tool, "racecheck") == 0) {
    reads_before_the_barrier<<<1, kThreads>>>(numbers);
  } else if (std::strcmp(tool, "initcheck") == 0) {
    reads_what_nobody_wrote<<<1, kThreads>>>(unwritten, numbers);
  } else if (std::strcmp(tool, "synccheck") == 0) {
    waits_in_a_branch<<<1, kThreads>>>(numbers);
  } else {
    std::fprintf(stderr, "planted_bugs: expected memcheck, racecheck, initcheck or synccheck\n");
    return 2;
  }
  cudaDeviceSynchronize();  // the tools make an error of it; that is theirs to report
  return 0;
}
