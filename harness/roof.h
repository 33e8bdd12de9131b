// Roof: what this machine can do at most, measured beside the op and not looked up.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "fathom/core/plan.h"

namespace fathom::harness {

/// Bytes of the last-level cache; 32 MiB where the system does not say.
std::int64_t cache_bytes() noexcept;

/// What the arithmetic of a roof is made of, and how it is called. An implementation is held against its own instruction set.
enum class Arithmetic : std::uint8_t { widest, avx2, avx512, avx512bf16, amx };
const char* words_of(Arithmetic arithmetic) noexcept;
/// That of an implementation's name: "cpu:amx" multiplies in tiles, "cpu" with the machine's widest vectors of f32.
Arithmetic arithmetic_of(std::string_view implementation) noexcept;
/// That of the plan, or of the op below it with the fastest.
Arithmetic arithmetic_of(const AnyPlan& plan);

/// Two loops on `num_threads` threads: reading a buffer that no cache holds, and products added up in registers.
class RoofMeter {
 public:
  explicit RoofMeter(int num_threads);

  double read_bytes_per_second();
  /// Only of what the machine has: of a plan that it made, for example.
  double operations_per_second(Arithmetic arithmetic = Arithmetic::widest);

 private:
  int num_threads_;
  std::vector<std::uint64_t> buffer_;
};

}  // namespace fathom::harness
