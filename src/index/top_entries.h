// The selection rule of index and select_topk: largest first, ties to the smaller number, NaN last.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace fathom {

/// A score as an integer whose order is the order of picks: NaN, of either sign, below every number, -0 and 0 alike. 0 is
/// never a score's: it stands for an entry that is not there.
constexpr std::uint32_t rank_of(float score) noexcept {
  if (score != score) return 1;
  const auto bits = std::bit_cast<std::uint32_t>(score == 0.0f ? 0.0f : score);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// A score of that rank; NaN of rank 1.
constexpr float score_of(std::uint32_t rank) noexcept {
  if (rank <= 1) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>((rank & 0x80000000u) != 0 ? rank & 0x7fffffffu : ~rank);
}

/// A score and its entry as one integer: a larger key is a better pick. Key 0 is never made from an entry.
constexpr std::uint64_t pick_key(float score, std::uint32_t entry) noexcept {
  return static_cast<std::uint64_t>(rank_of(score)) << 32 | (0xffffffffu - entry);
}
inline std::uint32_t picked_entry(std::uint64_t key) noexcept { return 0xffffffffu - static_cast<std::uint32_t>(key); }

}  // namespace fathom
