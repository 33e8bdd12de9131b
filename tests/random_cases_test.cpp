// RandomCases: problems drawn from choices of every field, each beside its definition; and the same with hostile
// values, indices, tables and sizes. The draws are seeded, so that a failure is one line that shows it again. Choices
// that do not go together are refused by the op and drawn anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "harness/conformance.h"
#include "harness/random.h"
#include "support/cases.h"

namespace fathom::harness {
namespace {

struct Choice {
  const char* field;
  std::vector<const char*> values;  ///< "" leaves the field out
};

struct Draw {
  const char* op;
  int count;  ///< of the ordinary tests
  std::vector<Choice> choices;
};
void PrintTo(const Draw& draw, std::ostream* out) { *out << draw.op; }

const Choice kTokens{"num_tokens", {"1", "2", "3", "5", "9", "17"}}, kSeqs{"num_seqs", {"1", "2", "3", "5"}},
    kNumerics{"numerics", {"exact", "served"}}, kFloat{"out_dtype", {"f32", "bf16"}},
    kWeight{"weight_dtype", {"f32", "bf16", "e4m3"}}, kHoles{"holes", {"", "", "1"}},
    kHostile{"hostile", {"", "", "", "1"}}, kStrided{"strided", {"", "", "1"}}, kTies{"ties", {"", "", "1"}},
    kOutputs{"outputs", {"", "0", "1"}}, kContext{"context", {"", "0", "3", "20", "100"}},
    kPage{"page_size", {"1", "2", "3", "64"}}, kBring{"tokens", {"", "", "", "0", "1"}};

std::vector<Draw> draws() {
  return {
      {"linear",
       500,
       {kTokens,
        {"in_dim", {"1", "7", "33", "64", "128", "130", "257"}},
        {"out_dim", {"1", "5", "16", "64", "129"}},
        {"groups", {"1", "1", "2", "3"}},
        {"x_dtype", {"f32", "bf16"}},
        kWeight,
        kFloat,
        {"activation_quant", {"none", "e4m3_128"}},
        kStrided,
        kBring}},
      {"project",
       300,
       {kTokens,
        {"hidden_size", {"1", "17", "64", "130"}},
        {"num_heads", {"1", "2", "3", "8"}},
        {"q_rank", {"1", "16", "33", "128"}},
        {"head_dim", {"4", "16", "64"}},
        {"rope_dim", {"2", "4", "16"}},
        kNumerics,
        kWeight,
        {"window_format", {"kv_f32", "kv_bf16"}},
        {"window_page_size", {"1", "2", "3", "64"}},
        kContext,
        kHoles,
        kHostile}},
      {"project",
       60,
       {kTokens,
        {"hidden_size", {"32", "128"}},
        {"num_heads", {"1", "2"}},
        {"q_rank", {"16", "33"}},
        kNumerics,
        kWeight,
        {"window_page_size", {"1", "2", "64"}},
        kHoles}},
      {"compress",
       300,
       {kTokens,
        kSeqs,
        {"hidden_size", {"1", "17", "40"}},
        {"dim", {"4", "32", "64"}},
        {"rope_dim", {"2", "4", "16"}},
        {"ratio", {"1", "2", "3", "4", "16"}},
        {"overlap", {"0", "1"}},
        {"hadamard", {"0", "0", "1"}},
        kNumerics,
        {"weight_dtype", {"f32", "bf16"}},
        {"format", {"kv_f32", "kv_bf16", "index_f32", "index_e4m3_f32", "index_e2m1_ue8m0"}},
        kPage,
        {"state_page_size", {"1", "3", "64"}},
        kContext,
        kHoles,
        kHostile,
        kStrided}},
      {"index_query",
       300,
       {kTokens,
        {"hidden_size", {"1", "33", "64"}},
        {"q_rank", {"1", "16", "128"}},
        {"index_heads", {"1", "3", "8"}},
        {"index_dim", {"4", "32", "64"}},
        {"rope_dim", {"2", "4", "16"}},
        kNumerics,
        {"wq_b_dtype", {"f32", "bf16", "e4m3"}},
        {"weights_proj_dtype", {"f32", "bf16"}},
        {"format", {"index_f32", "index_e4m3_f32", "index_e2m1_ue8m0"}},
        kHoles,
        kStrided}},
      {"index",
       500,
       {kTokens,
        kSeqs,
        {"index_heads", {"1", "2", "7"}},
        {"index_dim", {"4", "32", "64"}},
        {"topk", {"1", "3", "16", "100"}},
        {"compress_ratio", {"1", "4", "16"}},
        {"format", {"index_f32", "index_e4m3_f32", "index_e2m1_ue8m0"}},
        kPage,
        {"entries_page_size", {"1", "2", "64"}},
        {"max_entries", {"", "1", "20"}},
        kContext,
        kTies,
        kHoles,
        kHostile,
        kOutputs}},
      {"select_topk",
       600,
       {kTokens,
        {"num_scores", {"1", "7", "64", "200", "1000"}},
        {"topk", {"1", "2", "13", "64", "300"}},
        kTies,
        kHoles,
        kHostile,
        {"nans", {"", "", "1"}},
        kStrided,
        kBring}},
      {"attend",
       700,
       {kTokens,
        kSeqs,
        {"num_heads", {"1", "2", "3", "9"}},
        {"head_dim", {"4", "20", "64"}},
        {"value_dim", {"1", "4", "16", "64"}},
        {"q_dtype", {"f32"}},
        kFloat,
        {"window_rows", {"none", "list", "range"}},
        {"window_format", {"kv_f32", "kv_bf16"}},
        {"window_page_size", {"1", "3", "64"}},
        {"window_width", {"1", "8", "70"}},
        {"entries_rows", {"none", "list", "range"}},
        {"entries_format", {"kv_f32", "kv_bf16"}},
        {"entries_page_size", {"1", "2", "64"}},
        {"entries_width", {"1", "5", "130"}},
        {"sink", {"", "0", "1", "2"}},
        kHoles,
        kHostile,
        kStrided,
        kOutputs,
        kBring}},
      // Probabilities rounded to bf16 need some outputs for their bound, which is one of averages.
      {"attend",
       200,
       {{"num_tokens", {"3", "5", "9"}},
        kSeqs,
        {"num_heads", {"3", "9"}},
        {"head_dim", {"64"}},
        {"value_dim", {"64"}},
        kFloat,
        {"window_rows", {"list", "range"}},
        {"window_format", {"kv_f32", "kv_bf16"}},
        {"window_width", {"8", "70"}},
        {"entries_rows", {"none", "list", "range"}},
        {"entries_format", {"kv_f32", "kv_bf16"}},
        {"entries_page_size", {"1", "64"}},
        {"entries_width", {"5", "130"}},
        kHoles,
        kHostile,
        kStrided,
        kOutputs}},
      {"attend",
       100,
       {kTokens,
        {"num_heads", {"1", "4"}},
        {"window_width", {"1", "24"}},
        {"entries_rows", {"none", "list", "range"}},
        {"entries_width", {"7", "33"}},
        {"window_page_size", {"2", "64"}},
        kHoles,
        kOutputs}},
      {"merge_partials",
       300,
       {kTokens,
        {"num_partials", {"1", "2", "3", "8"}},
        {"num_heads", {"1", "3", "8"}},
        {"value_dim", {"1", "7", "64"}},
        {"partial_dtype", {"f32", "bf16"}},
        kFloat,
        kHoles,
        kStrided,
        kOutputs,
        {"sink", {"", "0", "1", "2"}}}},
      {"output",
       300,
       {kTokens,
        {"hidden_size", {"1", "33", "64"}},
        {"num_heads", {"1", "2", "4", "6"}},
        {"head_dim", {"4", "16", "64"}},
        {"rope_dim", {"2", "4"}},
        {"output_groups", {"1", "2"}},
        {"output_rank", {"1", "8", "64"}},
        kNumerics,
        {"wo_a_dtype", {"f32", "bf16", "e4m3"}},
        {"wo_b_dtype", {"f32", "bf16", "e4m3"}},
        kFloat,
        kHoles,
        kStrided}},
  };
}

std::vector<Draw> layers() {
  return {
      {"layer",
       150,
       {{"num_tokens", {"1", "4", "9"}},
        kSeqs,
        {"hidden_size", {"17", "40"}},
        {"num_heads", {"1", "2", "4"}},
        {"head_dim", {"16", "64"}},
        {"rope_dim", {"4", "16"}},
        {"q_rank", {"8", "24"}},
        {"output_groups", {"1", "2"}},
        {"output_rank", {"8"}},
        {"window", {"1", "5", "16"}},
        {"compress_ratio", {"0", "4", "4", "128"}},
        {"index_heads", {"1", "3"}},
        {"index_dim", {"32"}},
        {"index_topk", {"1", "3", "64"}},
        kNumerics,
        {"weight_dtype", {"f32", "bf16"}},
        kFloat,
        {"window_format", {"kv_f32", "kv_bf16"}},
        {"entries_format", {"kv_f32", "kv_bf16"}},
        {"index_format", {"index_f32"}},
        {"window_page_size", {"1", "3", "64"}},
        {"entries_page_size", {"2", "64"}},
        kContext,
        kHoles,
        kOutputs}},
  };
}

// Slots and lists that name rows outside every bound, twice, or not at all: as if they had been filtered.
std::vector<Draw> hostile_indices() {
  const Choice hostile{"hostile", {"1"}};
  return {
      {"attend",
       150,
       {kTokens,
        {"num_heads", {"1", "3"}},
        {"head_dim", {"4"}},
        {"value_dim", {"4"}},
        {"q_dtype", {"f32"}},
        {"out_dtype", {"f32"}},
        {"window_rows", {"list"}},
        {"window_format", {"kv_f32"}},
        {"window_page_size", {"1", "3", "64"}},
        {"window_width", {"1", "8", "70", "1000"}},
        {"entries_rows", {"none", "list"}},
        {"entries_format", {"kv_bf16"}},
        {"entries_width", {"1", "5", "4096"}},
        hostile,
        kHoles,
        kOutputs}},
      {"select_topk",
       100,
       {kTokens, {"num_scores", {"1", "7", "64", "5000"}}, {"topk", {"1", "13", "4096"}}, hostile, kTies}},
      {"project",
       60,
       {kTokens,
        {"hidden_size", {"17"}},
        {"num_heads", {"2"}},
        {"q_rank", {"16"}},
        {"head_dim", {"16"}},
        {"rope_dim", {"4"}},
        kNumerics,
        {"window_format", {"kv_f32", "kv_bf16"}},
        {"window_page_size", {"1", "3", "64"}},
        hostile,
        kHoles}},
  };
}

// Block tables with pages outside the cache, negative, shared or missing; sequence numbers and ranges of any size.
std::vector<Draw> hostile_tables() {
  const Choice hostile{"hostile", {"1"}};
  return {
      {"attend",
       150,
       {kTokens,
        kSeqs,
        {"num_heads", {"1", "3"}},
        {"head_dim", {"4"}},
        {"value_dim", {"4"}},
        {"q_dtype", {"f32"}},
        {"out_dtype", {"f32"}},
        {"window_rows", {"range"}},
        {"window_format", {"kv_f32"}},
        {"window_page_size", {"1", "3", "64"}},
        {"window_width", {"1", "8", "70"}},
        {"entries_rows", {"none", "range"}},
        {"entries_format", {"kv_f32"}},
        {"entries_page_size", {"1", "2"}},
        {"entries_width", {"5", "130"}},
        hostile,
        kHoles,
        kOutputs}},
      {"index",
       150,
       {kTokens,
        kSeqs,
        {"index_heads", {"1", "3"}},
        {"index_dim", {"32"}},
        {"topk", {"1", "16"}},
        {"compress_ratio", {"1", "4"}},
        {"format", {"index_f32", "index_e2m1_ue8m0"}},
        kPage,
        {"entries_page_size", {"1", "2"}},
        kContext,
        hostile,
        kHoles,
        kOutputs}},
      {"compress",
       100,
       {kTokens,
        kSeqs,
        {"hidden_size", {"17"}},
        {"dim", {"32"}},
        {"rope_dim", {"4"}},
        {"ratio", {"2", "4"}},
        {"overlap", {"0", "1"}},
        kNumerics,
        {"format", {"kv_f32", "kv_bf16"}},
        kPage,
        {"state_page_size", {"1", "3"}},
        kContext,
        hostile,
        kHoles}},
  };
}

// NaN, infinities, huge and tiny numbers in half of the rows: they stay in their rows, and mean what the definition
// says.
std::vector<Draw> hostile_values() {
  const Choice nans{"nans", {"1", "2"}};
  return {
      {"linear",
       60,
       {{"num_tokens", {"2", "9"}},
        {"in_dim", {"7", "64", "130"}},
        {"out_dim", {"5", "64"}},
        {"x_dtype", {"f32", "bf16"}},
        kWeight,
        {"out_dtype", {"f32"}},
        {"activation_quant", {"none", "e4m3_128"}},
        nans}},
      {"project",
       40,
       {{"num_tokens", {"2", "9"}},
        {"hidden_size", {"64"}},
        {"num_heads", {"2"}},
        {"head_dim", {"32"}},
        {"rope_dim", {"16"}},
        {"q_rank", {"32"}},
        {"numerics", {"exact"}},
        {"window_format", {"kv_f32"}},
        nans}},
      {"index_query",
       60,
       {{"num_tokens", {"2", "6"}},
        {"hidden_size", {"64"}},
        {"q_rank", {"32"}},
        {"index_heads", {"2"}},
        {"index_dim", {"64", "128"}},
        {"rope_dim", {"16"}},
        {"numerics", {"exact"}},
        {"format", {"index_f32"}},
        nans}},
      {"index",
       40,
       {{"num_tokens", {"4"}},
        kSeqs,
        {"index_heads", {"1", "3"}},
        {"index_dim", {"32"}},
        {"topk", {"5"}},
        {"context", {"60"}},
        {"format", {"index_f32"}},
        nans}},
      {"select_topk", 60, {kTokens, {"num_scores", {"10", "200"}}, {"topk", {"3", "64"}}, kTies, nans}},
      {"attend",
       60,
       {{"num_tokens", {"4"}},
        {"num_heads", {"3"}},
        {"head_dim", {"20"}},
        {"value_dim", {"16"}},
        {"q_dtype", {"f32"}},
        {"out_dtype", {"f32"}},
        {"window_rows", {"list", "range"}},
        {"window_format", {"kv_f32"}},
        {"window_width", {"9", "70"}},
        {"sink", {"0", "1", "2"}},
        nans}},
      {"merge_partials",
       40,
       {{"num_tokens", {"3"}}, {"num_heads", {"3"}}, {"value_dim", {"7", "64"}}, {"num_partials", {"2", "5"}}, nans}},
  };
}

// No token, one token, nothing to see, and very many of them.
std::vector<Draw> empty_and_large() {
  std::vector<Draw> sizes;
  std::vector<Draw> all = draws();
  all.push_back(layers().front());
  for (const Draw& draw : all) {
    Draw empty = draw;
    empty.count = 10;
    for (Choice& choice : empty.choices) {
      if (std::string(choice.field) == "num_tokens") choice.values = {"1", "7"};
      if (std::string(choice.field) == "context") choice.values = {"0"};
    }
    std::erase_if(empty.choices, [](const Choice& choice) { return std::string(choice.field) == "tokens"; });
    empty.choices.push_back({"tokens", {"0", "1"}});
    sizes.push_back(empty);
  }
  sizes.push_back({"select_topk", 1, {{"num_tokens", {"70000"}}, {"num_scores", {"5"}}, {"topk", {"2"}}}});
  sizes.push_back(
      {"merge_partials", 1, {{"num_tokens", {"70000"}}, {"num_heads", {"1"}}, {"value_dim", {"2"}}, {"holes", {"1"}}}});
  sizes.push_back({"attend",
                   1,
                   {{"num_tokens", {"70000"}},
                    {"num_heads", {"1"}},
                    {"head_dim", {"4"}},
                    {"value_dim", {"4"}},
                    {"q_dtype", {"f32"}},
                    {"out_dtype", {"f32"}},
                    {"window_rows", {"list"}},
                    {"window_format", {"kv_f32"}},
                    {"window_width", {"3"}},
                    {"holes", {"1"}}}});
  return sizes;
}

void check_draw(const Draw& draw) {
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

class RandomCases : public testing::TestWithParam<Draw> {};
class RandomLayers : public RandomCases {};
class HostileIndices : public RandomCases {};
class HostileTables : public RandomCases {};
class HostileValues : public RandomCases {};
class EmptyAndLarge : public RandomCases {};

TEST_P(RandomCases, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(RandomLayers, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(HostileIndices, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(HostileTables, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(HostileValues, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(EmptyAndLarge, AgreeWithTheDefinition) { check_draw(GetParam()); }

std::string name_of_draw(const testing::TestParamInfo<Draw>& tested) {
  return std::string(tested.param.op) + "_" + std::to_string(tested.index);
}
INSTANTIATE_TEST_SUITE_P(All, RandomCases, testing::ValuesIn(draws()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, RandomLayers, testing::ValuesIn(layers()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, HostileIndices, testing::ValuesIn(hostile_indices()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, HostileTables, testing::ValuesIn(hostile_tables()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, HostileValues, testing::ValuesIn(hostile_values()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, EmptyAndLarge, testing::ValuesIn(empty_and_large()), name_of_draw);

}  // namespace
}  // namespace fathom::harness
