// The two loops of the roof. The products run on every warp slot at once, with as many sums as hide their latency.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "fathom/core/memory.h"
#include "harness/gpu.h"
#include "harness/gpu_call.h"

namespace fathom::harness {
namespace {

constexpr std::int64_t kBufferBytes = std::int64_t{2} << 30;
constexpr int kReadThreads = 512, kReadBlocks = 2, kLoads = 8;  ///< of a thread in flight
constexpr int kProductThreads = 256, kProductBlocks = 2, kRounds = 4096;
constexpr int kRowTiles = 4, kColumnTiles = 4;  ///< 16 independent sums of a warp
constexpr double kOperationsOfOne = 2.0 * 16 * 8 * 16;

__device__ unsigned mixed(unsigned x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

__global__ void fill_kernel(unsigned* words, std::int64_t count) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    words[i] = mixed(static_cast<unsigned>(i));
  }
}

__global__ void __launch_bounds__(kReadThreads) read_kernel(const uint4* words, std::int64_t count, unsigned* observed) {
  const std::int64_t step = std::int64_t{gridDim.x} * kReadThreads;
  unsigned sum = 0;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kReadThreads + threadIdx.x; i + (kLoads - 1) * step < count; i += kLoads * step) {
    uint4 loaded[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) loaded[k] = __ldcs(words + i + k * step);
#pragma unroll
    for (int k = 0; k < kLoads; ++k) sum += loaded[k].x ^ loaded[k].y ^ loaded[k].z ^ loaded[k].w;
  }
  if (sum == 1) *observed = sum;  // so that no compiler can leave the loop out
}

__device__ void multiply(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Two bf16 of either sign between 1/2 and 2.
__device__ unsigned random_pair(unsigned seed) { return (mixed(seed) & 0x80ff80ffu) | 0x3f003f00u; }

__global__ void __launch_bounds__(kProductThreads) product_kernel(float* observed, std::int64_t* ticks) {
  const bool keeps_time = blockIdx.x == 0 && threadIdx.x == 0;
  unsigned seed = (blockIdx.x * kProductThreads + threadIdx.x) * 64, a[kRowTiles][4], b[kColumnTiles][2];
  for (auto& tile : a) {
    for (unsigned& pair : tile) pair = random_pair(seed++);
  }
  for (auto& tile : b) {
    for (unsigned& pair : tile) pair = random_pair(seed++);
  }
  float sums[kRowTiles][kColumnTiles][4] = {};
  const std::int64_t clock_before = clock64();
  std::int64_t time_before, time_after;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time_before));
  for (int round = 0; round < kRounds; ++round) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) multiply(sums[i][j], a[i], b[j]);
    }
  }
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time_after));
  if (keeps_time) {
    ticks[0] = clock64() - clock_before;
    ticks[1] = time_after - time_before;
  }
  float all = 0;
  for (const auto& row : sums) {
    for (const auto& tile : row) {
      for (const float sum : tile) all += sum;
    }
  }
  if (all == 1.2345f) *observed = all;
}

}  // namespace

struct GpuRoof::Impl {
  explicit Impl(const Device& gpu) : device(gpu) {}
  Impl(const Impl&) = delete;
  ~Impl() {
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
  }
  /// Seconds that `given` takes on the GPU.
  template <class Given>
  Result<double> timed(Given&& given) {
    FATHOM_GPU_TRY(cudaSetDevice, device.index());
    FATHOM_GPU_TRY(cudaEventRecord, begin, nullptr);
    given();
    FATHOM_TRY(gpu_status("the roof's kernel", cudaGetLastError()));
    FATHOM_GPU_TRY(cudaEventRecord, end, nullptr);
    FATHOM_GPU_TRY(cudaEventSynchronize, end);
    float milliseconds = 0;
    FATHOM_GPU_TRY(cudaEventElapsedTime, &milliseconds, begin, end);
    return milliseconds * 1e-3;
  }

  Device device;
  DeviceMemory buffer, observed, ticks;
  cudaEvent_t begin = nullptr, end = nullptr;
  double clock_hz = 0;
};

GpuRoof::GpuRoof(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
GpuRoof::GpuRoof(GpuRoof&&) noexcept = default;
GpuRoof::~GpuRoof() = default;

Result<GpuRoof> GpuRoof::create(const Device& device) {
  auto impl = std::make_unique<Impl>(device);
  FATHOM_GPU_TRY(cudaSetDevice, device.index());
  FATHOM_GPU_TRY(cudaEventCreate, &impl->begin);
  FATHOM_GPU_TRY(cudaEventCreate, &impl->end);
  const std::int64_t bytes = std::min(kBufferBytes, device.limits().memory_bytes / 8);
  FATHOM_ASSIGN(impl->buffer, DeviceMemory::allocate(device, bytes));
  FATHOM_ASSIGN(impl->observed, DeviceMemory::allocate(device, 256));
  FATHOM_ASSIGN(impl->ticks, DeviceMemory::allocate(device, 256));
  fill_kernel<<<1024, 256>>>(reinterpret_cast<unsigned*>(impl->buffer.data()), bytes / 4);
  FATHOM_TRY(gpu_status("the roof's kernel", cudaGetLastError()));
  GpuRoof roof(std::move(impl));
  FATHOM_TRY(roof.read_bytes_per_second().status());
  FATHOM_TRY(roof.operations_per_second().status());
  return Result<GpuRoof>(std::move(roof));
}

Result<double> GpuRoof::read_bytes_per_second() {
  const std::int64_t words = impl_->buffer.bytes() / std::int64_t{sizeof(uint4)};
  const int blocks = impl_->device.limits().num_multiprocessors * kReadBlocks;
  const std::int64_t round = std::int64_t{blocks} * kReadThreads * kLoads, read = words / round * round;
  FATHOM_ASSIGN(const double seconds, impl_->timed([&] {
    read_kernel<<<blocks, kReadThreads>>>(reinterpret_cast<const uint4*>(impl_->buffer.data()), read,
                                          reinterpret_cast<unsigned*>(impl_->observed.data()));
  }));
  return static_cast<double>(read) * sizeof(uint4) / seconds;
}

Result<double> GpuRoof::operations_per_second() {
  const int blocks = impl_->device.limits().num_multiprocessors * kProductBlocks;
  FATHOM_ASSIGN(const double seconds, impl_->timed([&] {
    product_kernel<<<blocks, kProductThreads>>>(reinterpret_cast<float*>(impl_->observed.data()),
                                                reinterpret_cast<std::int64_t*>(impl_->ticks.data()));
  }));
  std::int64_t ticks[2] = {};
  FATHOM_TRY(copy_bytes(impl_->device, ticks, impl_->ticks.data(), sizeof(ticks)));
  FATHOM_TRY(synchronize(impl_->device));
  impl_->clock_hz = ticks[1] > 0 ? 1e9 * static_cast<double>(ticks[0]) / static_cast<double>(ticks[1]) : 0;
  const double warps = static_cast<double>(blocks) * kProductThreads / 32;
  return kOperationsOfOne * kRowTiles * kColumnTiles * kRounds * warps / seconds;
}

double GpuRoof::clock_hz() const noexcept { return impl_->clock_hz; }

}  // namespace fathom::harness
