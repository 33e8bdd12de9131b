// Where a verb runs: what --device and --threads said.
#pragma once

#include <string>

#include "fathom/core/device.h"

namespace fathom::cli {

struct DeviceChoice {
  std::string name = "cpu";  ///< "cpu", "cuda" (the first GPU) or "cuda:N"
  int threads = 0;           ///< of the CPU; 0: all

  bool is_cuda() const noexcept { return name != "cpu"; }
  /// The device, or why it cannot be used here.
  Result<Device> open() const;
};

/// True for the words above.
bool is_device_name(const std::string& word);

/// "cpu" or "cuda:0".
std::string name_of(const Device& device);
/// "9.0" of 90.
std::string capability_text(const DeviceLimits& limits);

}  // namespace fathom::cli
