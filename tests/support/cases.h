// How many cases a test has checked: scripts/run_tests.sh adds them up by class (docs/guide/reliability.md).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace fathom::test {

/// A test that says nothing counts as one case.
inline void count_cases(std::int64_t count) { testing::Test::RecordProperty("cases", std::to_string(count)); }

}  // namespace fathom::test
