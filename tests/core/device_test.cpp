#include "fathom/core/device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "core/parallel.h"

namespace fathom {
namespace {

TEST(Device, ThreadCountsAreCheckedAndKept) {
  EXPECT_GE(Device::cpu().value().num_threads(), 1);
  EXPECT_EQ(Device::cpu(3).value().num_threads(), 3);
  EXPECT_STREQ(Device::cpu(-1).status().text(), "device: num_threads is -1, expected 0 (all) to 4096");
  EXPECT_FALSE(Device::cpu(1 << 20).ok());
}

TEST(ParallelFor, EveryItemOnceAndPartsWithinTheThreads) {
  for (const int threads : {1, 2, 5}) {
    const Device device = Device::cpu(threads).value();
    for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
      for (const std::int64_t grain : {1, 3, 5000}) {
        std::vector<std::atomic<int>> seen(count);
        parallel_for(device, count, grain, [&](std::int64_t begin, std::int64_t end, int part) {
          EXPECT_GE(part, 0);
          EXPECT_LT(part, threads);
          for (std::int64_t i = begin; i < end; ++i) ++seen[i];
        });
        for (const auto& times : seen) EXPECT_EQ(times.load(), 1);
      }
    }
  }
}

TEST(ParallelFor, TheSplitDependsOnSizesOnly) {
  const Device device = Device::cpu(4).value();
  std::vector<std::int64_t> first(4, -1), second(4, -1);
  for (auto* begins : {&first, &second}) {
    parallel_for(device, 101, 1, [&](std::int64_t begin, std::int64_t, int part) { (*begins)[part] = begin; });
  }
  EXPECT_EQ(first, second);
  EXPECT_EQ(first, (std::vector<std::int64_t>{0, 25, 50, 75}));
}

}  // namespace
}  // namespace fathom
