// HostileIndices, HostileTables, HostileValues: drawn problems whose numbers no honest caller brings, each beside its
// definition.
#include "support/draws.h"

namespace fathom::harness {
namespace {

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

class HostileIndices : public DrawnCases {};
class HostileTables : public DrawnCases {};
class HostileValues : public DrawnCases {};

TEST_P(HostileIndices, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(HostileTables, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(HostileValues, AgreeWithTheDefinition) { check_draw(GetParam()); }

INSTANTIATE_TEST_SUITE_P(All, HostileIndices, testing::ValuesIn(hostile_indices()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, HostileTables, testing::ValuesIn(hostile_tables()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, HostileValues, testing::ValuesIn(hostile_values()), name_of_draw);

}  // namespace
}  // namespace fathom::harness
