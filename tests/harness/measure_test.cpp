// The arithmetic of the bench. Nothing here asserts how fast anything is.
#include "harness/measure.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <system_error>

namespace fathom::harness {
namespace {

TEST(Spread, MedianAndPercentiles) {
  EXPECT_EQ(spread_of({3}).median, 3);
  EXPECT_EQ(spread_of({3, 1}).median, 2);
  EXPECT_EQ(spread_of({5, 1, 3}).median, 3);
  const Spread spread = spread_of({9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10});
  EXPECT_EQ(spread.median, 5);
  EXPECT_EQ(spread.low, 1);
  EXPECT_EQ(spread.high, 9);
}

TEST(Measurement, TheNarrowerRoofBinds) {
  Measurement m;
  m.seconds = {2, 2, 2};
  m.roof_bytes_per_second = {100, 100, 100};
  m.roof_operations_per_second = {1000, 1000, 1000};
  m.cost = {60, 40, 500};  // one second of bytes, half a second of arithmetic
  EXPECT_TRUE(m.is_bound_by_memory());
  EXPECT_DOUBLE_EQ(m.share_of_roof(), 0.5);
  EXPECT_DOUBLE_EQ(m.bytes_per_second(), 50);
  m.cost.operations = 1500;
  EXPECT_FALSE(m.is_bound_by_memory());
  EXPECT_DOUBLE_EQ(m.share_of_roof(), 0.75);
}

TEST(Measure, TimesASmallCase) {
  const auto device = Device::cpu(1);
  RoofMeter roof(1);
  MeasureOptions options;
  options.seconds_per_sample = 1e-4;
  const auto m = measure("linear", "num_tokens=1 in_dim=64 out_dim=64", device.value(), roof, options);
  ASSERT_TRUE(m.ok()) << m.status().text();
  EXPECT_GT(m->seconds.median, 0);
  EXPECT_LE(m->seconds.low, m->seconds.high);
  EXPECT_GT(m->roof_bytes_per_second.median, 0);
  EXPECT_GT(m->roof_operations_per_second.median, 0);
  EXPECT_GE(m->copies, 1);
  EXPECT_GE(m->runs, 5);
  EXPECT_EQ(m->cost.operations, 2.0 * 64 * 64);
}

TEST(Measure, RefusesWhatCannotRun) {
  const auto device = Device::cpu(1);
  RoofMeter roof(1);
  EXPECT_FALSE(measure("linear", "in_dim=0", device.value(), roof, {}).ok());
  MeasureOptions options;
  options.implementation = "no_such";
  EXPECT_FALSE(measure("linear", "num_tokens=1 in_dim=64 out_dim=64", device.value(), roof, options).ok());
}

/// Ends with 0 if measuring on threads that cannot all be made is an error, and not the end of the process.
[[noreturn]] void measure_without_room() {
  RoofMeter roof(256);
  long pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const auto room = static_cast<rlim_t>(pages) * 4096 + (rlim_t{256} << 20);  // for some stacks of 8 MiB
  const rlimit limit{room, room};
  if (setrlimit(RLIMIT_AS, &limit) != 0) std::_Exit(2);
  try {
    roof.operations_per_second();
  } catch (const std::system_error&) {
    std::_Exit(0);
  }
  std::_Exit(1);
}

TEST(Roof, ThreadsThatCannotBeMadeAreAnError) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers need the address space themselves";
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  GTEST_SKIP() << "sanitizers need the address space themselves";
#endif
#endif
  EXPECT_EXIT(measure_without_room(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace fathom::harness
