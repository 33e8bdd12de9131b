#include "fathom/core/status.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace fathom {
namespace {

TEST(Status, OkCarriesNoText) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_STREQ(status.text(), "");
}

TEST(Status, TextIsFormattedAndCutToTheBuffer) {
  EXPECT_STREQ(Status::invalid("attend: q has %d heads", 3).text(), "attend: q has 3 heads");
  EXPECT_EQ(Status::unsupported("x").code(), StatusCode::unsupported);
  const std::string longer(5000, 'y');
  EXPECT_EQ(std::string(Status::exhausted("%s", longer.c_str()).text()).size(), Status::kTextBytes - 1);
  EXPECT_EQ(std::string(Status::make(StatusCode::device_error, longer).text()).size(), Status::kTextBytes - 1);
}

TEST(Status, CopiesAndSelfAssignment) {
  Status status = Status::invalid("first");
  const Status copy = status;
  status = Status();
  EXPECT_TRUE(status.ok());
  EXPECT_STREQ(copy.text(), "first");
  Status& same = status;
  status = copy;
  status = same;
  EXPECT_STREQ(status.text(), "first");
}

TEST(Guarded, TurnsExceptionsIntoStatuses) {
  const auto failing = [](auto thrown) {
    return guarded("op", [&]() -> Status { throw thrown; });
  };
  EXPECT_EQ(failing(std::bad_alloc()).code(), StatusCode::resource_exhausted);
  EXPECT_STREQ(failing(std::bad_alloc()).text(), "op: out of host memory");
  EXPECT_STREQ(failing(std::runtime_error("why")).text(), "op: why");
  EXPECT_EQ(failing(7).code(), StatusCode::device_error);
}

Result<int> half(int value) {
  if (value % 2 != 0) return Status::invalid("half: %d is odd", value);
  return value / 2;
}
Status quarter(int value, int& out) {
  FATHOM_ASSIGN(const int once, half(value));
  FATHOM_ASSIGN(out, half(once));
  return {};
}

TEST(Result, TheFirstFailureReturns) {
  int out = -1;
  EXPECT_TRUE(quarter(12, out).ok());
  EXPECT_EQ(out, 3);
  EXPECT_STREQ(quarter(6, out).text(), "half: 3 is odd");
  EXPECT_EQ(out, 3);
}

}  // namespace
}  // namespace fathom
