#include "fathom/core/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "support/cuda.h"

namespace fathom {
namespace {

Device host() { return Device::cpu(1).value(); }

void keeps_what_it_is_given(const Device& device) {
  constexpr std::int64_t kBytes = 1000;
  const auto memory = DeviceMemory::allocate(device, kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status().text();
  EXPECT_EQ(memory->bytes(), kBytes);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data()) % 256, 0u);
  std::vector<std::byte> sent(kBytes), got(kBytes);
  for (std::int64_t i = 0; i < kBytes; ++i) sent[i] = static_cast<std::byte>(i * 7);
  ASSERT_TRUE(copy_bytes(device, memory->data(), sent.data(), kBytes).ok());
  ASSERT_TRUE(fill_bytes(device, memory->data() + 10, std::byte{0xa5}, 5).ok());
  ASSERT_TRUE(copy_bytes(device, got.data(), memory->data(), kBytes).ok());
  ASSERT_TRUE(synchronize(device).ok());
  std::fill_n(sent.begin() + 10, 5, std::byte{0xa5});
  EXPECT_EQ(got, sent);
}

TEST(DeviceMemory, KeepsWhatItIsGiven) { keeps_what_it_is_given(host()); }

TEST(DeviceMemory, KeepsWhatItIsGivenOnAGpu) {
  FATHOM_NEEDS_CUDA(device);
  keeps_what_it_is_given(device);
}

TEST(DeviceMemory, NothingIsASizeAndLessIsNot) {
  const auto nothing = DeviceMemory::allocate(host(), 0);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->bytes(), 0);
  EXPECT_TRUE(copy_bytes(host(), nullptr, nullptr, 0).ok());
  EXPECT_TRUE(fill_bytes(host(), nullptr, std::byte{1}, 0).ok());
  EXPECT_EQ(DeviceMemory::allocate(host(), -1).status().code(), StatusCode::invalid_argument);
  EXPECT_EQ(copy_bytes(host(), nullptr, nullptr, -1).code(), StatusCode::invalid_argument);
  EXPECT_EQ(fill_bytes(host(), nullptr, std::byte{1}, -1).code(), StatusCode::invalid_argument);
}

TEST(DeviceMemory, MovesWithItsBytes) {
  DeviceMemory first = DeviceMemory::allocate(host(), 64).value(), second = DeviceMemory::allocate(host(), 32).value();
  std::byte* const data = first.data();
  second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.bytes(), 64);
  const DeviceMemory third(std::move(second));
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(second.data(), nullptr);  // NOLINT: what a moved-from object holds is promised
  EXPECT_EQ(second.bytes(), 0);
}

TEST(DeviceMemory, MoreThanThereIsIsExhausted) {
  FATHOM_NEEDS_CUDA(device);
  EXPECT_EQ(DeviceMemory::allocate(device, std::int64_t{1} << 50).status().code(), StatusCode::resource_exhausted);
}

TEST(CudaDevice, SaysWhyThereIsNone) {
  if (Device::cuda_count() > 0) {
    EXPECT_EQ(Device::cuda(Device::cuda_count()).status().code(), StatusCode::invalid_argument);
    EXPECT_EQ(Device::cuda(-1).status().code(), StatusCode::invalid_argument);
  } else {
    EXPECT_EQ(Device::cuda().status().code(), StatusCode::unsupported);
    EXPECT_STRNE(Device::cuda().status().text(), "");
  }
}

}  // namespace
}  // namespace fathom
