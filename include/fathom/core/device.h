// Device: where an op runs, and with how many threads.
#pragma once

#include <cstdint>
#include <memory>

#include "fathom/core/status.h"
#include "fathom/core/tensor.h"

namespace fathom FATHOM_PUBLIC {

namespace detail {
struct ThreadArena;
}

/// A place to run. Cheap to copy; copies share one thread arena. A Device must outlive no plan: plans keep a copy.
class Device {
 public:
  /// The machine's processors. `num_threads` = 0 takes every hardware thread this process may use.
  static Result<Device> cpu(int num_threads = 0) noexcept;

  DeviceKind kind() const noexcept { return kind_; }
  int index() const noexcept { return index_; }
  int num_threads() const noexcept { return num_threads_; }
  /// The threads behind parallel_for (src/core/parallel.h).
  detail::ThreadArena* arena() const noexcept { return arena_.get(); }

 private:
  Device() = default;
  DeviceKind kind_ = DeviceKind::cpu;
  int index_ = 0;
  int num_threads_ = 1;
  std::shared_ptr<detail::ThreadArena> arena_;
};

/// A CUDA stream as an opaque handle (cudaStream_t); null on the CPU, where ops run before they return.
struct Stream {
  void* handle = nullptr;
};

}  // namespace fathom
