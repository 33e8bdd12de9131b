// The selection rule of index and select_topk: largest first, ties to the smaller number, NaN last.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace fathom {

/// A score as an integer whose order is the order of picks: NaN, of either sign, below every number, -0 and 0 alike. 0 is
/// never a score's: it stands for an entry that is not there.
constexpr std::uint32_t rank_of(float score) noexcept {
  if (score != score) return 1;
  const auto bits = std::bit_cast<std::uint32_t>(score == 0.0f ? 0.0f : score);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// A score and its entry as one integer: a larger key is a better pick. Key 0 is never made from an entry.
constexpr std::uint64_t pick_key(float score, std::uint32_t entry) noexcept {
  return static_cast<std::uint64_t>(rank_of(score)) << 32 | (0xffffffffu - entry);
}
inline std::uint32_t picked_entry(std::uint64_t key) noexcept { return 0xffffffffu - static_cast<std::uint32_t>(key); }

/// Puts the entries of the best `topk` keys into `picks`, ascending, and returns how many there are. Reorders `keys`.
inline std::int64_t pick_best(std::uint64_t* keys, std::int64_t count, std::int64_t topk, std::int32_t* picks) noexcept {
  if (count > topk) {
    std::nth_element(keys, keys + topk, keys + count, [](std::uint64_t a, std::uint64_t b) { return a > b; });
    count = topk;
  }
  for (std::int64_t k = 0; k < count; ++k) picks[k] = static_cast<std::int32_t>(picked_entry(keys[k]));
  std::sort(picks, picks + count);
  return count;
}

}  // namespace fathom
