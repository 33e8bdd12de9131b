// The harness's own reading of shapes agrees with the library's: run_op accepts what the generators allocate, and these
// are the corners no case reaches.
#include "harness/extents.h"

#include <gtest/gtest.h>

#include "fathom/linear.h"

namespace fathom::harness {
namespace {

struct Reader : testing::Test {
  const OpSpec& op = *find_op("linear");
  LinearProblem problem{.num_tokens = 5, .in_dim = 300, .out_dim = 131, .groups = 3, .weight_dtype = DType::e4m3};

  std::vector<std::int64_t> shape(const char* text, const Extents& extents = {}) {
    const ArgSpec spec{0, Role::in, "x", text, "f32", ""};
    const auto result = resolve_shape(op, &problem, spec, extents);
    return result.ok() ? result.value() : std::vector<std::int64_t>{};
  }
};

TEST_F(Reader, ProductsQuotientsAndSums) {
  EXPECT_EQ(shape("num_tokens groups*in_dim"), (std::vector<std::int64_t>{5, 900}));
  EXPECT_EQ(shape("groups*out_dim/128 in_dim/128"), (std::vector<std::int64_t>{4, 3}));
  EXPECT_EQ(shape("num_tokens+1 7"), (std::vector<std::int64_t>{6, 7}));
  EXPECT_EQ(shape("pages 4*pages/3+2", {{"pages", 10}}), (std::vector<std::int64_t>{10, 16}));
}

TEST_F(Reader, GivenExtentsPassBeforeTheProblems) {
  EXPECT_EQ(shape("num_tokens", {{"num_tokens", 2}}), (std::vector<std::int64_t>{2}));
  EXPECT_EQ(shape("num_tokens", {{"num_tokens", 0}}), (std::vector<std::int64_t>{0}));
}

TEST_F(Reader, AWordWithoutValueIsNamed) {
  const ArgSpec spec{0, Role::in, "x", "num_tokens pages", "f32", ""};
  const auto result = resolve_shape(op, &problem, spec, {});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(std::string(result.status().text()).find("\"pages\""), std::string::npos);
}

TEST_F(Reader, Dtypes) {
  const ArgSpec spec{0, Role::in, "x", "num_tokens", "f32|$weight_dtype|i64", ""};
  EXPECT_EQ(allowed_dtypes(op, &problem, spec), (std::vector<DType>{DType::f32, DType::e4m3, DType::i64}));
}

}  // namespace
}  // namespace fathom::harness
