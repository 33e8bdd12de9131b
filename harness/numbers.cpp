// The table of E4M3 codes that weights are drawn from.
#include "harness/numbers.h"

#include "harness/random.h"

namespace fathom::harness {

const std::vector<std::uint8_t>& normal_e4m3_codes() {
  static const std::vector<std::uint8_t> codes = [] {
    Random random(0xe4);
    std::vector<std::uint8_t> table(4096);
    for (std::uint8_t& code : table) {
      const double value = 64.0 * random.normal();
      std::uint8_t best = 0;
      for (std::uint8_t candidate = 0; candidate < 0x7f; ++candidate) {
        if (std::fabs(e4m3_value(candidate) - std::fabs(value)) < std::fabs(e4m3_value(best) - std::fabs(value)))
          best = candidate;
      }
      code = value < 0 ? best | 0x80 : best;
    }
    return table;
  }();
  return codes;
}

}  // namespace fathom::harness
