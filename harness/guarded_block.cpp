// The canary pattern depends on the position, so that a run of equal bytes written over it cannot look whole.
#include "harness/guarded_block.h"

#include <cstring>
#include <new>

namespace fathom::harness {
namespace {

std::byte canary_at(std::int64_t i) noexcept { return static_cast<std::byte>(0x5a ^ (i * 167 + (i >> 8))); }

}  // namespace

void GuardedBlock::Free::operator()(std::byte* memory) const noexcept {
  ::operator delete (memory, std::align_val_t{kAlignment});
}

GuardedBlock::GuardedBlock(std::int64_t bytes, std::byte fill) : bytes_(bytes) {
  const auto total = static_cast<std::size_t>(bytes + 2 * kCanaryBytes);
  memory_.reset(static_cast<std::byte*>(::operator new (total, std::align_val_t{kAlignment})));
  for (std::int64_t i = 0; i < kCanaryBytes; ++i) {
    memory_.get()[i] = canary_at(i);
    data()[bytes + i] = canary_at(i);
  }
  std::memset(data(), static_cast<int>(fill), static_cast<std::size_t>(bytes));
}

const char* GuardedBlock::broken_side() const noexcept {
  if (!memory_) return nullptr;
  for (std::int64_t i = 0; i < kCanaryBytes; ++i) {
    if (memory_.get()[i] != canary_at(i)) return "before";
  }
  for (std::int64_t i = 0; i < kCanaryBytes; ++i) {
    if (data()[bytes_ + i] != canary_at(i)) return "after";
  }
  return nullptr;
}

std::uint64_t GuardedBlock::checksum() const noexcept {
  std::uint64_t sum = 0xcbf29ce484222325u;
  std::int64_t i = 0;
  for (; i + 8 <= bytes_; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, data() + i, 8);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    sum ^= sum >> 29;
  }
  for (; i < bytes_; ++i) sum = (sum ^ static_cast<std::uint64_t>(data()[i])) * 0x100000001b3u;
  return sum;
}

}  // namespace fathom::harness
