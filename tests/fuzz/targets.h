// Fuzz targets: each takes any bytes and may neither crash nor return something that contradicts itself. libFuzzer
// drives them in `./run test --deep` (driver.cpp), the ordinary tests run them over the kept corpora (corpus_test.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

namespace fathom::fuzz {

using Input = std::span<const std::uint8_t>;

void safetensors(Input input);   ///< a file, and the weights of a layer in it
void config(Input input);        ///< config.json
void problem_text(Input input);  ///< an op's problem text
void pool(Input input);          ///< calls of a page pool, snapshots included
void page_tables(Input input);   ///< indices, ranges, lengths and block tables of attend and index
void c_abi(Input input);         ///< argument blobs of the C interface

struct Target {
  const char* name;
  void (*run)(Input input);
};
inline void PrintTo(const Target& target, std::ostream* out) { *out << target.name; }
inline constexpr Target kTargets[] = {{"safetensors", safetensors},   {"config", config},
                                      {"problem_text", problem_text}, {"pool", pool},
                                      {"page_tables", page_tables},   {"c_abi", c_abi}};

/// A property that holds whatever the input is. Throwing ends libFuzzer with the input, and fails the test.
inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error(what);
}

/// Numbers read off an input; zeros past its end.
class Reader {
 public:
  explicit Reader(Input input) : left_(input) {}
  bool empty() const { return left_.empty(); }
  std::uint8_t byte() { return take<std::uint8_t>(); }
  template <class T>
  T take() {
    T value{};
    const std::size_t count = std::min(sizeof(T), left_.size());
    if (count > 0) std::memcpy(&value, left_.data(), count);
    left_ = left_.subspan(count);
    return value;
  }
  /// Mostly a small number, sometimes any.
  std::int64_t number() {
    const std::uint8_t kind = byte();
    if (kind < 200) return static_cast<std::int64_t>(kind) - 8;
    if (kind < 240) return take<std::int32_t>();
    return take<std::int64_t>();
  }
  Input rest() { return std::exchange(left_, {}); }
  Input bytes(std::size_t count) {
    count = std::min(count, left_.size());
    const Input taken = left_.first(count);
    left_ = left_.subspan(count);
    return taken;
  }

 private:
  Input left_;
};

}  // namespace fathom::fuzz
