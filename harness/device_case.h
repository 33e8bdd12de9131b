// DeviceCase: a case's arguments behind each other in one piece of a device's memory.
#pragma once

#include <optional>

#include "fathom/core/memory.h"
#include "harness/run.h"

namespace fathom::harness {

class DeviceCase {
 public:
  /// Room for the case, with its inputs in it and pure outputs poisoned, or left as memory came.
  static Result<DeviceCase> create(const OpCase& built, const Device& device, std::optional<std::byte> poison = kPoisons[0]);
  /// Another piece of memory with the same bytes.
  Result<DeviceCase> copy() const;

  /// Overwrites everything as create did; `built` has the shapes of the case that was created.
  Status fill(const OpCase& built, std::optional<std::byte> poison);
  /// One for each ArgSpec.
  const std::vector<TensorView>& views() const noexcept { return views_; }
  std::int64_t bytes() const noexcept { return memory_.bytes(); }
  /// Outputs and caches in host memory, as a run of the case that can be compared.
  Result<WatchedRun> read(const OpCase& built) const;

 private:
  explicit DeviceCase(const Device& device) : device_(device) {}
  void place(std::byte* at);

  Device device_;
  DeviceMemory memory_;
  std::vector<TensorView> views_;
  std::vector<std::int64_t> offsets_;  ///< of each argument's block in the memory
  std::vector<std::int64_t> inside_;   ///< of each view's data in its block
};

}  // namespace fathom::harness
