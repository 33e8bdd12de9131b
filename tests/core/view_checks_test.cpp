// check_strides and check_memory at their edges, and names of bytes that are no enumerator.
#include "core/view_checks.h"

#include <gtest/gtest.h>

#include <limits>

#include "fathom/core/op.h"

namespace fathom {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max(), kLeast = std::numeric_limits<std::int64_t>::min();

TEST(CheckStrides, TakesUpTo2To56Elements) {
  const auto ok = [](std::int64_t extent, std::int64_t stride) {
    const std::int64_t shape[] = {extent, 1}, strides[] = {stride, 1};
    return check_strides("call", "x", shape, strides).ok();
  };
  constexpr std::int64_t kSpan = std::int64_t{1} << 56;
  EXPECT_TRUE(ok(2, kSpan - 1));
  EXPECT_FALSE(ok(2, kSpan));
  EXPECT_TRUE(ok(kSpan, 1));
  EXPECT_FALSE(ok(kSpan + 1, 1));
  EXPECT_FALSE(ok(3, kMost));
  EXPECT_FALSE(ok(kMost, kMost));
  EXPECT_FALSE(ok(2, -1));
  EXPECT_FALSE(ok(2, kLeast));
  EXPECT_TRUE(ok(1, kMost));  // never taken
  EXPECT_TRUE(ok(0, kMost));
  EXPECT_TRUE(ok(kMost, 0));
}

TEST(CheckMemory, NamesTheSlip) {
  alignas(8) float data[16] = {};
  TensorView rows = view(data, DType::f32, {4, 4});
  EXPECT_TRUE(check_memory("call", "x", rows, true).ok());
  rows.strides[0] = 0;
  EXPECT_TRUE(check_memory("call", "x", rows, false).ok());
  EXPECT_STREQ(check_memory("call", "x", rows, true).text(), "call: x is written but its stride 0 in dimension 0 folds elements onto each other");
  rows.shape = {kMost, kMost};  // their product does not fit
  rows.strides = {0, 0};
  EXPECT_TRUE(check_memory("call", "x", rows, false).ok());
  rows.data = nullptr;
  EXPECT_STREQ(check_memory("call", "x", rows, false).text(), "call: x has no data");
  rows.shape[1] = 0;
  EXPECT_TRUE(check_memory("call", "x", rows, false).ok());
  const TensorView askew = view(reinterpret_cast<std::byte*>(data) + 4, DType::i64, {1});
  EXPECT_STREQ(check_memory("call", "x", askew, false).text(), "call: x is not aligned to its 8-byte elements");
  EXPECT_TRUE(check_memory("call", "x", view(reinterpret_cast<std::byte*>(data) + 1, DType::e2m1x2, {4}), true).ok());
}

TEST(Names, OfBytesThatNameNothing) {
  for (const int byte : {kDTypeCount, 99, 255}) {
    EXPECT_STREQ(name_of(static_cast<DType>(byte)), "?") << byte;
    EXPECT_EQ(bits_of(static_cast<DType>(byte)), 0) << byte;
    EXPECT_STREQ(name_of(static_cast<DeviceKind>(byte)), "?") << byte;
    EXPECT_STREQ(name_of(static_cast<Role>(byte)), "?") << byte;
    EXPECT_STREQ(name_of(static_cast<Numerics>(byte)), "?") << byte;
  }
  EXPECT_STREQ(name_of(DType::u8), "u8");
  EXPECT_STREQ(name_of(DeviceKind::cuda), "cuda");
  EXPECT_STREQ(name_of(Role::optional_inout), "optional inout");
  EXPECT_STREQ(name_of(Numerics::served), "served");
}

}  // namespace
}  // namespace fathom
