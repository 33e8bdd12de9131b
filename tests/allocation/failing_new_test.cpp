// The failing operator new itself: it must fail when told to, and leaks must show.
#include "allocation/failing_new.h"

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace fathom::test {

Allocations allocations;

namespace {

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (allocations.left.load(std::memory_order_relaxed) >= 0 && allocations.left.fetch_sub(1) == 0) return nullptr;
  const std::size_t size = bytes == 0 ? 1 : bytes;
  void* memory = alignment == 0 ? std::malloc(size)
                                : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) return nullptr;
  ++allocations.live;
  ++allocations.count;
  return memory;
}

void* allocate_or_throw(std::size_t bytes, std::size_t alignment) {
  void* memory = allocate(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void release(void* memory) {
  if (memory != nullptr) --allocations.live;
  std::free(memory);
}

}  // namespace
}  // namespace fathom::test

// The array forms of the standard library come through these.
void* operator new(std::size_t bytes) { return fathom::test::allocate_or_throw(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return fathom::test::allocate_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  void* memory = fathom::test::allocate(bytes, 0);
  if (memory == nullptr) fathom::test::allocations.nothrow = true;
  return memory;
}
void operator delete(void* memory) noexcept { fathom::test::release(memory); }
void operator delete(void* memory, std::size_t) noexcept { fathom::test::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { fathom::test::release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { fathom::test::release(memory); }

namespace fathom::test {
namespace {

TEST(FailingNew, FailsTheNthAllocationAndNoOther) {
  for (std::int64_t n = 1; n <= 4; ++n) {
    int made = 0;
    const Attempt three = attempt(n, [&made] {
      return guarded("three", [&made]() -> Status {
        for (int i = 0; i < 3; ++i, ++made) auto number = std::make_unique<std::vector<int>>();
        return {};
      });
    });
    EXPECT_EQ(three.failed_one, n <= 3);
    EXPECT_EQ(three.status.ok(), n > 3);
    EXPECT_EQ(made, n <= 3 ? n - 1 : 3);
    EXPECT_EQ(three.leaked, 0);
  }
}

TEST(FailingNew, SeesWhatACallLeavesBehind) {
  std::vector<int*> kept;
  kept.reserve(1);
  EXPECT_EQ(attempt(1000, [&kept] { return kept.push_back(new int(1)), Status(); }).leaked, 1);
  EXPECT_EQ(attempt(1000, [&kept] { return delete kept.front(), Status(); }).leaked, -1);
}

}  // namespace
}  // namespace fathom::test
