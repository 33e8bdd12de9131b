#include "fathom/core/device.h"

#ifdef FATHOM_PLAIN_THREADS
#include <exception>
#include <mutex>
#include <thread>
#include <vector>
#endif

#include <algorithm>

#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include "core/cuda_runtime.h"
#include "core/parallel.h"

namespace fathom {
namespace detail {

struct ThreadArena {
  // More slots than processors gain nothing and make TBB print a warning; parts beyond the slots wait their turn.
  explicit ThreadArena(int threads) : arena(std::min(threads, tbb::info::default_concurrency())) { arena.initialize(); }
  tbb::task_arena arena;
};

#ifdef FATHOM_PLAIN_THREADS
// For ThreadSanitizer, which cannot see that an uninstrumented oneTBB orders our tasks (cmake/FathomSanitize.cmake).
void run_tasks(ThreadArena*, int count, void (*task)(void*, int), void* context) {
  std::mutex mutex;
  std::exception_ptr failure;
  {
    std::vector<std::jthread> threads;  // they join where a further one cannot be made, too
    for (int index = 0; index < count; ++index) {
      threads.emplace_back([&, index] {
        try {
          task(context, index);
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
        }
      });
    }
  }
  if (failure) std::rethrow_exception(failure);
}
#else
void run_tasks(ThreadArena* arena, int count, void (*task)(void*, int), void* context) {
  arena->arena.execute([&] {
    tbb::parallel_for(0, count, 1, [&](int index) { task(context, index); }, tbb::static_partitioner());
  });
}
#endif

}  // namespace detail

Result<Device> Device::cpu(int num_threads) noexcept {
  constexpr int kMostThreads = 4096;
  if (num_threads < 0 || num_threads > kMostThreads) {
    return Status::invalid("device: num_threads is %d, expected 0 (all) to %d", num_threads, kMostThreads);
  }
  return guarded("device", [&]() -> Result<Device> {
    Device device;
    device.num_threads_ = num_threads == 0 ? tbb::info::default_concurrency() : num_threads;
    device.arena_ = std::make_shared<detail::ThreadArena>(device.num_threads_);
    return device;
  });
}

Result<Device> Device::cuda(int index) noexcept {
  FATHOM_ASSIGN(const DeviceLimits limits, cuda::limits_of(index));
  Device device;
  device.kind_ = DeviceKind::cuda;
  device.index_ = index;
  device.limits_ = limits;
  return device;
}

int Device::cuda_count() noexcept { return cuda::device_count(); }

const char* cuda_targets() noexcept { return cuda::compiled_targets(); }

Device Device::limited_to(const DeviceLimits& limits) const noexcept {
  const auto smaller = [](auto have, auto most) { return most > 0 ? std::min(have, most) : have; };
  Device device = *this;
  DeviceLimits& mine = device.limits_;
  mine.compute_capability = smaller(mine.compute_capability, limits.compute_capability);
  mine.num_multiprocessors = smaller(mine.num_multiprocessors, limits.num_multiprocessors);
  mine.shared_bytes_per_block = smaller(mine.shared_bytes_per_block, limits.shared_bytes_per_block);
  mine.l2_bytes = smaller(mine.l2_bytes, limits.l2_bytes);
  mine.memory_bytes = smaller(mine.memory_bytes, limits.memory_bytes);
  return device;
}

}  // namespace fathom
