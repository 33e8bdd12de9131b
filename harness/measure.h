// measure: one case timed beside the machine's roof, in turns, over inputs that no cache holds. On a GPU: measure_cuda.cpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/plan.h"
#include "harness/costs.h"
#include "harness/gpu.h"
#include "harness/roof.h"

namespace fathom::harness {

struct Spread {
  double median = 0;
  double low = 0;   ///< 10th percentile
  double high = 0;  ///< 90th percentile
};
/// Of at least one value.
Spread spread_of(std::vector<double> values);

struct MeasureOptions {
  int alternations = 7;              ///< roof, op, roof, op ...; at least 5, on a GPU 15
  double seconds_per_sample = 0.03;  ///< runs are repeated until a sample lasts this long
  std::string implementation;        ///< forced; empty: the plan's choice
};

struct Measurement {
  std::string op, text, implementation;
  Spread seconds;  ///< of one run
  Spread roof_bytes_per_second;
  Spread roof_operations_per_second;
  Cost cost;
  int copies = 0;  ///< of the inputs, rotated so that each run finds them outside the caches
  int runs = 0;    ///< timed ones
  std::string roof_arithmetic;  ///< what roof_operations_per_second counts
  double clock_hz = 0;                                ///< of a GPU at work; 0 where it is not known

  double bytes_per_second() const noexcept { return cost.bytes() / seconds.median; }
  double operations_per_second() const noexcept { return cost.operations / seconds.median; }
  /// The time the roof allows over the time taken.
  double share_of_roof() const noexcept;
  /// True if the bytes, not the arithmetic, set that time.
  bool is_bound_by_memory() const noexcept;
};

Result<Measurement> measure(std::string_view op, std::string_view text, const Device& device, RoofMeter& roof,
                            const MeasureOptions& options);
/// The same on a GPU: graphs of at least 20 calls, or of a few long ones, over rotated copies; the median of at least 15
/// replays by events, with nothing taken off.
Result<Measurement> measure(std::string_view op, std::string_view text, const Device& device, GpuRoof& roof,
                            const MeasureOptions& options);

}  // namespace fathom::harness
