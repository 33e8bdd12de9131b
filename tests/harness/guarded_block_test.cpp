// Canaries see a single byte on either side; the checksum sees a single bit.
#include "harness/guarded_block.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace fathom::harness {
namespace {

TEST(GuardedBlock, IsAlignedFilledAndWhole) {
  for (const std::int64_t bytes : {0, 1, 63, 4096, 100000}) {
    const GuardedBlock block(bytes, std::byte{0xa5});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 64, 0u);
    EXPECT_EQ(block.size(), bytes);
    for (const std::byte byte : block.bytes()) ASSERT_EQ(byte, std::byte{0xa5});
    EXPECT_EQ(block.broken_side(), nullptr) << bytes;
  }
}

TEST(GuardedBlock, SeesAnyByteOfTheCanaries) {
  for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{1}, GuardedBlock::kCanaryBytes - 1}) {
    GuardedBlock after(100), before(100);
    after.data()[100 + offset] ^= std::byte{1};
    before.data()[-1 - offset] ^= std::byte{1};
    EXPECT_STREQ(after.broken_side(), "after") << offset;
    EXPECT_STREQ(before.broken_side(), "before") << offset;
  }
}

TEST(GuardedBlock, ARunOfEqualBytesCannotLookWhole) {
  for (int value = 0; value < 256; ++value) {
    GuardedBlock block(8);
    for (int i = 0; i < 4; ++i) block.data()[8 + i] = static_cast<std::byte>(value);
    EXPECT_NE(block.broken_side(), nullptr) << value;
  }
}

TEST(GuardedBlock, ChecksumSeesEveryByte) {
  for (const std::int64_t bytes : {1, 8, 13, 64}) {
    const GuardedBlock block(bytes, std::byte{7});
    const std::uint64_t sum = block.checksum();
    for (std::int64_t i = 0; i < bytes; ++i) {
      block.data()[i] ^= std::byte{0x10};
      EXPECT_NE(block.checksum(), sum) << bytes << " " << i;
      block.data()[i] ^= std::byte{0x10};
    }
    EXPECT_EQ(block.checksum(), sum);
  }
}

}  // namespace
}  // namespace fathom::harness
