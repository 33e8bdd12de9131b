// RandomCases, RandomLayers, EmptyAndLarge: drawn problems of every op, each beside its definition.
#include "support/draws.h"

namespace fathom::harness {
namespace {

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

class RandomCases : public DrawnCases {};
class RandomLayers : public DrawnCases {};
class EmptyAndLarge : public DrawnCases {};

TEST_P(RandomCases, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(RandomLayers, AgreeWithTheDefinition) { check_draw(GetParam()); }
TEST_P(EmptyAndLarge, AgreeWithTheDefinition) { check_draw(GetParam()); }

INSTANTIATE_TEST_SUITE_P(All, RandomCases, testing::ValuesIn(draws()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, RandomLayers, testing::ValuesIn(layers()), name_of_draw);
INSTANTIATE_TEST_SUITE_P(All, EmptyAndLarge, testing::ValuesIn(empty_and_large()), name_of_draw);

}  // namespace
}  // namespace fathom::harness
