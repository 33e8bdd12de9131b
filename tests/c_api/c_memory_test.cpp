// Memory on a device through the C interface: on the CPU here, on a GPU where there is one.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "fathom/c/fathom.h"

namespace {

struct Owner {
  fathom_device* device = nullptr;
  fathom_memory* memory = nullptr;
  ~Owner() {
    fathom_memory_destroy(memory);
    fathom_device_destroy(device);
  }
};

void bytes_make_the_trip(const char* name) {
  Owner owner;
  fathom_status status;
  ASSERT_EQ(fathom_device_create(name, 1, &owner.device, &status), FATHOM_OK) << status.text;
  ASSERT_EQ(fathom_memory_create(owner.device, 3000, &owner.memory, &status), FATHOM_OK) << status.text;
  void* data = fathom_memory_data(owner.memory);
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % FATHOM_WORKSPACE_ALIGNMENT, 0u);
  std::vector<unsigned char> there(3000), back(3000, 0xAA);
  for (std::size_t i = 0; i < there.size(); ++i) there[i] = static_cast<unsigned char>(i * 7);
  ASSERT_EQ(fathom_copy(owner.device, data, there.data(), 3000, nullptr, &status), FATHOM_OK) << status.text;
  ASSERT_EQ(fathom_copy(owner.device, back.data(), data, 2999, nullptr, &status), FATHOM_OK) << status.text;
  ASSERT_EQ(fathom_synchronize(owner.device, nullptr, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(std::memcmp(back.data(), there.data(), 2999), 0);
  EXPECT_EQ(back[2999], 0xAA);
  EXPECT_EQ(fathom_copy(owner.device, nullptr, nullptr, 0, nullptr, &status), FATHOM_OK) << status.text;
}

TEST(CMemory, BytesMakeTheTrip) { bytes_make_the_trip("cpu"); }

TEST(CMemory, BytesMakeTheTripToAGpu) {
  if (fathom_cuda_count() == 0) GTEST_SKIP() << "there is no GPU";
  bytes_make_the_trip("cuda:0");
}

TEST(CMemory, WrongCallsChangeNothing) {
  Owner owner;
  fathom_status status;
  ASSERT_EQ(fathom_device_create("cpu", 1, &owner.device, &status), FATHOM_OK) << status.text;
  fathom_memory* untouched = nullptr;
  EXPECT_EQ(fathom_memory_create(nullptr, 8, &untouched, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(std::string(status.text).find("device is NULL"), std::string::npos) << status.text;
  EXPECT_EQ(fathom_memory_create(owner.device, 8, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_memory_create(owner.device, -1, &untouched, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(untouched, nullptr);
  EXPECT_EQ(fathom_memory_data(nullptr), nullptr);
  fathom_memory_destroy(nullptr);

  char here[4] = "abc", there[4] = "xyz";
  EXPECT_EQ(fathom_copy(nullptr, there, here, 4, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_copy(owner.device, nullptr, here, 4, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_copy(owner.device, there, nullptr, 4, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_copy(owner.device, there, here, -4, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_STREQ(there, "xyz");
  EXPECT_EQ(fathom_synchronize(nullptr, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_synchronize(owner.device, nullptr, nullptr), FATHOM_OK);

  ASSERT_EQ(fathom_memory_create(owner.device, 0, &owner.memory, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(fathom_memory_data(owner.memory), nullptr);
}

}  // namespace
