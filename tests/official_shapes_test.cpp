// OfficialShapes: the released models' own sizes, whole and cut for 2 to 16 ranks, at contexts up to a million tokens,
// beside the definitions; and every layer of both models planned for every number of ranks.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fathom/fathom.h"
#include "harness/conformance.h"
#include "support/cases.h"

namespace fathom::harness {
namespace {

struct Shape {
  const char* op;
  const char* text;
};
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.op << " " << shape.text; }

const Shape kShapes[] = {
    // attend: Flash (64 heads, top-k 512) and Pro (128, 1024); HCA over all entries of 128k and 1M tokens.
    {"attend", "num_tokens=1 num_heads=64 window_width=128 entries_rows=list entries_width=512"},
    {"attend", "num_tokens=1 num_heads=128 window_width=128 entries_rows=list entries_width=1024"},
    {"attend", "num_tokens=2 num_heads=32 window_width=128 entries_rows=list entries_width=512"},
    {"attend", "num_tokens=3 num_heads=16 window_width=128 entries_rows=list entries_width=512"},
    {"attend", "num_tokens=4 num_heads=8 window_width=128 entries_rows=list entries_width=1024"},
    {"attend", "num_tokens=1 num_heads=8 window_width=128 entries_rows=range entries_width=1024 entries_page_size=2"},
    {"attend", "num_tokens=1 num_heads=8 window_width=128 entries_rows=range entries_width=8192 entries_page_size=2"},
    {"attend", "num_tokens=2 num_heads=8 window_width=128"},
    // index: 64 heads of 128, contexts of 4k, 32k and 128k tokens in FP4 and FP8 keys.
    {"index", "num_tokens=1 index_heads=64 topk=512 context=1024 max_entries=2048"},
    {"index", "num_tokens=1 index_heads=64 topk=1024 context=8192 max_entries=16384 format=index_e4m3_f32"},
    {"index", "num_tokens=1 index_heads=64 topk=512 context=32768 max_entries=65536"},
    {"select_topk", "num_tokens=1 num_scores=262144 topk=512"},
    {"select_topk", "num_tokens=2 num_scores=262144 topk=1024 ties=1"},
    {"index_query", "num_tokens=1 hidden_size=4096 q_rank=1024 index_heads=64 weights_proj_dtype=bf16"},
    // compress: CSA entries, index keys and HCA entries, past position 2^19.
    {"compress", "num_tokens=4 hidden_size=1024 context=1048572"},
    {"compress", "num_tokens=4 hidden_size=1024 dim=128 hadamard=1 format=index_e2m1_ue8m0 context=131068"},
    {"compress", "num_tokens=1 hidden_size=1024 ratio=128 overlap=0 state_page_size=8 page_size=2 context=131071"},
    // project and output as eight and sixteen ranks have them.
    {"project", "num_tokens=1 hidden_size=4096 num_heads=8 q_rank=1024 weight_dtype=e4m3 context=100000"},
    {"output",
     "num_tokens=1 hidden_size=4096 num_heads=8 output_groups=1 output_rank=1024 weight_dtype=e4m3 context=100000"},
    {"output", "num_tokens=1 hidden_size=7168 num_heads=8 output_groups=1 output_rank=1024 weight_dtype=e4m3"},
    {"linear", "num_tokens=1 in_dim=4096 out_dim=1024 weight_dtype=e4m3 activation_quant=e4m3_128"},
    {"linear", "num_tokens=1 in_dim=7168 out_dim=512 weight_dtype=e4m3 activation_quant=e4m3_128"},
    {"merge_partials", "num_tokens=2 num_heads=128 num_partials=4"},
};

class OfficialShapes : public testing::TestWithParam<Shape> {};

TEST_P(OfficialShapes, AgreeWithTheDefinition) {
  const Shape& shape = GetParam();
  std::int64_t agreeing = 0;
  for (const Tally& tally : check_cases(shape.op, {std::string(shape.text) + " seed=1"}, Device::cpu(2).value())) {
    for (const std::string& failure : tally.failures) ADD_FAILURE() << failure;
    agreeing += tally.agreeing;
  }
  EXPECT_GT(agreeing, 0);
  test::count_cases(agreeing);
}

INSTANTIATE_TEST_SUITE_P(All, OfficialShapes, testing::ValuesIn(kShapes), [](const auto& tested) {
  return std::string(tested.param.op) + "_" + std::to_string(tested.index);
});

TEST(OfficialShapes, EveryLayerIsPlannedForEveryNumberOfRanks) {
  const Device device = Device::cpu(2).value();
  std::int64_t plans = 0;
  for (const char* name : {"v4-flash", "v4-pro"}) {
    const ModelConfig model = preset_config(name).value();
    for (int i = 0; i < model.num_attention_layers(); ++i) {
      const LayerConfig whole = model.layer(i).value();
      for (int world = 1; world <= whole.output_groups; world *= 2) {
        const LayerConfig part = whole.shard(world - 1, world).value();
        auto problem = layer_problem(part, Numerics::served);
        ASSERT_TRUE(problem.ok()) << problem.status().text();
        problem->num_tokens = 64;
        problem->num_seqs = 8;
        const auto plan = plan_layer(problem.value(), device);
        ASSERT_TRUE(plan.ok()) << name << " layer " << i << " of " << world << " ranks: " << plan.status().text();
        EXPECT_EQ(plan->problem().num_heads * world, whole.num_heads);
        ++plans;
      }
    }
  }
  test::count_cases(plans);
}

}  // namespace
}  // namespace fathom::harness
