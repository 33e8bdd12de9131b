// operator new that fails when told to: the n-th allocation of a scenario, for every n. test_allocation alone has it,
// in failing_new_test.cpp.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "fathom/core/status.h"
#include "support/cases.h"

namespace fathom::test {

struct Allocations {
  std::atomic<std::int64_t> live{0};   ///< not freed yet
  std::atomic<std::int64_t> count{0};  ///< ever made
  std::atomic<std::int64_t> left{-1};  ///< until one fails, once; negative: none fails
  std::atomic<bool> nothrow{false};    ///< the one that failed was asked for by code that can do without it
};
extern Allocations allocations;

/// One call with its n-th allocation failing.
struct Attempt {
  Status status;
  bool failed_one = false;  ///< there was an n-th allocation
  bool nothrow = false;     ///< whoever made it does without it (std::stable_sort's buffer)
  std::int64_t leaked = 0;  ///< allocations that the call left behind
};
template <class Call>
Attempt attempt(std::int64_t n, Call&& call) {
  Attempt made;
  const std::int64_t live = allocations.live;
  allocations.nothrow = false;
  allocations.left = n - 1;
  made.status = call();
  made.failed_one = allocations.left.exchange(-1) < 0;
  made.nothrow = allocations.nothrow;
  made.leaked = allocations.live - live;
  return made;
}

/// Fails the 1st, 2nd, ... allocation of `call` until it has no further one; `check(n)` runs after every failed
/// attempt. The call must free all it makes. Returns how many allocations were failed.
/// With `sparsely` n grows by a quarter each time: for calls of very many equal allocations.
template <class Call, class Check>
std::int64_t fail_every(const std::string& what, Call&& call, Check&& check, bool sparsely = false) {
  // Tables that are built on first use are no leaks of the calls that come later.
  const Status warm = call();
  EXPECT_TRUE(warm.ok()) << what << ": " << warm.text();
  if (!warm.ok()) return 0;
  std::int64_t failed = 0;
  for (std::int64_t n = 1;; n += sparsely ? 1 + n / 4 : 1) {
    const Attempt made = attempt(n, call);
    EXPECT_EQ(made.leaked, 0) << what << ": allocation " << n << " failed and " << made.leaked
                              << " others were left behind";
    if (!made.failed_one) {
      EXPECT_TRUE(made.status.ok()) << what << ": " << made.status.text();
      return failed;
    }
    ++failed;
    if (made.nothrow && made.status.ok()) continue;
    EXPECT_EQ(made.status.code(), StatusCode::resource_exhausted)
        << what << ": allocation " << n << " failed, the status is " << name_of(made.status.code()) << " \""
        << made.status.text() << "\"";
    EXPECT_STRNE(made.status.text(), "") << what;
    check(n);
    if (testing::Test::HasFailure()) return failed;  // the first one says enough
  }
}
template <class Call>
std::int64_t fail_every(const std::string& what, Call&& call) {
  return fail_every(what, std::forward<Call>(call), [](std::int64_t) {});
}

}  // namespace fathom::test
