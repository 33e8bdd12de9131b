// Four kernels with one bug each: `planted_bugs TOOL` runs the one that compute-sanitizer's TOOL must see, or
// scripts/gpu_test.sh does not trust it. And one without a bug, `planted_bugs hand_over`: what racecheck says of it, it
// may say of any kernel that works that way. Ends with 0 unless the GPU could not be used, or a number came out wrong.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "device/barrier.cuh"

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

// One warp writes a number a lane, the other reads another lane's. Each waits for the other's mbarrier before, and
// arrives at its own after, as attend's cuda:sm90 does. No bug: a round's numbers are read after they are written and
// before the next are.
__global__ void hands_over(int* numbers, int rounds) {
#if __CUDA_ARCH__ >= 900
  __shared__ int shared[32];
  __shared__ std::uint64_t full, empty;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    fathom::barrier::init(&full, 32);  // who wrote a number
    fathom::barrier::init(&empty, fathom::barrier::kArrivalsOfWarp);
  }
  __syncthreads();
  int sum = 0;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < 32) {
      fathom::barrier::wait(&empty, static_cast<unsigned>(round & 1) ^ 1);
      shared[lane] = round + lane;
      fathom::barrier::arrive(&full);
    } else {
      fathom::barrier::wait(&full, static_cast<unsigned>(round & 1));
      sum += shared[31 - lane];
      __syncwarp();
      if (lane < fathom::barrier::kArrivalsOfWarp) fathom::barrier::arrive(&empty);
    }
  }
  if (threadIdx.x >= 32) numbers[lane] = sum;
#endif
}

int hand_over(int* numbers) {
  constexpr int kRounds = 100;
  int major = 0, got[32] = {};
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (major < 9) {
    std::puts("hand_over: needs sm_90");
    return 0;
  }
  hands_over<<<1, kThreads>>>(numbers, kRounds);
  if (cudaMemcpy(got, numbers, sizeof got, cudaMemcpyDeviceToHost) != cudaSuccess) return 1;
  for (int lane = 0; lane < 32; ++lane) {
    if (got[lane] != kRounds * (kRounds - 1) / 2 + kRounds * (31 - lane)) return 1;
  }
  std::puts("hand_over: every number arrived");
  return 0;
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
  } else if (std::strcmp(tool, "hand_over") == 0) {
    return hand_over(numbers);
  } else {
    std::fprintf(stderr, "planted_bugs: expected memcheck, racecheck, initcheck, synccheck or hand_over\n");
    return 2;
  }
  cudaDeviceSynchronize();  // the tools make an error of it; that is theirs to report
  return 0;
}
