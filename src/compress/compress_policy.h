// How the pooling kernel of compress shares an entry among threads: a pure function of the problem, tested without a
// GPU.
#pragma once

#include <algorithm>
#include <bit>

#include "fathom/compress.h"

namespace fathom {

inline constexpr int kPoolThreads = 512;  ///< of a block, at most
inline constexpr int kPoolBatch = 8;      ///< rows that a thread has in flight: it pools no fewer where there are more
/// One SM reads 64 bytes a clock at best: an entry of more rows than this (HCA pools 128, 512 KiB) is read by several.
inline constexpr std::int64_t kMostRowsOfABlock = 32;
inline constexpr int kLongEntryUnits = 32;  ///< long entries: 128-byte pieces of their rows
/// Tokens whose closings one block looks for, where sequences bring several: most tokens close nothing. A warp looks.
inline constexpr std::int64_t kMostTokensOfABlock = 32;

/// A block pools `units` channels of an entry: thread (group, unit) takes every groups-th row of its channel.
struct PoolPolicy {
  int units = 1;   ///< threads across channels, a power of two
  int groups = 1;  ///< threads across rows, a power of two
  int slices = 1;  ///< blocks of an entry; the last one to finish norms and stores it

  constexpr int threads() const { return units * groups; }
  bool operator==(const PoolPolicy&) const = default;
};

constexpr PoolPolicy pool_policy(const CompressProblem& problem) {
  const auto power_of_two_from = [](std::int64_t count) {
    return static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(count)));
  };
  const std::int64_t rows = problem.state_tokens();
  PoolPolicy policy;
  policy.units = std::min(rows > kMostRowsOfABlock ? kLongEntryUnits : kPoolThreads, power_of_two_from(problem.dim));
  const int least = std::max(1, 32 / policy.units);  // a warp
  policy.groups =
      std::clamp(power_of_two_from((rows + kPoolBatch - 1) / kPoolBatch), least, kPoolThreads / policy.units);
  policy.slices = (problem.dim + policy.units - 1) / policy.units;
  return policy;
}

/// Tokens that one block looks at: one where every sequence brings one, else no more than a group, which closes once.
/// Where an entry takes several blocks, so many that the blocks of a step fit the device at once: nearly all of them
/// find nothing.
constexpr std::int64_t tokens_of_a_block(const CompressProblem& problem, const DeviceLimits& limits,
                                         std::int64_t num_tokens, std::int64_t num_seqs) {
  const PoolPolicy policy = pool_policy(problem);
  const std::int64_t per_seq = std::min<std::int64_t>(num_tokens / std::max<std::int64_t>(num_seqs, 1), problem.ratio);
  const std::int64_t at_once = std::max(1, limits.num_multiprocessors * (2 * kPoolThreads / policy.threads()));
  const std::int64_t to_fit = policy.slices > 1 ? (num_tokens * policy.slices + at_once - 1) / at_once : 1;
  return std::clamp<std::int64_t>(std::max(per_seq, to_fit), 1, kMostTokensOfABlock);
}

}  // namespace fathom
