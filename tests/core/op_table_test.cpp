#include "fathom/core/op.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/implementation.h"

namespace fathom {
namespace {

TEST(OpTable, NamesAreUniqueAndFound) {
  std::set<std::string> names;
  for (const OpSpec* op : op_table()) {
    EXPECT_TRUE(names.insert(op->name).second) << op->name;
    EXPECT_EQ(find_op(op->name), op);
  }
  EXPECT_EQ(find_op("no such op"), nullptr);
  EXPECT_EQ(find_op(""), nullptr);
}

TEST(OpTable, EveryOpEndsItsListWithADefinition) {
  for (const Op* op : ops()) {
    ASSERT_FALSE(op->implementations.empty()) << op->spec->name;
    const std::string last = op->implementations.back().name;
    // The layer is its stages; their references composed are its definition.
    EXPECT_EQ(last, std::string(op->spec->name) == "layer" ? "stages" : "reference") << op->spec->name;
  }
}

TEST(OpTable, ArgumentNamesAreUniqueWithinAnOp) {
  for (const OpSpec* op : op_table()) {
    std::set<std::string> names;
    for (const ArgSpec& arg : op->args) EXPECT_TRUE(names.insert(arg.name).second) << op->name << "." << arg.name;
  }
}

}  // namespace
}  // namespace fathom
