// layer's checks: a missing or superfluous argument is named before any stage has written anything.
#include <gtest/gtest.h>

#include <string>

#include "support/tiny_layer.h"

namespace fathom {
namespace {

using test::Session;
using test::TinyLayer;

struct Slip {
  int ratio;
  const char* name;
  void (*spoil)(LayerArgs&);
  const char* sentence;
};

class LayerSlips : public testing::TestWithParam<Slip> {};

TEST_P(LayerSlips, AreNamedAndLeaveEverythingAsItWas) {
  TinyLayer tiny(GetParam().ratio, Numerics::exact);
  Session session(tiny);
  const int sequence = session.add();
  auto batch = session.pool.begin_step(std::vector<int>{sequence}, std::vector<std::int64_t>{8});
  ASSERT_TRUE(batch.ok());
  LayerArgs args;
  args.x = tiny.hidden(0, 0, 8);
  args.rope_table = tiny.rope_table;
  args.weights = tiny.weights;
  args.caches = session.pool.caches(0);
  args.batch = batch.value();
  std::vector<float> out(8 * 32, 7);
  args.out = view(out.data(), DType::f32, {8, 32});
  const LayerCaches caches = args.caches;
  const auto contents = [&] {
    std::vector<std::byte> all;
    for (const TensorView* cache : {&caches.window, &caches.entries, &caches.index_keys, &caches.state, &caches.index_state}) {
      if (cache->is_absent()) continue;
      const auto* bytes = static_cast<const std::byte*>(cache->data);
      all.insert(all.end(), bytes, bytes + cache->shape[0] * cache->strides[0]);
    }
    return all;
  };
  const std::vector<std::byte> before = contents();
  GetParam().spoil(args);
  EXPECT_EQ(test::run_with("", tiny.problem, args), GetParam().sentence);
  EXPECT_EQ(out, std::vector<float>(8 * 32, 7));
  EXPECT_TRUE(contents() == before);
}

INSTANTIATE_TEST_SUITE_P(
    All, LayerSlips,
    testing::Values(
        Slip{4, "ape", [](LayerArgs& a) { a.weights.compress_ape = {}; }, "layer: compress_ape is missing, CSA and HCA layers need it"},
        Slip{16, "state", [](LayerArgs& a) { a.caches.state = {}; }, "layer: state is missing, CSA and HCA layers need it"},
        Slip{16, "visible", [](LayerArgs& a) { a.batch.num_visible = {}; }, "layer: num_visible is missing, HCA layers need it"},
        Slip{4, "keys", [](LayerArgs& a) { a.caches.index_keys = {}; }, "layer: index_keys is missing, CSA layers need it"},
        Slip{0, "entries", [](LayerArgs& a) { a.caches.entries = a.caches.window; }, "layer: entries came, expected none: only CSA and HCA layers have it"},
        Slip{16, "picks", [](LayerArgs& a) { a.topk_entries = view(a.out.data, DType::i32, {8, 6}); }, "layer: topk_entries came, expected none: only CSA layers have it"},
        Slip{4, "wkv", [](LayerArgs& a) { a.weights.compress_wkv.shape[0] = a.weights.compress_wgate.shape[0] = a.weights.compress_ape.shape[1] = 512; },
             "layer: compress_wkv has 512 rows, expected 1024 (width: head_dim, doubled on CSA layers)"},
        Slip{0, "woa", [](LayerArgs& a) { a.weights.wo_a.shape[1] = 512; },
             "layer: wo_a has 512 columns, expected group_dim=1536 (num_heads / output_groups * head_dim), its scale a tile for each 128"},
        Slip{0, "scale", [](LayerArgs& a) { a.weights.wkv_scale = view(a.out.data, DType::ue8m0, {4, 1}); }, "layer: wkv_scale came with f32 weights, expected none"},
        Slip{0, "sink", [](LayerArgs& a) { a.weights.attn_sink = {}; }, "layer: attn_sink is missing"}),
    [](const auto& slip) { return std::string(slip.param.name) + std::to_string(slip.param.ratio); });

TEST(LayerProblem, FollowsTheConfigurationAndTheNumerics) {
  const ModelConfig flash = preset_config("v4-flash").value();
  const LayerProblem csa = layer_problem(flash.layer(2).value(), Numerics::served).value();
  EXPECT_EQ(csa.compress_ratio, 4);
  EXPECT_EQ(csa.index_topk, 512);
  EXPECT_EQ(csa.max_entries, 262144);
  EXPECT_EQ(csa.window_format, CacheFormat::kv_e4m3_ue8m0);
  EXPECT_EQ(csa.index_format, CacheFormat::index_e2m1_ue8m0);
  EXPECT_EQ(csa.out_dtype, DType::bf16);
  const LayerProblem hca = layer_problem(flash.layer(3).value(), Numerics::exact).value();
  EXPECT_EQ(hca.max_entries, 8192);
  EXPECT_EQ(hca.window_format, CacheFormat::kv_f32);
  EXPECT_EQ(hca.out_dtype, DType::f32);
  const LayerProblem shard = layer_problem(flash.layer(0).value().shard(1, 8).value(), Numerics::served).value();
  EXPECT_EQ(shard.num_heads, 8);
  EXPECT_EQ(shard.output_groups, 1);
  EXPECT_EQ(shard.out_dtype, DType::f32) << "ranks add partial sums";
  EXPECT_FALSE(layer_problem(LayerConfig(), Numerics::exact).ok());
}

}  // namespace
}  // namespace fathom
