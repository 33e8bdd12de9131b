// What the harness needs of a GPU beside the library: streams, graphs, and the roof. Without CUDA every call says so
// (gpu_without_cuda.cpp).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "fathom/core/device.h"

namespace fathom::harness {

/// A stream of its own, which waits for no other.
class GpuStream {
 public:
  static Result<GpuStream> create(const Device& device);
  GpuStream(GpuStream&& other) noexcept;
  ~GpuStream();

  Stream get() const noexcept { return stream_; }

 private:
  explicit GpuStream(Stream stream) noexcept : stream_(stream) {}
  Stream stream_;
};

/// Work that was captured once, to be replayed often. What the work reads and writes must still be there.
class GpuGraph {
 public:
  /// What is captured: everything that `work` gives to the stream. `mark` puts a time mark between two pieces of it.
  using Work = std::function<Status(Stream stream, const std::function<Status()>& mark)>;
  static Result<GpuGraph> capture(const Device& device, const Work& work);
  GpuGraph(GpuGraph&&) noexcept;
  ~GpuGraph();

  /// Replays once, waits, and returns the seconds between events before and after.
  Result<double> replay() const;
  /// Seconds from each mark to the next in the last replay.
  Result<std::vector<double>> between_marks() const;

 private:
  struct Impl;
  explicit GpuGraph(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

/// What the GPU can do at most: reading a buffer that no cache holds, and bf16 products on the tensor cores by mma.sync,
/// on random data, which draw the power that real ones draw.
class GpuRoof {
 public:
  static constexpr const char* kArithmetic = "bf16 mma.sync on random data";

  static Result<GpuRoof> create(const Device& device);
  GpuRoof(GpuRoof&&) noexcept;
  ~GpuRoof();

  Result<double> read_bytes_per_second();
  Result<double> operations_per_second();
  /// The multiprocessors' clock during the last products.
  double clock_hz() const noexcept;

 private:
  struct Impl;
  explicit GpuRoof(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::harness
