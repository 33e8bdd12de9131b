// AllocationFailure, the C interface: the same scenario a C program runs, from device to committed step, with every one
// of its allocations failing once. On failure no output pointer is set.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "allocation/failing_new.h"
#include "fathom/c/fathom.h"
#include "fathom/layer.h"

namespace fathom::test {
namespace {

constexpr int32_t kCount = std::size(kLayerArgs);
constexpr const char* kFolder = FATHOM_GOLDEN_DIR "/tiny";
constexpr const char* kConfig = FATHOM_GOLDEN_DIR "/tiny/config.json";

/// Everything a program holds; what a failed call returned must still be null.
struct Program {
  fathom_status status{};
  fathom_device* device = nullptr;
  fathom_config* config = nullptr;
  fathom_checkpoint* checkpoint = nullptr;
  fathom_weights* weights = nullptr;
  fathom_plan* plan = nullptr;
  fathom_pool* pool = nullptr;
  fathom_memory* memory = nullptr;
  fathom_tensor args[kCount] = {};
  char text[4000] = {};
  bool pointer_set = false;  ///< by a call that failed

  ~Program() {
    fathom_memory_destroy(memory);
    fathom_pool_destroy(pool);
    fathom_plan_destroy(plan);
    fathom_weights_destroy(weights);
    fathom_checkpoint_destroy(checkpoint);
    fathom_config_destroy(config);
    fathom_device_destroy(device);
  }
  Status as_status() const { return Status::make(static_cast<StatusCode>(status.code), status.text); }
  template <class T>
  bool made(fathom_code code, T* object) {
    pointer_set |= code != FATHOM_OK && object != nullptr;
    return code == FATHOM_OK;
  }

  Status run(int layer) {
    int64_t size = 0;
    const bool ok =
        made(fathom_device_create("cpu", 2, &device, &status), device) &&
        made(fathom_memory_create(device, 1000, &memory, &status), memory) &&
        fathom_device_json(device, text, sizeof(text), &size, &status) == FATHOM_OK &&
        made(fathom_config_read(kConfig, &config, &status), config) &&
        fathom_config_layer_problem(config, layer, "served", text, sizeof(text), &size, &status) == FATHOM_OK &&
        made(fathom_checkpoint_open(kFolder, &checkpoint, &status), checkpoint) &&
        made(fathom_weights_load(checkpoint, config, layer, 0, 1, &weights, &status), weights) &&
        fathom_weights_problem(weights, "served", text, sizeof(text), &size, &status) == FATHOM_OK &&
        fathom_candidates_json("layer", text, device, nullptr, 0, &size, &status) == FATHOM_OK &&
        made(fathom_plan_create("layer", text, device, nullptr, &plan, &status), plan) &&
        fathom_weights_place(weights, args, kCount, &status) == FATHOM_OK && use_pool();
    return ok ? Status() : as_status();
  }

 private:
  bool use_pool() {
    fathom_pool_options options;
    int32_t sequence = -1, forked = -1;
    int64_t count = 9, size = 0;
    return fathom_pool_options_for(text, 2, 64, 2, &options, &status) == FATHOM_OK &&
           made(fathom_pool_create(text, &options, device, &pool, &status), pool) &&
           fathom_pool_add_sequence(pool, &sequence, &status) == FATHOM_OK &&
           fathom_pool_begin_step(pool, &sequence, &count, 1, args, kCount, &status) == FATHOM_OK &&
           fathom_pool_commit(pool, &status) == FATHOM_OK &&
           fathom_pool_place_caches(pool, 0, args, kCount, &status) == FATHOM_OK &&
           fathom_pool_fork(pool, sequence, 8, &forked, &status) == FATHOM_OK &&
           fathom_pool_snapshot(pool, sequence, nullptr, 0, &size, &status) == FATHOM_OK &&
           fathom_pool_remove_sequence(pool, forked, &status) == FATHOM_OK;
  }
};

TEST(AllocationFailure, OfAWholeCProgram) {
  std::int64_t failed = 0;
  for (const int layer : {0, 1, 2}) {
    bool pointer_set = false;
    failed += fail_every(
        "layer " + std::to_string(layer),
        [&] {
          Program program;
          const Status status = program.run(layer);
          pointer_set = program.pointer_set;
          return status;
        },
        [&](std::int64_t n) {
          EXPECT_FALSE(pointer_set) << "allocation " << n << " failed and an object was handed out";
        });
  }
  EXPECT_GT(failed, 300);
  count_cases(failed);
}

TEST(AllocationFailure, OfTextsOfEveryOp) {
  std::int64_t failed = 0;
  for (int32_t i = 0; i < fathom_op_count(); ++i) {
    std::vector<char> text(1 << 16);
    failed += fail_every(fathom_op_name(i), [&] {
      int64_t size = 0;
      fathom_status status{};
      fathom_op_json(fathom_op_name(i), text.data(), static_cast<int64_t>(text.size()), &size, &status);
      return Status::make(static_cast<StatusCode>(status.code), status.text);
    });
  }
  EXPECT_GT(failed, 50);
  count_cases(failed);
}

}  // namespace
}  // namespace fathom::test
