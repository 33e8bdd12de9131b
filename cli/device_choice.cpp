#include "cli/device_choice.h"

#include <charconv>
#include <string_view>

namespace fathom::cli {
namespace {

constexpr std::string_view kNumbered = "cuda:";

/// N of "cuda:N", 0 of "cuda", -1 of anything else.
int gpu_index(std::string_view word) {
  if (word == "cuda") return 0;
  if (!word.starts_with(kNumbered)) return -1;
  int index = -1;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data() + kNumbered.size(), end, index);
  return error == std::errc() && stop == end ? index : -1;
}

}  // namespace

Result<Device> DeviceChoice::open() const { return is_cuda() ? Device::cuda(gpu_index(name)) : Device::cpu(threads); }

bool is_device_name(const std::string& word) { return word == "cpu" || gpu_index(word) >= 0; }

std::string name_of(const Device& device) {
  return device.kind() == DeviceKind::cpu ? "cpu" : std::string(kNumbered) + std::to_string(device.index());
}

std::string capability_text(const DeviceLimits& limits) {
  return std::to_string(limits.compute_capability / 10) + "." + std::to_string(limits.compute_capability % 10);
}

}  // namespace fathom::cli
