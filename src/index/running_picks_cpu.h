// The best scores of a row on the CPU: RunningPicks holds them while the row goes by block after block, keep_best
// selects, emit_ascending puts them in order. All are linear in what they are given, and exact.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "index/top_entries.h"

namespace fathom {

/// Leaves the best `topk` keys first, the worst of them last, and returns how many there are.
std::int64_t keep_best(std::uint64_t* keys, std::int64_t count, std::int64_t topk) noexcept;

/// Words of a set of numbers below `numbers`.
constexpr std::int64_t set_words(std::int64_t numbers) noexcept { return (numbers + 63) / 64; }
/// Puts the entries of `count` keys, all below `numbers`, into `picks`, ascending; -1 fills the rest of `topk`. `words`
/// is scratch of set_words(numbers).
void emit_ascending(const std::uint64_t* keys, std::int64_t count, std::int64_t numbers, std::uint64_t* words,
                    std::int64_t topk, std::int32_t* picks) noexcept;

/// Scores that can no longer be among the best are dropped while they are still in a register, by one comparison with
/// the worst of those that are held.
class RunningPicks {
 public:
  static constexpr std::int64_t kBlock = 1024;  ///< scores taken at a time, at most
  /// Keys to have room for. Pruning at twice the number kept costs each key a constant.
  static constexpr std::int64_t room(std::int64_t topk) noexcept { return 2 * topk + kBlock; }

  /// `keys` has room(topk) of them, or as many as there are scores.
  RunningPicks(std::uint64_t* keys, std::int64_t topk) noexcept : keys_(keys), topk_(topk) {}

  /// Takes the scores of entries[0], entries[1], ..., or without these of first, first + 1, ... Entries rise from call
  /// to call, so that an equal score that comes later is no better. above() is that of simd::Loops.
  template <class Above>
  void take(Above&& above, const float* scores, std::int64_t count, std::int32_t first,
            const std::int32_t* entries = nullptr) noexcept {
    std::int32_t which[kBlock];
    const std::int64_t found = above(scores, count, cut_, which);
    for (std::int64_t i = 0; i < found; ++i) {
      const std::int32_t entry = entries == nullptr ? first + which[i] : entries[which[i]];
      keys_[count_++] = pick_key(scores[which[i]], static_cast<std::uint32_t>(entry));
    }
    if (count_ < 2 * topk_) return;
    count_ = keep_best(keys_, count_, topk_);
    cut_ = score_of(static_cast<std::uint32_t>(keys_[topk_ - 1] >> 32));
  }
  /// Leaves the best keys, in no order, and returns how many.
  std::int64_t finish() noexcept { return count_ = keep_best(keys_, count_, topk_); }

 private:
  std::uint64_t* keys_;
  std::int64_t topk_, count_ = 0;
  float cut_ = std::numeric_limits<float>::quiet_NaN();  ///< the worst score held; nothing is below a NaN
};

}  // namespace fathom
