// DeviceMemory and the copies between places, on the CPU; tests/cuda does the same on a GPU.
#include "fathom/core/memory.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "support/sanitizer.h"

namespace fathom {
namespace {

const Device& cpu() {
  static const Device device = Device::cpu(1).value();
  return device;
}

TEST(DeviceMemory, IsAlignedAndMoves) {
  auto memory = DeviceMemory::allocate(cpu(), 1000);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(memory->bytes(), 1000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data()) % 256, 0u);
  std::byte* const data = memory->data();
  DeviceMemory moved = std::move(memory).value();
  EXPECT_EQ(moved.data(), data);
  DeviceMemory assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.data(), data);
  EXPECT_EQ(assigned.bytes(), 1000);
}

TEST(DeviceMemory, NoBytesAreASize) {
  const auto none = DeviceMemory::allocate(cpu(), 0);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->data(), nullptr);
  EXPECT_EQ(none->bytes(), 0);
}

TEST(DeviceMemory, ImpossibleSizesAreRefused) {
  EXPECT_NE(std::string(DeviceMemory::allocate(cpu(), -1).status().text()).find("bytes is -1"), std::string::npos);
}

TEST(DeviceMemory, MoreThanThereIsRunsOut) {
  if (kUnderSanitizer) GTEST_SKIP() << "the sanitizer ends the program where operator new would throw";
  EXPECT_EQ(DeviceMemory::allocate(cpu(), std::numeric_limits<std::int64_t>::max() / 2).status().code(), StatusCode::resource_exhausted);
}

TEST(CopyBytes, FillsAndCopies) {
  std::array<std::byte, 16> from{}, to{};
  ASSERT_TRUE(fill_bytes(cpu(), from.data(), std::byte{0x5a}, 15).ok());
  ASSERT_TRUE(copy_bytes(cpu(), to.data(), from.data(), 16).ok());
  EXPECT_EQ(to, from);
  EXPECT_EQ(to[14], std::byte{0x5a});
  EXPECT_EQ(to[15], std::byte{0});
  EXPECT_TRUE(synchronize(cpu()).ok());
  EXPECT_TRUE(copy_bytes(cpu(), nullptr, nullptr, 0).ok());
  EXPECT_FALSE(copy_bytes(cpu(), to.data(), from.data(), -1).ok());
  EXPECT_FALSE(fill_bytes(cpu(), to.data(), std::byte{0}, -1).ok());
}

TEST(Device, LimitsOnlyShrink) {
  const Device device = cpu().limited_to({.compute_capability = 90, .shared_bytes_per_block = 1024});
  EXPECT_EQ(device.limits(), DeviceLimits{});  // a CPU has none to shrink
  EXPECT_EQ(device.num_threads(), cpu().num_threads());
}

TEST(Device, ImpossibleGpusAreRefusedWithAReason) {
  for (const int index : {-1, 4096}) {
    const auto device = Device::cuda(index);
    ASSERT_FALSE(device.ok());
    EXPECT_NE(std::string(device.status().text()).find("device: "), std::string::npos);
  }
  EXPECT_GE(Device::cuda_count(), 0);
}

}  // namespace
}  // namespace fathom
