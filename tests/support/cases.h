// Tests over all ops, and how many cases a test has checked: scripts/run_tests.sh adds them up by class
// (docs/guide/reliability.md).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "fathom/fathom.h"

namespace fathom::test {

/// A test that says nothing counts as one case.
inline void count_cases(std::int64_t count) { testing::Test::RecordProperty("cases", std::to_string(count)); }

/// An op as a test's parameter.
struct OpName {
  const char* name;
};
inline void PrintTo(const OpName& op, std::ostream* out) { *out << op.name; }
inline std::vector<OpName> op_names() {
  std::vector<OpName> names;
  for (const OpSpec* op : op_table()) names.push_back({op->name});
  return names;
}

}  // namespace fathom::test
