// GuardedBlock: bytes with 4 KiB of canary on both sides, so that a write past either end is seen after the run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace fathom::harness {

class GuardedBlock {
 public:
  static constexpr std::int64_t kCanaryBytes = 4096;
  static constexpr std::size_t kAlignment = 4096;

  GuardedBlock() = default;
  /// `bytes` bytes, each `fill`; the address is aligned to kAlignment.
  explicit GuardedBlock(std::int64_t bytes, std::byte fill = std::byte{0});

  std::byte* data() const noexcept { return memory_ ? memory_.get() + kCanaryBytes : nullptr; }
  std::int64_t size() const noexcept { return bytes_; }
  std::span<std::byte> bytes() const noexcept { return {data(), static_cast<std::size_t>(bytes_)}; }
  /// The block with both its canaries: what a copy on another device must hold, so that the checks work there too.
  std::span<std::byte> whole() const noexcept {
    return memory_ ? std::span(memory_.get(), static_cast<std::size_t>(bytes_ + 2 * kCanaryBytes)) : std::span<std::byte>();
  }
  /// Null while both canaries are whole; otherwise "before" or "after".
  const char* broken_side() const noexcept;
  /// A number that changes with any byte of the block.
  std::uint64_t checksum() const noexcept;

 private:
  struct Free {
    void operator()(std::byte* memory) const noexcept;
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::int64_t bytes_ = 0;
};

}  // namespace fathom::harness
