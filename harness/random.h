// Random: the harness's own seeded generator, fixed for ever so that a case text names the same numbers on every
// machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace fathom::harness {

/// xoshiro256** seeded by splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept {
    for (std::uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15u;
      std::uint64_t mixed = seed;
      mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
      mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
      word = mixed ^ (mixed >> 31);
    }
  }

  std::uint64_t bits() noexcept {
    const std::uint64_t result = rotated(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotated(state_[3], 45);
    return result;
  }
  /// A whole number of [0, count); 0 where `count` is not positive.
  std::int64_t below(std::int64_t count) noexcept {
    return count <= 0 ? 0 : static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(count));
  }
  /// A whole number of [least, most].
  std::int64_t between(std::int64_t least, std::int64_t most) noexcept { return least + below(most - least + 1); }
  bool chance(double probability) noexcept { return uniform() < probability; }
  /// [0, 1)
  double uniform() noexcept { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// Standard normal, one of 65536 tabulated values: generating 100 million weights must not dominate a bench.
  float normal() noexcept {
    if (left_ == 0) {
      pool_ = bits();
      left_ = 4;
    }
    const float value = normal_table()[pool_ & 0xffff];
    pool_ >>= 16;
    --left_;
    return value;
  }
  template <class T>
  void shuffle(std::vector<T>& values) noexcept {
    for (std::size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[static_cast<std::size_t>(below(static_cast<std::int64_t>(i)))]);
    }
  }

 private:
  static std::uint64_t rotated(std::uint64_t value, int by) noexcept { return (value << by) | (value >> (64 - by)); }
  static const std::vector<float>& normal_table() {
    static const std::vector<float> table = [] {
      constexpr int kEntries = 65536;
      std::vector<float> values(kEntries);
      Random random(0);
      for (int i = 0; i < kEntries; i += 2) {
        const double radius = std::sqrt(-2.0 * std::log(1.0 - random.uniform()));
        const double angle = 6.283185307179586 * random.uniform();
        values[i] = static_cast<float>(radius * std::cos(angle));
        values[i + 1] = static_cast<float>(radius * std::sin(angle));
      }
      return values;
    }();
    return table;
  }

  std::uint64_t state_[4];
  std::uint64_t pool_ = 0;
  int left_ = 0;
};

}  // namespace fathom::harness
