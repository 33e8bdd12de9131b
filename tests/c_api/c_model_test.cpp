// Configurations, checkpoints and weights through the C interface.
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>

#include "fathom/c/fathom.h"
#include "fathom/checkpoint.h"
#include "fathom/layer.h"

namespace {

constexpr int32_t kCount = std::size(fathom::kLayerArgs);

struct ModelOwner {
  fathom_config* config = nullptr;
  fathom_checkpoint* checkpoint = nullptr;
  fathom_status status{};
  explicit ModelOwner(const std::string& name) {
    const std::string folder = FATHOM_GOLDEN_DIR "/" + name;
    EXPECT_EQ(fathom_config_read((folder + "/config.json").c_str(), &config, &status), FATHOM_OK) << status.text;
    EXPECT_EQ(fathom_checkpoint_open(folder.c_str(), &checkpoint, &status), FATHOM_OK) << status.text;
  }
  ~ModelOwner() {
    fathom_checkpoint_destroy(checkpoint);
    fathom_config_destroy(config);
  }
};

std::string problem_of(const fathom_weights* weights, const char* numerics) {
  int64_t size = 0;
  EXPECT_EQ(fathom_weights_problem(weights, numerics, nullptr, 0, &size, nullptr), FATHOM_OK);
  std::string text(static_cast<std::size_t>(size), '?');
  EXPECT_EQ(fathom_weights_problem(weights, numerics, text.data(), size, nullptr, nullptr), FATHOM_OK);
  text.pop_back();
  return text;
}

TEST(CModel, ConfigsAreTheLibrarys) {
  ModelOwner tiny("tiny");
  EXPECT_EQ(fathom_config_num_layers(tiny.config), 3);
  EXPECT_EQ(fathom_config_num_layers(nullptr), 0);
  fathom_config* flash = nullptr;
  ASSERT_EQ(fathom_config_preset("v4-flash", &flash, nullptr), FATHOM_OK);
  char text[4000];
  ASSERT_EQ(fathom_config_layer_problem(flash, 2, "served", text, sizeof(text), nullptr, nullptr), FATHOM_OK);
  const auto config = fathom::preset_config("v4-flash").value().layer(2).value();
  const auto problem = fathom::layer_problem(config, fathom::Numerics::served).value();
  EXPECT_EQ(fathom::problem_text(fathom::LayerProblem::spec(), &problem), text);
  fathom_rope rope;
  ASSERT_EQ(fathom_config_layer_rope(flash, 2, &rope, nullptr), FATHOM_OK);
  EXPECT_EQ(rope.theta, 160000.0f);
  EXPECT_EQ(rope.factor, 16.0f);
  ASSERT_EQ(fathom_config_layer_rope(flash, 0, &rope, nullptr), FATHOM_OK);
  EXPECT_EQ(rope.factor, 0.0f);
  fathom_config_destroy(flash);
}

TEST(CModel, ConfigErrorsAreStatuses) {
  ModelOwner tiny("tiny");
  fathom_config* config = nullptr;
  fathom_status status;
  EXPECT_EQ(fathom_config_read(nullptr, &config, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_STREQ(status.text, "fathom_config_read: path is NULL");
  EXPECT_EQ(fathom_config_read("/nowhere/config.json", nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(fathom_config_read("/nowhere/config.json", &config, &status), FATHOM_OK);
  EXPECT_EQ(fathom_config_parse("{", &config, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_config_preset("v5", &config, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(config, nullptr);
  char text[4000];
  for (const int32_t layer : {-1, 3, INT32_MAX}) {
    EXPECT_EQ(fathom_config_layer_problem(tiny.config, layer, "exact", text, sizeof(text), nullptr, &status),
              FATHOM_INVALID_ARGUMENT);
  }
  EXPECT_EQ(fathom_config_layer_problem(tiny.config, 0, "fast", text, sizeof(text), nullptr, &status),
            FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(std::strstr(status.text, "\"fast\""), nullptr) << status.text;
  EXPECT_EQ(fathom_config_layer_problem(tiny.config, 0, nullptr, text, sizeof(text), nullptr, &status),
            FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_config_layer_problem(nullptr, 0, "exact", text, sizeof(text), nullptr, &status),
            FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_config_layer_rope(tiny.config, 0, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  fathom_config_destroy(nullptr);
}

TEST(CModel, TensorsOfACheckpoint) {
  ModelOwner tiny("tiny");
  const int64_t count = fathom_checkpoint_num_tensors(tiny.checkpoint);
  ASSERT_GT(count, 20);
  std::set<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.insert(fathom_checkpoint_name(tiny.checkpoint, i));
  EXPECT_EQ(static_cast<int64_t>(names.size()), count);
  EXPECT_EQ(fathom_checkpoint_name(tiny.checkpoint, -1), nullptr);
  EXPECT_EQ(fathom_checkpoint_name(tiny.checkpoint, count), nullptr);
  EXPECT_EQ(fathom_checkpoint_num_tensors(nullptr), 0);
  fathom_tensor tensor{};
  ASSERT_EQ(fathom_checkpoint_tensor(tiny.checkpoint, "layers.0.attn.attn_sink", &tensor, nullptr), FATHOM_OK);
  EXPECT_EQ(tensor.dtype, FATHOM_F32);
  EXPECT_EQ(tensor.rank, 1);
  fathom_status status;
  EXPECT_NE(fathom_checkpoint_tensor(tiny.checkpoint, "layers.9.attn.attn_sink", &tensor, &status), FATHOM_OK);
  EXPECT_EQ(fathom_checkpoint_tensor(tiny.checkpoint, nullptr, &tensor, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_checkpoint_tensor(nullptr, "a", &tensor, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(fathom_checkpoint_open("/nowhere", &tiny.checkpoint, &status), FATHOM_OK);
}

TEST(CModel, WeightsOutliveWhatTheyCameFrom) {
  fathom_weights* weights = nullptr;
  {
    ModelOwner fp8("tiny_fp8");
    ASSERT_EQ(fathom_weights_load(fp8.checkpoint, fp8.config, 0, 0, 1, &weights, &fp8.status), FATHOM_OK)
        << fp8.status.text;
  }
  const auto problem = fathom::problem_from<fathom::LayerProblem>(problem_of(weights, "served"));
  ASSERT_TRUE(problem.ok());
  EXPECT_EQ(problem->wq_a_dtype, fathom::DType::e4m3);
  EXPECT_EQ(problem->numerics, fathom::Numerics::served);
  fathom_tensor args[kCount];
  std::memset(args, 0, sizeof(args));
  ASSERT_EQ(fathom_weights_place(weights, args, kCount, nullptr), FATHOM_OK);
  for (int32_t i = 0; i < kCount; ++i) {
    const std::string name = fathom::kLayerArgs[i].name;
    const bool here = name == "wq_a" || name == "compress_ape" || name == "wq_a_scale";
    const bool elsewhere = name == "x" || name == "window" || name == "positions" || name == "out";
    if (here || elsewhere) {
      EXPECT_EQ(args[i].rank > 0, here) << name;
    }
    if (name == "wq_a") {
      EXPECT_EQ(args[i].dtype, FATHOM_E4M3);
    }
  }
  fathom_status status;
  for (const int32_t count : {0, -1, kCount - 1, kCount + 1}) {
    EXPECT_EQ(fathom_weights_place(weights, args, count, &status), FATHOM_INVALID_ARGUMENT) << count;
  }
  EXPECT_EQ(fathom_weights_place(weights, nullptr, kCount, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_weights_place(nullptr, args, kCount, &status), FATHOM_INVALID_ARGUMENT);
  fathom_weights_destroy(weights);
  fathom_weights_destroy(nullptr);
}

TEST(CModel, ShardsHaveTheirOwnSizes) {
  ModelOwner tiny("tiny");
  fathom_weights *whole = nullptr, *half = nullptr;
  ASSERT_EQ(fathom_weights_load(tiny.checkpoint, tiny.config, 0, 0, 1, &whole, nullptr), FATHOM_OK);
  ASSERT_EQ(fathom_weights_load(tiny.checkpoint, tiny.config, 0, 1, 2, &half, &tiny.status), FATHOM_OK)
      << tiny.status.text;
  const auto all = fathom::problem_from<fathom::LayerProblem>(problem_of(whole, "exact")).value();
  const auto part = fathom::problem_from<fathom::LayerProblem>(problem_of(half, "exact")).value();
  EXPECT_EQ(part.num_heads * 2, all.num_heads);
  fathom_weights* none = nullptr;
  for (const auto& [rank, world] : {std::pair{2, 2}, {-1, 2}, {0, 0}, {0, -1}, {0, 1 << 20}}) {
    EXPECT_NE(fathom_weights_load(tiny.checkpoint, tiny.config, 0, rank, world, &none, nullptr), FATHOM_OK)
        << rank << " " << world;
  }
  EXPECT_NE(fathom_weights_load(tiny.checkpoint, tiny.config, 3, 0, 1, &none, nullptr), FATHOM_OK);
  EXPECT_NE(fathom_weights_load(nullptr, tiny.config, 0, 0, 1, &none, nullptr), FATHOM_OK);
  EXPECT_NE(fathom_weights_load(tiny.checkpoint, nullptr, 0, 0, 1, &none, nullptr), FATHOM_OK);
  EXPECT_NE(fathom_weights_load(tiny.checkpoint, tiny.config, 0, 0, 1, nullptr, nullptr), FATHOM_OK);
  EXPECT_EQ(none, nullptr);
  fathom_weights_destroy(half);
  fathom_weights_destroy(whole);
}

}  // namespace
