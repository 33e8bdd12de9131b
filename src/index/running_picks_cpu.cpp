#include "index/running_picks_cpu.h"

namespace fathom {
namespace {

constexpr int kBinBits = 10;
constexpr auto kBetter = [](std::uint64_t a, std::uint64_t b) { return a > b; };

}  // namespace

std::int64_t keep_best(std::uint64_t* keys, std::int64_t count, std::int64_t topk) noexcept {
  if (count <= topk) {
    if (count == topk) std::iter_swap(std::min_element(keys, keys + count), keys + count - 1);
    return count;
  }
  std::uint64_t least = keys[0], most = keys[0];
  for (std::int64_t i = 1; i < count; ++i) {
    least = std::min(least, keys[i]);
    most = std::max(most, keys[i]);
  }
  // Bins of equal width between the extremes; the one that holds the cut is sorted out by comparisons.
  const int shift = std::max(64 - std::countl_zero(most - least) - kBinBits, 0);
  const auto bin_of = [&](std::uint64_t key) { return static_cast<std::int64_t>((key - least) >> shift); };
  std::int32_t bins[1 << kBinBits] = {};
  for (std::int64_t i = 0; i < count; ++i) ++bins[bin_of(keys[i])];
  std::int64_t cut = (std::int64_t{1} << kBinBits) - 1, above = 0;
  while (above + bins[cut] < topk) above += bins[cut--];
  std::int64_t in_or_above = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t key = keys[i];
    keys[in_or_above] = key;
    in_or_above += bin_of(key) >= cut;
  }
  for (std::int64_t i = 0, next = 0; next < above; ++i) {
    if (bin_of(keys[i]) > cut) std::swap(keys[next++], keys[i]);
  }
  std::nth_element(keys + above, keys + topk - 1, keys + in_or_above, kBetter);
  return topk;
}

void emit_ascending(const std::uint64_t* keys, std::int64_t count, std::int64_t numbers, std::uint64_t* words,
                    std::int64_t topk, std::int32_t* picks) noexcept {
  const std::int64_t size = set_words(numbers);
  std::fill_n(words, size, std::uint64_t{0});
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t entry = picked_entry(keys[i]);
    words[entry / 64] |= std::uint64_t{1} << entry % 64;
  }
  std::int64_t k = 0;
  for (std::int64_t w = 0; w < size; ++w) {
    for (std::uint64_t word = words[w]; word != 0; word &= word - 1) {
      picks[k++] = static_cast<std::int32_t>(w * 64 + std::countr_zero(word));
    }
  }
  std::fill(picks + k, picks + topk, -1);
}

}  // namespace fathom
