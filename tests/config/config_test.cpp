// Bounds, derived sizes, shards and presets of configurations.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "fathom/config.h"
#include "fathom/layer.h"

namespace fathom {
namespace {

ModelConfig flash() { return preset_config("v4-flash").value(); }
LayerConfig flash_layer(int index) { return flash().layer(index).value(); }

int count(const ModelConfig& config, int ratio) {
  return static_cast<int>(std::count(config.compress_ratios.begin(), config.compress_ratios.end(), ratio));
}

TEST(Preset, FlashHasTheReleasedLayers) {
  const ModelConfig config = flash();
  EXPECT_TRUE(check_config(config).ok());
  EXPECT_EQ(config.num_layers, 43);
  EXPECT_EQ(config.num_attention_layers(), 44);
  EXPECT_EQ(count(config, 4), 21);
  EXPECT_EQ(count(config, 128), 20);
  EXPECT_EQ(count(config, 0), 3);
  EXPECT_EQ(config.compress_ratios[0], 0);
  EXPECT_EQ(config.compress_ratios[2], 4);
  EXPECT_EQ(config.compress_ratios[3], 128);
  EXPECT_EQ(config.compress_ratios[42], 4);
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.num_heads, 64);
  EXPECT_EQ(config.q_rank, 1024);
  EXPECT_EQ(config.output_groups, 8);
  EXPECT_EQ(config.output_rank, 1024);
  EXPECT_EQ(config.index_topk, 512);
}

TEST(Preset, ProHasTheReleasedLayers) {
  const ModelConfig config = preset_config("v4-pro").value();
  EXPECT_TRUE(check_config(config).ok());
  EXPECT_EQ(config.num_attention_layers(), 62);
  EXPECT_EQ(count(config, 4), 30);
  EXPECT_EQ(count(config, 128), 31);
  EXPECT_EQ(count(config, 0), 1);
  EXPECT_EQ(config.compress_ratios[0], 128);
  EXPECT_EQ(config.compress_ratios[61], 0);
  EXPECT_EQ(config.hidden_size, 7168);
  EXPECT_EQ(config.num_heads, 128);
  EXPECT_EQ(config.q_rank, 1536);
  EXPECT_EQ(config.output_groups, 16);
  EXPECT_EQ(config.index_topk, 1024);
}

TEST(Preset, UnknownNamesAreRefused) {
  for (const char* name : {"", "v4", "V4-Flash", "v4-flash "}) {
    const auto config = preset_config(name);
    ASSERT_FALSE(config.ok()) << name;
    EXPECT_NE(std::string(config.status().text()).find("expected v4-flash or v4-pro"), std::string::npos);
  }
}

TEST(Layer, KindNameAndRotationFollowTheRatio) {
  const LayerConfig window = flash_layer(0), csa = flash_layer(2), hca = flash_layer(3), mtp = flash_layer(43);
  EXPECT_EQ(window.kind(), LayerKind::window);
  EXPECT_EQ(csa.kind(), LayerKind::csa);
  EXPECT_EQ(hca.kind(), LayerKind::hca);
  EXPECT_EQ(mtp.kind(), LayerKind::window);
  EXPECT_EQ(window.name, "layers.0.attn");
  EXPECT_EQ(hca.name, "layers.3.attn");
  EXPECT_EQ(mtp.name, "mtp.0.attn");
  EXPECT_EQ(mtp.layer_index, 43);
  EXPECT_EQ(window.rope.theta, 10000.0f);
  EXPECT_EQ(mtp.rope.theta, 10000.0f);
  EXPECT_EQ(window.rope.factor, 0.0f);
  EXPECT_EQ(csa.rope.theta, 160000.0f);
  EXPECT_EQ(csa.rope.factor, 16.0f);
  EXPECT_EQ(hca.rope, csa.rope);
  EXPECT_EQ(csa.state_tokens(), 8);
  EXPECT_EQ(hca.state_tokens(), 128);
  EXPECT_EQ(window.state_tokens(), 0);
  EXPECT_EQ(csa.index_topk, 512);
  EXPECT_EQ(hca.index_topk, 0);
  EXPECT_EQ(window.nope_dim(), 448);
  EXPECT_EQ(window.softmax_scale(), 0.04419417382f);
  for (const LayerConfig& layer : {window, csa, hca, mtp})
    EXPECT_TRUE(check_config(layer).ok()) << check_config(layer).text();
}

TEST(Layer, IndexOutsideTheModelIsRefused) {
  for (const int index : {-1, 44, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    const auto layer = flash().layer(index);
    ASSERT_FALSE(layer.ok());
    EXPECT_NE(std::string(layer.status().text()).find("layer is " + std::to_string(index) + ", expected 0 to 43"),
              std::string::npos);
  }
}

TEST(Shard, SplitsHeadsWithTheirGroups) {
  const LayerConfig whole = flash_layer(2);
  for (const int world : {1, 2, 4, 8}) {
    int heads = 0;
    for (int rank = 0; rank < world; ++rank) {
      const auto part = whole.shard(rank, world);
      ASSERT_TRUE(part.ok()) << part.status().text();
      EXPECT_EQ(part->first_head, heads);
      EXPECT_EQ(part->num_heads / part->output_groups, 8);
      EXPECT_EQ(part->first_group * 8, part->first_head);
      EXPECT_EQ(part->index_heads, whole.index_heads);
      EXPECT_TRUE(check_config(part.value()).ok());
      heads += part->num_heads;
    }
    EXPECT_EQ(heads, whole.num_heads);
  }
}

TEST(Shard, ImpossibleSplitsAreRefused) {
  const LayerConfig whole = flash_layer(2);
  const std::pair<int, int> kBad[] = {
      {0, 3}, {0, 0}, {0, -1}, {0, 16}, {8, 8}, {-1, 8}, {0, std::numeric_limits<int>::max()}};
  for (const auto& [rank, world] : kBad) EXPECT_FALSE(whole.shard(rank, world).ok()) << rank << " of " << world;
  const auto again = whole.shard(1, 2).value().shard(0, 2);
  ASSERT_FALSE(again.ok());
  EXPECT_NE(std::string(again.status().text()).find("already is shard 1 of 2"), std::string::npos);
}

struct BadLayer {
  const char* expected;
  std::function<void(LayerConfig&)> spoil;
};

TEST(CheckLayer, NamesEveryImpossibleField) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const BadLayer kCases[] = {
      {"hidden_size is 0", [](auto& c) { c.hidden_size = 0; }},
      {"hidden_size is -1", [](auto& c) { c.hidden_size = -1; }},
      {"hidden_size is 2147483647", [](auto& c) { c.hidden_size = 2147483647; }},
      {"num_heads is 129", [](auto& c) { c.num_heads = 129; }},
      {"head_dim is 2147483647", [](auto& c) { c.head_dim = 2147483647; }},
      {"rope_dim is 514", [](auto& c) { c.rope.rope_dim = 514; }},
      {"rope_dim is 63, expected an even", [](auto& c) { c.rope.rope_dim = 63; }},
      {"rope_dim is 0", [](auto& c) { c.rope.rope_dim = 0; }},
      {"q_rank is 0", [](auto& c) { c.q_rank = 0; }},
      {"output_groups is 7, expected a divisor of num_heads = 64", [](auto& c) { c.output_groups = 7; }},
      {"output_groups is 0", [](auto& c) { c.output_groups = 0; }},
      {"output_rank is 1048576", [](auto& c) { c.output_rank = 1 << 20; }},
      {"window is 0", [](auto& c) { c.window = 0; }},
      {"compress_ratio is 7, expected 0, 4 or 128", [](auto& c) { c.compress_ratio = 7; }},
      {"compress_ratio is -4", [](auto& c) { c.compress_ratio = -4; }},
      {"index_heads is 0", [](auto& c) { c.index_heads = 0; }},
      {"index_dim is 96, expected a power of two", [](auto& c) { c.index_dim = 96; }},
      {"index_dim is 32, expected 64", [](auto& c) { c.index_dim = 32; }},
      {"index_topk is 262145, expected 1 to 262144", [](auto& c) { c.index_topk = 262145; }},
      {"index_topk is 0", [](auto& c) { c.index_topk = 0; }},
      {"norm_eps is 0", [](auto& c) { c.norm_eps = 0; }},
      {"norm_eps is nan", [=](auto& c) { c.norm_eps = nan; }},
      {"norm_eps is -1e-06,", [](auto& c) { c.norm_eps = -1e-6f; }},
      {"max_positions is 0", [](auto& c) { c.max_positions = 0; }},
      {"max_positions is 16777217", [](auto& c) { c.max_positions = 16777217; }},
      {"rope theta is 1,", [](auto& c) { c.rope.theta = 1; }},
      {"rope theta is nan", [=](auto& c) { c.rope.theta = nan; }},
      {"rope theta is inf", [](auto& c) { c.rope.theta = std::numeric_limits<float>::infinity(); }},
      {"rope factor is 0.5", [](auto& c) { c.rope.factor = 0.5f; }},
      {"rope factor is nan", [=](auto& c) { c.rope.factor = nan; }},
      {"original_length is 0", [](auto& c) { c.rope.original_length = 0; }},
      {"beta_slow is 32, expected less than beta_fast = 32", [](auto& c) { c.rope.beta_slow = 32; }},
      {"beta_fast is -1", [](auto& c) { c.rope.beta_fast = -1; }},
      {"shard_world is 0", [](auto& c) { c.shard_world = 0; }},
      {"shard_rank is 1", [](auto& c) { c.shard_rank = 1; }},
      {"first_head is 8, expected shard_rank * num_heads = 0", [](auto& c) { c.first_head = 8; }},
      {"first_group is 1", [](auto& c) { c.first_group = 1; }},
      {"num_heads of all shards is 256", [](auto& c) { c.shard_world = 4; }},
  };
  for (const BadLayer& bad : kCases) {
    LayerConfig layer = flash_layer(2);
    bad.spoil(layer);
    const Status status = check_config(layer);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << bad.expected;
    EXPECT_NE(std::string(status.text()).find(bad.expected), std::string::npos)
        << status.text() << "\nexpected: " << bad.expected;
  }
}

TEST(CheckLayer, TakesWhatALayerCanBePlannedFor) {
  const auto most_of = [](std::string_view name) {
    for (const ProblemField& field : LayerProblem::spec().fields) {
      if (name == field.name) return static_cast<int>(field.most);
    }
    return -1;
  };
  const std::pair<const char*, int LayerConfig::*> kFields[] = {{"window", &LayerConfig::window},
                                                                {"index_dim", &LayerConfig::index_dim},
                                                                {"index_topk", &LayerConfig::index_topk}};
  for (const auto& [name, field] : kFields) {
    LayerConfig layer = flash_layer(2);
    layer.max_positions = kMaxTokens;  // 2^22 entries, more than index_topk may be
    layer.*field = most_of(name);
    EXPECT_TRUE(check_config(layer).ok()) << check_config(layer).text();
    layer.*field *= 2;
    EXPECT_EQ(check_config(layer).code(), StatusCode::invalid_argument) << name;
  }
}

TEST(CheckLayer, IndexerFieldsMatterOnCsaLayersOnly) {
  LayerConfig layer = flash_layer(3);
  layer.index_topk = -5;
  EXPECT_TRUE(check_config(layer).ok());
}

struct BadModel {
  const char* expected;
  std::function<void(ModelConfig&)> spoil;
};

TEST(CheckModel, NamesEveryImpossibleField) {
  const BadModel kCases[] = {
      {"num_layers is 0", [](auto& c) { c.num_layers = 0; }},
      {"num_layers is 2147483647", [](auto& c) { c.num_layers = 2147483647; }},
      {"compress_ratios has 44 entries", [](auto& c) { c.num_layers = 45; }},
      {"compress_ratios has 0 entries", [](auto& c) { c.compress_ratios.clear(); }},
      {"compress_ratios has 2000 entries", [](auto& c) { c.compress_ratios.resize(2000); }},
      {"compress_ratios[3] is 7, expected 0, 4 or 128", [](auto& c) { c.compress_ratios[3] = 7; }},
      {"compress_ratios[43] is 4, expected 0: past num_layers = 43", [](auto& c) { c.compress_ratios[43] = 4; }},
      {"index_topk is 2147483647", [](auto& c) { c.index_topk = 2147483647; }},
      {"rope_theta is 0,", [](auto& c) { c.rope_theta = 0; }},
      {"compress_rope_theta is -1", [](auto& c) { c.compress_rope_theta = -1; }},
  };
  for (const BadModel& bad : kCases) {
    ModelConfig model = flash();
    bad.spoil(model);
    const Status status = check_config(model);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << bad.expected;
    EXPECT_NE(std::string(status.text()).find(bad.expected), std::string::npos)
        << status.text() << "\nexpected: " << bad.expected;
    EXPECT_FALSE(model.layer(0).ok());
  }
}

}  // namespace
}  // namespace fathom
