// AllocationFailure, the C++ interface: whatever allocation fails, a status comes back, nothing leaks, nothing changed,
// and the objects go on as if the call had not been made.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "allocation/failing_new.h"
#include "fathom/fathom.h"
#include "harness/case_file.h"
#include "harness/run.h"
#include "support/tiny_layer.h"

namespace fathom::test {
namespace {

const std::string kGolden = FATHOM_GOLDEN_DIR "/tiny";

std::vector<std::string> smoke_cases(const char* op) {
  const auto cases = harness::read_cases(FATHOM_CASES_DIR, op, "smoke");
  EXPECT_TRUE(cases.ok() && !cases.value().empty()) << op;
  return cases.value();
}

TEST(AllocationFailure, OfAPlan) {
  std::int64_t failed = 0;
  for (const OpSpec* op : op_table()) {
    const auto built = harness::read_case(op->name, smoke_cases(op->name).front());
    ASSERT_TRUE(built.ok()) << built.status().text();
    const std::string text = problem_text(*op->problem, built->problem.data());
    for (const char* force : {"", "linear=reference"}) {
      failed += fail_every(op->name, [&] { return plan_op(op->name, text, cpu(), {force}).status(); });
    }
    failed += fail_every("candidates", [&] { return candidates(*op, built->problem.data(), cpu()).status(); });
  }
  EXPECT_GT(failed, 100);
  count_cases(failed);
}

TEST(AllocationFailure, OfARefusal) {
  const AttendProblem wrong{.num_heads = 0};
  for (std::int64_t n = 1; n < 100; ++n) {
    const Attempt made = attempt(n, [&] { return plan_attend(wrong, cpu()).status(); });
    EXPECT_EQ(made.leaked, 0);
    EXPECT_FALSE(made.status.ok());
    if (made.failed_one) continue;
    EXPECT_EQ(made.status.code(), StatusCode::invalid_argument);
    return;
  }
}

TEST(AllocationFailure, OfADevice) {
  fail_every("Device::cpu", [] { return Device::cpu(2).status(); });
  fail_every("DeviceMemory::allocate", [] { return DeviceMemory::allocate(cpu(), 1000).status(); });
}

// The sixth law: a run allocates nothing. The definitions may, and then fail as everything does.
TEST(AllocationFailure, ARunHasNone) {
#ifdef FATHOM_PLAIN_THREADS
  GTEST_SKIP() << "threads of this build are made for every run";
#endif
  std::int64_t runs = 0, failed = 0;
  for (const OpSpec* op : op_table()) {
    for (const std::string& text : smoke_cases(op->name)) {
      const auto built = harness::make_case(op->name, text);
      ASSERT_TRUE(built.ok()) << built.status().text();
      const harness::OpCase& it = built.value();
      const auto names = candidates(*op, it.problem.data(), cpu());
      ASSERT_TRUE(names.ok());
      for (const Candidate& candidate : names.value()) {
        if (candidate.device != DeviceKind::cpu || !candidate.reason.empty()) continue;
        const std::string name = candidate.implementation;
        const auto plan = plan_problem(*op, it.problem.data(), cpu(), {name});
        ASSERT_TRUE(plan.ok()) << plan.status().text();
        const harness::WatchedRun once = harness::run_case(it, plan.value(), harness::kPoisons[0]);
        ASSERT_TRUE(once.ok()) << once.problem_text();
        const auto workspace = harness::PlanWorkspace::create(plan.value());
        ASSERT_TRUE(workspace.ok());
        const auto run = [&] { return run_op(plan.value(), once.views, workspace->get()); };
        ++runs;
        if (name == "reference") {
          failed += fail_every(
              op->name + std::string(" reference"), run, [](std::int64_t) {}, true);
          continue;
        }
        const std::int64_t before = allocations.count;
        const Status status = run();
        const std::int64_t made = allocations.count - before;
        EXPECT_TRUE(status.ok()) << status.text();
        EXPECT_EQ(made, 0) << op->name << " " << name << " \"" << text << "\" allocates in its run";
      }
    }
  }
  EXPECT_GT(runs, 30);
  count_cases(runs + failed);
}

/// All that a pool's callers can see of it.
struct PoolState {
  std::vector<std::int64_t> lengths, free_pages;
  std::vector<std::vector<std::int32_t>> tables;
  std::vector<std::vector<std::byte>> snapshots;
  bool operator==(const PoolState&) const = default;

  explicit PoolState(const PagePool& pool) {
    for (int cache = 0; cache < PagePool::kNumCaches; ++cache) free_pages.push_back(pool.num_free_pages(cache));
    for (int sequence = 0; sequence < 8; ++sequence) {
      const auto length = pool.length(sequence);
      lengths.push_back(length.ok() ? length.value() : -1);
      if (!length.ok()) continue;
      for (int cache = 0; cache < PagePool::kNumCaches; ++cache) {
        const auto table = pool.block_table(sequence, cache);
        tables.push_back(table.ok() ? table.value() : std::vector<std::int32_t>());
      }
      const auto snapshot = pool.snapshot(sequence);
      snapshots.push_back(snapshot.ok() ? snapshot.value() : std::vector<std::byte>());
    }
  }
};

class PoolAllocation : public testing::TestWithParam<int> {};

TEST_P(PoolAllocation, FailsWithoutATrace) {
  TinyLayer tiny(GetParam(), Numerics::served);
  const PagePoolOptions options = pool_options_for(tiny.problem, 8, 256, 4).value();
  std::int64_t failed =
      fail_every("pool_options_for", [&] { return pool_options_for(tiny.problem, 8, 256, 4).status(); });
  failed += fail_every("create", [&] { return PagePool::create(tiny.problem, options, cpu()).status(); });

  PagePool pool = PagePool::create(tiny.problem, options, cpu()).value();
  const auto grow = [&pool](std::vector<int> sequences, std::vector<std::int64_t> counts) {
    ASSERT_TRUE(pool.begin_step(sequences, counts).ok());
    ASSERT_TRUE(pool.commit().ok());
  };
  const int first = pool.add_sequence().value(), second = pool.add_sequence().value();
  grow({first, second}, {37, 9});
  const int forked = pool.fork(first, 36).value();
  const std::vector<std::byte> kept = pool.snapshot(first).value();
  const PoolState before(pool);
  const auto unchanged = [&](std::int64_t n) {
    EXPECT_TRUE(PoolState(pool) == before) << "allocation " << n << " left a trace";
  };
  // Each call is undone where it succeeds, so that it can be made again.
  const auto undone = [&pool](const Result<int>& made) {
    if (!made.ok()) return made.status();
    return pool.remove_sequence(made.value());
  };

  failed += fail_every(
      "begin_step",
      [&]() -> Status {
        const int sequences[] = {first, forked, second};
        const std::int64_t counts[] = {30, 2, 1};
        FATHOM_TRY(pool.begin_step(sequences, counts).status());
        pool.abandon();
        return {};
      },
      [&](std::int64_t n) {
        unchanged(n);
        EXPECT_FALSE(pool.commit().ok()) << "a step stayed open";
      });
  failed += fail_every(
      "snapshot", [&] { return pool.snapshot(first).status(); }, unchanged);
  failed += fail_every(
      "block_table", [&] { return pool.block_table(first, PagePool::kWindow).status(); }, unchanged);
  // These may keep room for numbers, so their allocations are no leaks; the pool's own destructor frees them.
  const auto fail_keeping = [&](const char* what, const std::function<Status(PagePool&)>& call) {
    for (std::int64_t n = 1;; ++n) {
      PagePool fresh = PagePool::create(tiny.problem, options, cpu()).value();
      const int parent = fresh.add_sequence().value();
      ASSERT_TRUE(fresh.restore(kept).ok());
      ASSERT_TRUE(fresh.begin_step({{parent}}, {{5}}).ok() && fresh.commit().ok());
      const PoolState was(fresh);
      const Attempt made = attempt(n, [&] { return call(fresh); });
      if (!made.failed_one) {
        EXPECT_TRUE(made.status.ok()) << what << ": " << made.status.text();
        return;
      }
      ++failed;
      EXPECT_EQ(made.status.code(), StatusCode::resource_exhausted) << what << " " << made.status.text();
      EXPECT_TRUE(PoolState(fresh) == was) << what << ": allocation " << n << " left a trace";
      EXPECT_TRUE(call(fresh).ok()) << what << " after a failure";
    }
  };
  fail_keeping("add_sequence", [](PagePool& fresh) -> Status {
    for (int i = 0; i < 20; ++i) {  // past the room that is reserved
      const auto added = fresh.add_sequence();
      if (!added.ok()) {
        for (int k = 2; k < 2 + i; ++k) EXPECT_TRUE(fresh.remove_sequence(k).ok());
        return added.status();
      }
    }
    for (int k = 2; k < 22; ++k) EXPECT_TRUE(fresh.remove_sequence(k).ok());
    return {};
  });
  fail_keeping("fork", [](PagePool& fresh) { return fresh.fork(1, 36).status(); });
  fail_keeping("restore", [&](PagePool& fresh) { return fresh.restore(kept).status(); });
  // Calls that cannot report exhaustion must not allocate at all.
  const std::int64_t count = allocations.count;
  EXPECT_TRUE(undone(pool.length(first).ok() ? Result<int>(forked) : Result<int>(Status::invalid("gone"))).ok());
  EXPECT_TRUE(pool.roll_back(first, 3).ok());
  EXPECT_EQ(allocations.count, count) << "remove_sequence or roll_back allocates";
  EXPECT_GT(failed, 20);
  count_cases(failed);
}

INSTANTIATE_TEST_SUITE_P(AllocationFailure, PoolAllocation, testing::Values(0, 4, 128));

TEST(AllocationFailure, OfConfigurations) {
  const std::string path = kGolden + "/config.json";
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::int64_t failed = fail_every("read_model_config", [&] { return read_model_config(path).status(); });
  failed += fail_every("parse_model_config", [&] { return parse_model_config(text).status(); });
  failed += fail_every("preset_config", [&] { return preset_config("v4-pro").status(); });
  const ModelConfig config = preset_config("v4-flash").value();
  failed += fail_every("layer", [&] { return config.layer(2).status(); });
  const LayerConfig layer = config.layer(2).value();
  failed += fail_every("shard", [&] { return layer.shard(1, 4).status(); });
  EXPECT_GT(failed, 50);
  count_cases(failed);
}

TEST(AllocationFailure, OfCheckpoints) {
  const ModelConfig config = read_model_config(kGolden + "/config.json").value();
  std::int64_t failed = fail_every("open a folder", [&] { return Checkpoint::open(kGolden).status(); });
  const Checkpoint checkpoint = Checkpoint::open(kGolden).value();
  const std::string name = checkpoint.names().front();
  failed += fail_every("describe", [&] { return checkpoint.describe(name).status(); });
  failed += fail_every("tensor", [&]() -> Status {
    FATHOM_ASSIGN(const Checkpoint opened, Checkpoint::open(kGolden));
    FATHOM_ASSIGN(const FileTensor tensor, opened.tensor(name));
    return tensor_view(tensor).status();
  });
  for (int i = 0; i < config.num_attention_layers(); ++i) {
    const LayerConfig layer = config.layer(i).value();
    failed += fail_every("has_layer", [&] { return has_layer(checkpoint, layer).status(); });
  }
  const LayerConfig csa = config.layer(1).value();
  failed += fail_every("load_layer", [&] { return load_layer(checkpoint, csa).status(); });
  EXPECT_GT(failed, 200);
  count_cases(failed);
}

TEST(AllocationFailure, OfAWriterLeavesNoFile) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("fathom_allocation_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::string path = folder / "tensors.safetensors";
  float values[6] = {1, 2, 3, 4, 5, 6};
  const TensorView tensor = view(values, DType::f32, {2, 3});
  const auto written = [&]() -> Status {
    TensorWriter writer;
    FATHOM_TRY(writer.set_metadata("format", "pt"));
    FATHOM_TRY(writer.add("a tensor with a name of some length", tensor));
    FATHOM_TRY(writer.add("another tensor, its name as long", tensor));
    return writer.write(path);
  };
  const std::int64_t failed = fail_every(
      "write",
      [&]() -> Status {
        FATHOM_TRY(written());
        std::error_code ignored;
        return ::unlink(path.c_str()) == 0 ? Status() : Status::invalid("no file was written");
      },
      [&](std::int64_t n) { EXPECT_TRUE(std::filesystem::is_empty(folder)) << "allocation " << n << " left a file"; });
  EXPECT_GT(failed, 20);
  std::filesystem::remove_all(folder);
  count_cases(failed);
}

TEST(AllocationFailure, OfRowsByHand) {
  const RowLayout layout = row_layout(CacheFormat::kv_e4m3_ue8m0, 512).value();
  std::vector<std::byte> bytes(static_cast<std::size_t>(layout.page_stride(4)));
  const TensorView pages = view(bytes.data(), DType::u8, {1, layout.page_stride(4)});
  const PagedCacheView cache = paged_cache("test", "pages", pages, layout, 4).value();
  std::int64_t slots[] = {0, 3};
  std::vector<float> values(2 * 512, 1.0f);
  const TensorView slots_view = view(slots, DType::i64, {2}), values_view = view(values.data(), DType::f32, {2, 512});
  fail_every("write_rows", [&] { return write_rows(cache, slots_view, values_view); });
  fail_every("read_rows", [&] { return read_rows(cache, slots_view, values_view); });
  fail_every("convert_rows", [&] { return convert_rows(cache, slots_view, cache, slots_view); });
}

}  // namespace
}  // namespace fathom::test
