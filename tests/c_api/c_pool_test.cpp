// Page pools through the C interface: a whole layer from a checkpoint, step by step, and every wrong call.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fathom/c/fathom.h"
#include "fathom/layer.h"

namespace {

constexpr int32_t kCount = std::size(fathom::kLayerArgs);

std::size_t place_of(const std::string& name) {
  for (std::size_t i = 0; i < std::size(fathom::kLayerArgs); ++i) {
    if (name == fathom::kLayerArgs[i].name) return i;
  }
  ADD_FAILURE() << name;
  return 0;
}

/// A layer of the tiny checkpoint with its plan, pool and workspace, made by C calls alone.
struct TinyLayer {
  fathom_status status{};
  fathom_device* device = nullptr;
  fathom_config* config = nullptr;
  fathom_checkpoint* checkpoint = nullptr;
  fathom_checkpoint* golden = nullptr;
  fathom_weights* weights = nullptr;
  fathom_plan* plan = nullptr;
  fathom_pool* pool = nullptr;
  fathom_tensor args[kCount] = {};
  fathom_tensor hidden{}, expected{};
  std::string problem;
  std::vector<float> rope;
  fathom_workspace workspace{};
  std::unique_ptr<void, decltype(&std::free)> block{nullptr, &std::free};

  explicit TinyLayer(int layer, const char* capacities = " num_tokens=768 num_seqs=2 out_dtype=f32") {
    const std::string folder = FATHOM_GOLDEN_DIR "/tiny";
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    char text[4000];
    ok(fathom_device_create("cpu", 2, &device, &status));
    ok(fathom_config_read((folder + "/config.json").c_str(), &config, &status));
    ok(fathom_checkpoint_open((folder + "/model.safetensors").c_str(), &checkpoint, &status));
    ok(fathom_checkpoint_open((folder + "/expected_exact.safetensors").c_str(), &golden, &status));
    ok(fathom_weights_load(checkpoint, config, layer, 0, 1, &weights, &status));
    ok(fathom_weights_problem(weights, "exact", text, sizeof(text), nullptr, &status));
    problem = text;
    // Fields may stand once only: the capacities replace the defaults that the text spells out.
    for (const char* field : {"num_tokens=", "num_seqs=", "out_dtype="}) {
      const auto at = problem.find(field);
      if (at == std::string::npos) continue;
      const auto end = problem.find(' ', at);
      problem.erase(at, end == std::string::npos ? end : end - at + 1);
    }
    problem += capacities;
    ok(fathom_plan_create("layer", problem.c_str(), device, nullptr, &plan, &status));
    fathom_pool_options options;
    ok(fathom_pool_options_for(problem.c_str(), 3, 768, 4, &options, &status));
    EXPECT_EQ(options.sequence_tokens, 768);
    ok(fathom_pool_create(problem.c_str(), &options, device, &pool, &status));
    fathom_rope rotation;
    ok(fathom_config_layer_rope(config, layer, &rotation, &status));
    rope.resize(1024 * static_cast<std::size_t>(rotation.rope_dim));
    args[place_of("rope_table")] = fathom_tensor_packed(rope.data(), FATHOM_F32, 2, 1024, rotation.rope_dim, 0, 0);
    ok(fathom_rope_table(&rotation, 0, &args[place_of("rope_table")], &status));
    ok(fathom_weights_place(weights, args, kCount, &status));
    ok(fathom_pool_place_caches(pool, 0, args, kCount, &status));
    ok(fathom_checkpoint_tensor(golden, (prefix + "hidden").c_str(), &hidden, &status));
    ok(fathom_checkpoint_tensor(golden, (prefix + "output").c_str(), &expected, &status));
    fathom_workspace_size size;
    ok(fathom_plan_workspace_size(plan, &size, &status));
    const int64_t bytes = size.scratch + size.counters + size.schedule + 3 * FATHOM_WORKSPACE_ALIGNMENT;
    block.reset(std::aligned_alloc(FATHOM_WORKSPACE_ALIGNMENT, static_cast<std::size_t>(bytes / 256 * 256)));
    ok(fathom_workspace_carve(block.get(), bytes / 256 * 256, &size, &workspace, &status));
    ok(fathom_workspace_init(plan, &workspace, nullptr, &status));
  }
  ~TinyLayer() {
    fathom_pool_destroy(pool);
    fathom_plan_destroy(plan);
    fathom_weights_destroy(weights);
    fathom_checkpoint_destroy(golden);
    fathom_checkpoint_destroy(checkpoint);
    fathom_config_destroy(config);
    fathom_device_destroy(device);
  }
  void ok(fathom_code code) { ASSERT_EQ(code, FATHOM_OK) << status.text; }

  int64_t width() const { return hidden.shape[1]; }
  /// Tokens first .. first + count - 1 of the golden input through the layer.
  std::vector<float> step(int32_t sequence, int64_t first, int64_t count) {
    std::vector<float> out(static_cast<std::size_t>(count * width()));
    fathom_tensor x = hidden;
    x.data = static_cast<float*>(hidden.data) + first * width();
    x.shape[0] = count;
    args[place_of("x")] = x;
    args[place_of("out")] = fathom_tensor_packed(out.data(), FATHOM_F32, 2, count, width(), 0, 0);
    ok(fathom_pool_begin_step(pool, &sequence, &count, 1, args, kCount, &status));
    ok(fathom_run(plan, args, kCount, &workspace, nullptr, &status));
    ok(fathom_pool_commit(pool, &status));
    return out;
  }
  double error(const std::vector<float>& out, int64_t first) const {
    const float* want = static_cast<const float*>(expected.data) + first * width();
    double off = 0, norm = 0;
    for (std::size_t i = 0; i < out.size(); ++i)
      off += (out[i] - want[i]) * (out[i] - want[i]), norm += want[i] * want[i];
    return std::sqrt(off / norm);
  }
};

TEST(CPool, ALayerFromACheckpointGivesTheGoldenOutput) {
  for (const int layer : {0, 1, 2}) {
    TinyLayer tiny(layer);
    int32_t sequence = -1;
    tiny.ok(fathom_pool_add_sequence(tiny.pool, &sequence, &tiny.status));
    const int64_t tokens = tiny.hidden.shape[0], first = tokens - 5;
    EXPECT_LT(tiny.error(tiny.step(sequence, 0, first), 0), 1e-5) << layer;
    for (int64_t t = first; t < tokens; ++t)
      EXPECT_LT(tiny.error(tiny.step(sequence, t, 1), t), 1e-4) << layer << " " << t;
    int64_t length = 0;
    tiny.ok(fathom_pool_length(tiny.pool, sequence, &length, &tiny.status));
    EXPECT_EQ(length, tokens);
  }
}

TEST(CPool, RollBackForkAndSnapshotGoOnAsTheSequenceDid) {
  TinyLayer tiny(1);
  int32_t sequence = -1, forked = -1, restored = -1;
  tiny.ok(fathom_pool_add_sequence(tiny.pool, &sequence, &tiny.status));
  tiny.step(sequence, 0, 40);
  int64_t size = 0;
  tiny.ok(fathom_pool_snapshot(tiny.pool, sequence, nullptr, 0, &size, &tiny.status));
  std::vector<char> bytes(static_cast<std::size_t>(size));
  EXPECT_EQ(fathom_pool_snapshot(tiny.pool, sequence, bytes.data(), size - 1, nullptr, nullptr),
            FATHOM_INVALID_ARGUMENT);
  tiny.ok(fathom_pool_snapshot(tiny.pool, sequence, bytes.data(), size, &size, &tiny.status));
  const auto next = tiny.step(sequence, 40, 3);
  tiny.ok(fathom_pool_fork(tiny.pool, sequence, 40, &forked, &tiny.status));
  EXPECT_EQ(tiny.step(forked, 40, 3), next);
  tiny.ok(fathom_pool_roll_back(tiny.pool, sequence, 3, &tiny.status));
  EXPECT_EQ(tiny.step(sequence, 40, 3), next);
  tiny.ok(fathom_pool_remove_sequence(tiny.pool, forked, &tiny.status));
  tiny.ok(fathom_pool_restore(tiny.pool, bytes.data(), size, &restored, &tiny.status));
  EXPECT_EQ(tiny.step(restored, 40, 3), next);
  bytes[0] ^= 1;
  EXPECT_NE(fathom_pool_restore(tiny.pool, bytes.data(), size, &restored, &tiny.status), FATHOM_OK);
}

TEST(CPool, BlockTablesAndFreePages) {
  TinyLayer tiny(1);
  int32_t sequence = -1;
  const int64_t free = fathom_pool_num_free_pages(tiny.pool, 0);
  EXPECT_GT(free, 0);
  tiny.ok(fathom_pool_add_sequence(tiny.pool, &sequence, &tiny.status));
  tiny.step(sequence, 0, 70);
  EXPECT_LT(fathom_pool_num_free_pages(tiny.pool, 0), free);
  int64_t count = 0;
  tiny.ok(fathom_pool_block_table(tiny.pool, sequence, 0, nullptr, 0, &count, &tiny.status));
  EXPECT_EQ(count, 2);  // 70 rows in pages of 64
  int32_t pages[2] = {-7, -7};
  EXPECT_EQ(fathom_pool_block_table(tiny.pool, sequence, 0, pages, 1, &count, &tiny.status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(pages[0], -7);
  tiny.ok(fathom_pool_block_table(tiny.pool, sequence, 0, pages, 2, &count, &tiny.status));
  EXPECT_NE(pages[0], pages[1]);
  for (const int32_t cache : {-1, 5}) EXPECT_EQ(fathom_pool_num_free_pages(tiny.pool, cache), -1);
  EXPECT_EQ(fathom_pool_num_free_pages(nullptr, 0), -1);
}

TEST(CPool, WrongCallsChangeNothing) {
  TinyLayer tiny(0);
  fathom_status status;
  int32_t sequence = -1;
  tiny.ok(fathom_pool_add_sequence(tiny.pool, &sequence, &status));
  const int64_t count = 3, many = 1 << 20;
  std::vector<fathom_tensor> before(tiny.args, tiny.args + kCount);
  EXPECT_EQ(fathom_pool_begin_step(tiny.pool, &sequence, &many, 1, tiny.args, kCount, &status) == FATHOM_OK, false);
  EXPECT_EQ(fathom_pool_begin_step(tiny.pool, &sequence, &count, 1, tiny.args, kCount - 1, &status),
            FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_begin_step(tiny.pool, &sequence, &count, -1, tiny.args, kCount, &status),
            FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_begin_step(tiny.pool, nullptr, &count, 1, tiny.args, kCount, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_begin_step(tiny.pool, &sequence, nullptr, 1, tiny.args, kCount, &status),
            FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_begin_step(nullptr, &sequence, &count, 1, tiny.args, kCount, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(std::memcmp(before.data(), tiny.args, sizeof(tiny.args)), 0);
  EXPECT_NE(fathom_pool_commit(tiny.pool, &status), FATHOM_OK);
  tiny.ok(fathom_pool_begin_step(tiny.pool, &sequence, &count, 1, tiny.args, kCount, &status));
  fathom_pool_abandon(tiny.pool);
  fathom_pool_abandon(nullptr);
  int64_t length = -1;
  tiny.ok(fathom_pool_length(tiny.pool, sequence, &length, &status));
  EXPECT_EQ(length, 0);
  for (const int32_t wrong : {-1, 7, INT32_MAX}) {
    EXPECT_EQ(fathom_pool_length(tiny.pool, wrong, &length, &status), FATHOM_INVALID_ARGUMENT);
    EXPECT_EQ(fathom_pool_remove_sequence(tiny.pool, wrong, &status), FATHOM_INVALID_ARGUMENT);
    EXPECT_EQ(fathom_pool_roll_back(tiny.pool, wrong, 0, &status), FATHOM_INVALID_ARGUMENT);
    EXPECT_EQ(fathom_pool_place_caches(tiny.pool, wrong, tiny.args, kCount, &status), FATHOM_INVALID_ARGUMENT);
  }
  EXPECT_EQ(fathom_pool_restore(tiny.pool, nullptr, 8, &sequence, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_restore(tiny.pool, "", -1, &sequence, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_NE(fathom_pool_restore(tiny.pool, "", 0, &sequence, &status), FATHOM_OK);
  fathom_pool_options options;
  EXPECT_EQ(fathom_pool_options_for("heads=1", 1, 1, 0, &options, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_options_for(nullptr, 1, 1, 0, &options, &status), FATHOM_INVALID_ARGUMENT);
  fathom_pool* none = nullptr;
  EXPECT_EQ(fathom_pool_create(tiny.problem.c_str(), nullptr, tiny.device, &none, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_pool_create(tiny.problem.c_str(), &options, nullptr, &none, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(none, nullptr);
  fathom_pool_destroy(nullptr);
}

}  // namespace
