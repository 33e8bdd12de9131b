// Draws: problems drawn from choices of every field, each beside its definition. Draws are seeded, so that a failure is
// one line that shows it again. Choices that do not go together are refused by the op and drawn anew.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "harness/conformance.h"
#include "harness/random.h"
#include "support/cases.h"

namespace fathom::harness {

struct Choice {
  const char* field;
  std::vector<const char*> values;  ///< "" leaves the field out
};

struct Draw {
  const char* op;
  int count;  ///< of the ordinary tests
  std::vector<Choice> choices;
};
inline void PrintTo(const Draw& draw, std::ostream* out) { *out << draw.op; }

inline const Choice kTokens{"num_tokens", {"1", "2", "3", "5", "9", "17"}}, kSeqs{"num_seqs", {"1", "2", "3", "5"}},
    kNumerics{"numerics", {"exact", "served"}}, kFloat{"out_dtype", {"f32", "bf16"}},
    kWeight{"weight_dtype", {"f32", "bf16", "e4m3"}}, kHoles{"holes", {"", "", "1"}},
    kHostile{"hostile", {"", "", "", "1"}}, kStrided{"strided", {"", "", "1"}}, kTies{"ties", {"", "", "1"}},
    kOutputs{"outputs", {"", "0", "1"}}, kContext{"context", {"", "0", "3", "20", "100"}},
    kPage{"page_size", {"1", "2", "3", "64"}}, kBring{"tokens", {"", "", "", "0", "1"}};

inline void check_draw(const Draw& draw) {
  const Device device = Device::cpu(2).value();
  const char* deep = std::getenv("FATHOM_DEEP");
  const int wanted = draw.count * (deep != nullptr && *deep == '1' ? 4 : 1);
  Random random(2026);
  std::int64_t agreeing = 0;
  int failures = 0;
  for (int tries = 0; agreeing < wanted; ++tries) {
    ASSERT_LT(tries, 40 * wanted) << draw.op << ": nearly all draws are refused";
    std::string text;
    for (const Choice& choice : draw.choices) {
      const char* value =
          choice.values[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(choice.values.size())))];
      if (*value != '\0') text += std::string(choice.field) + "=" + value + " ";
    }
    text += "seed=" + std::to_string(tries + 1);
    const auto read = read_case(draw.op, text);
    if (!read.ok() || !plan_problem(*read->op, read->problem.data(), device).ok()) continue;
    for (const Tally& tally : check_cases(draw.op, {text}, device)) {
      agreeing += tally.agreeing;
      for (const std::string& failure : tally.failures) ADD_FAILURE() << failure, ++failures;
    }
    ASSERT_LT(failures, 5) << "and so on";
  }
  test::count_cases(agreeing);
}

inline std::string name_of_draw(const testing::TestParamInfo<Draw>& tested) {
  return std::string(tested.param.op) + "_" + std::to_string(tested.index);
}

class DrawnCases : public testing::TestWithParam<Draw> {};

}  // namespace fathom::harness
