// Roof: what this machine can do at most, measured beside the op and not looked up.
#pragma once

#include <cstdint>
#include <vector>

namespace fathom::harness {

/// Bytes of the last-level cache; 32 MiB where the system does not say.
std::int64_t cache_bytes() noexcept;

/// Two loops on `num_threads` threads: reading a buffer that no cache holds, and f32 multiply-adds in registers.
class RoofMeter {
 public:
  explicit RoofMeter(int num_threads);

  double read_bytes_per_second();
  double operations_per_second();

 private:
  int num_threads_;
  std::vector<std::uint64_t> buffer_;
};

}  // namespace fathom::harness
