// The C interface: runs through it equal runs through C++, and no argument, however wrong, does more than give a status.
#include "fathom/c/fathom.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fathom/core/op.h"

namespace {

/// A device that is destroyed with its test.
struct DeviceOwner {
  fathom_device* device = nullptr;
  DeviceOwner() { EXPECT_EQ(fathom_device_create("cpu", 2, &device, nullptr), FATHOM_OK); }
  ~DeviceOwner() { fathom_device_destroy(device); }
};

struct PlanDeleter {
  void operator()(fathom_plan* plan) const { fathom_plan_destroy(plan); }
};
using PlanOwner = std::unique_ptr<fathom_plan, PlanDeleter>;

constexpr const char* kProblem = "num_tokens=2 num_scores=4 topk=2";

PlanOwner plan_select(const DeviceOwner& owner, const char* problem = kProblem) {
  fathom_plan* plan = nullptr;
  fathom_status status;
  EXPECT_EQ(fathom_plan_create("select_topk", problem, owner.device, "reference", &plan, &status), FATHOM_OK) << status.text;
  return PlanOwner(plan);
}

/// A workspace of the plan's own size, aligned.
struct WorkspaceOwner {
  fathom_workspace workspace{};
  std::unique_ptr<void, decltype(&std::free)> block{nullptr, &std::free};
  explicit WorkspaceOwner(const fathom_plan* plan) {
    fathom_workspace_size size;
    EXPECT_EQ(fathom_plan_workspace_size(plan, &size, nullptr), FATHOM_OK);
    const int64_t bytes = size.scratch + size.counters + size.schedule;
    block.reset(std::aligned_alloc(FATHOM_WORKSPACE_ALIGNMENT, static_cast<std::size_t>(bytes) + FATHOM_WORKSPACE_ALIGNMENT));
    EXPECT_EQ(fathom_workspace_carve(block.get(), bytes, &size, &workspace, nullptr), FATHOM_OK);
    EXPECT_EQ(fathom_workspace_init(plan, &workspace, nullptr, nullptr), FATHOM_OK);
  }
};

/// select_topk over two rows; `args` are right, and tests bend them.
struct Selection {
  float scores[8] = {1, 4, 4, 2, -1, -3, -2, -4};
  int32_t picks[4] = {77, 77, 77, 77};
  fathom_tensor args[3] = {fathom_tensor_packed(scores, FATHOM_F32, 2, 2, 4, 0, 0), fathom_tensor{},
                           fathom_tensor_packed(picks, FATHOM_I32, 2, 2, 2, 0, 0)};
  bool untouched() const {
    return std::all_of(std::begin(picks), std::end(picks), [](int32_t pick) { return pick == 77; });
  }
};

/// Reads a text through the size question, as a binding would.
template <class Call>
std::string text_of(Call&& call) {
  int64_t size = 0;
  EXPECT_EQ(call(nullptr, 0, &size), FATHOM_OK);
  std::string text(static_cast<std::size_t>(size), '?');
  EXPECT_EQ(call(text.data(), size, &size), FATHOM_OK);
  EXPECT_EQ(text.back(), '\0');
  text.pop_back();
  EXPECT_EQ(text.size(), std::strlen(text.c_str()));
  return text;
}

std::string version_file() {
  std::string text;
  if (std::FILE* file = std::fopen(FATHOM_SOURCE_DIR "/VERSION", "r")) {
    for (int c = std::fgetc(file); c != EOF && c != '\n'; c = std::fgetc(file)) text += static_cast<char>(c);
    std::fclose(file);
  }
  return text;
}

TEST(CApi, VersionIsTheTrees) {
  EXPECT_EQ(fathom_version(), version_file());
  EXPECT_EQ(fathom_abi_version(), FATHOM_C_ABI_VERSION);
}

TEST(CApi, CodesHaveTheirNames) {
  EXPECT_STREQ(fathom_code_name(FATHOM_OK), "ok");
  EXPECT_STREQ(fathom_code_name(FATHOM_INVALID_ARGUMENT), "invalid_argument");
  EXPECT_STREQ(fathom_code_name(FATHOM_DEVICE_ERROR), "device_error");
  for (const int32_t code : {-1, 6, 256, INT32_MAX, INT32_MIN}) EXPECT_STREQ(fathom_code_name(code), "unknown") << code;
}

TEST(CApi, PackedTensorsHaveRowMajorStrides) {
  float data[24];
  const fathom_tensor tensor = fathom_tensor_packed(data, FATHOM_F32, 3, 2, 3, 4, 99);
  EXPECT_EQ(tensor.rank, 3);
  EXPECT_EQ(tensor.shape[2], 4);
  EXPECT_EQ(tensor.strides[0], 12);
  EXPECT_EQ(tensor.strides[1], 4);
  EXPECT_EQ(tensor.strides[2], 1);
  EXPECT_EQ(tensor.shape[3], 0);
  for (const int32_t rank : {0, -1, 5, INT32_MAX, INT32_MIN}) EXPECT_EQ(fathom_tensor_packed(data, 0, rank, 1, 1, 1, 1).rank, 0);
  for (const int32_t dtype : {-1, 8, 256, INT32_MAX, INT32_MIN}) {  // 256 would be f32 in a byte
    EXPECT_EQ(fathom_tensor_packed(data, dtype, 1, 1, 0, 0, 0).rank, 0) << dtype;
  }
  EXPECT_EQ(fathom_tensor_packed(data, FATHOM_U8, 1, 1, 0, 0, 0).dtype, FATHOM_U8);
  EXPECT_EQ(fathom_tensor_packed(data, 0, 3, 1, INT64_MAX, INT64_MAX, 0).strides[0], INT64_MAX);
}

TEST(CApi, RunPicksWhatThePlanSays) {
  DeviceOwner owner;
  const PlanOwner plan = plan_select(owner);
  EXPECT_STREQ(fathom_plan_op(plan.get()), "select_topk");
  EXPECT_STREQ(fathom_plan_implementation(plan.get()), "reference");
  WorkspaceOwner workspace(plan.get());
  Selection s;
  fathom_status status;
  std::memset(&status, 0x5a, sizeof(status));
  ASSERT_EQ(fathom_run(plan.get(), s.args, 3, &workspace.workspace, nullptr, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(status.code, FATHOM_OK);
  EXPECT_STREQ(status.text, "");
  EXPECT_EQ(s.picks[0], 1);
  EXPECT_EQ(s.picks[1], 2);
  EXPECT_EQ(s.picks[2], 0);
  EXPECT_EQ(s.picks[3], 2);
}

TEST(CApi, PlansOutliveTheirDevice) {
  PlanOwner plan;
  {
    DeviceOwner owner;
    plan = plan_select(owner);
  }
  WorkspaceOwner workspace(plan.get());
  Selection s;
  EXPECT_EQ(fathom_run(plan.get(), s.args, 3, &workspace.workspace, nullptr, nullptr), FATHOM_OK);
  EXPECT_EQ(s.picks[0], 1);
}

TEST(CApi, ThreadsShareAPlanButNotStatuses) {
  DeviceOwner owner;
  const PlanOwner plan = plan_select(owner);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      WorkspaceOwner workspace(plan.get());
      for (int round = 0; round < 50; ++round) {
        Selection s;
        fathom_status status;
        const int32_t count = i % 2 == 0 ? 3 : 2;
        const fathom_code code = fathom_run(plan.get(), s.args, count, &workspace.workspace, nullptr, &status);
        const bool right = count == 3 ? code == FATHOM_OK && s.picks[1] == 2
                                      : code == FATHOM_INVALID_ARGUMENT && std::strstr(status.text, "2 arguments") != nullptr;
        wrong[i] += right ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(CApi, EveryNullPointerGivesAStatusThatNamesIt) {
  DeviceOwner owner;
  const PlanOwner plan = plan_select(owner);
  fathom_device* device = nullptr;
  fathom_plan* made = nullptr;
  fathom_status s;
  fathom_workspace workspace{};
  fathom_workspace_size size{};
  fathom_cache_layout layout;
  fathom_rope rope{};
  fathom_tensor tensor{};
  char text[8];
  const auto names = [&s](fathom_code code, const char* argument) {
    EXPECT_EQ(code, FATHOM_INVALID_ARGUMENT) << argument;
    EXPECT_EQ(s.code, FATHOM_INVALID_ARGUMENT) << argument;
    EXPECT_NE(std::strstr(s.text, (std::string(": ") + argument + " is NULL").c_str()), nullptr) << s.text;
  };
  names(fathom_device_create(nullptr, 0, &device, &s), "name");
  names(fathom_device_create("cpu", 0, nullptr, &s), "device");
  names(fathom_plan_create(nullptr, kProblem, owner.device, nullptr, &made, &s), "op");
  names(fathom_plan_create("select_topk", nullptr, owner.device, nullptr, &made, &s), "problem");
  names(fathom_plan_create("select_topk", kProblem, nullptr, nullptr, &made, &s), "device");
  names(fathom_plan_create("select_topk", kProblem, owner.device, nullptr, nullptr, &s), "plan");
  names(fathom_plan_workspace_size(nullptr, &size, &s), "plan");
  names(fathom_plan_workspace_size(plan.get(), nullptr, &s), "size");
  names(fathom_workspace_carve(nullptr, 0, nullptr, &workspace, &s), "size");
  names(fathom_workspace_carve(nullptr, 0, &size, nullptr, &s), "workspace");
  names(fathom_workspace_init(nullptr, &workspace, nullptr, &s), "plan");
  names(fathom_workspace_init(plan.get(), nullptr, nullptr, &s), "workspace");
  names(fathom_run(nullptr, &tensor, 1, &workspace, nullptr, &s), "plan");
  names(fathom_run(plan.get(), nullptr, 3, &workspace, nullptr, &s), "args");
  names(fathom_run(plan.get(), &tensor, 1, nullptr, nullptr, &s), "workspace");
  names(fathom_op_json(nullptr, text, 8, nullptr, &s), "op");
  names(fathom_op_json("attend", nullptr, 8, nullptr, &s), "buffer");
  names(fathom_op_json("attend", nullptr, 0, nullptr, &s), "buffer");
  names(fathom_candidates_json(nullptr, kProblem, owner.device, text, 8, nullptr, &s), "op");
  names(fathom_candidates_json("select_topk", nullptr, owner.device, text, 8, nullptr, &s), "problem");
  names(fathom_candidates_json("select_topk", kProblem, nullptr, text, 8, nullptr, &s), "device");
  names(fathom_rope_table(nullptr, 0, &tensor, &s), "rope");
  names(fathom_rope_table(&rope, 0, nullptr, &s), "table");
  names(fathom_cache_layout_of(nullptr, 512, 64, &layout, &s), "format");
  names(fathom_cache_layout_of("kv_f32", 512, 64, nullptr, &s), "layout");
  for (const auto copy : {fathom_cache_write, fathom_cache_read}) {
    names(copy(nullptr, 8, 1, &tensor, &tensor, &tensor, &s), "format");
    names(copy("kv_f32", 8, 1, nullptr, &tensor, &tensor, &s), "pages");
    names(copy("kv_f32", 8, 1, &tensor, nullptr, &tensor, &s), "slots");
    names(copy("kv_f32", 8, 1, &tensor, &tensor, nullptr, &s), "values");
  }
  EXPECT_EQ(device, nullptr);
  EXPECT_EQ(made, nullptr);
  EXPECT_EQ(fathom_plan_op(nullptr), nullptr);
  EXPECT_EQ(fathom_plan_implementation(nullptr), nullptr);
  fathom_device_destroy(nullptr);
  fathom_plan_destroy(nullptr);
}

TEST(CApi, AllNullsWithoutAStatusAreErrorsToo) {
  EXPECT_EQ(fathom_device_create(nullptr, 0, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_plan_create(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_plan_workspace_size(nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_workspace_carve(nullptr, 0, nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_workspace_init(nullptr, nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_run(nullptr, nullptr, 0, nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_op_json(nullptr, nullptr, 0, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_candidates_json(nullptr, nullptr, nullptr, nullptr, 0, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_rope_table(nullptr, 0, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_cache_layout_of(nullptr, 0, 0, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_cache_write(nullptr, 0, 0, nullptr, nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_cache_read(nullptr, 0, 0, nullptr, nullptr, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
}

TEST(CApi, DevicesAreRefusedByName) {
  fathom_device* device = nullptr;
  fathom_status status;
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:0 ", "cuda0", "cpu:0"}) {
    EXPECT_EQ(fathom_device_create(name, 0, &device, &status), FATHOM_UNSUPPORTED) << name;
    EXPECT_NE(std::strstr(status.text, name), nullptr) << status.text;
  }
  for (const char* name : {"cuda:-1", "cuda:4096"}) EXPECT_NE(fathom_device_create(name, 0, &device, &status), FATHOM_OK) << name;
  if (fathom_cuda_count() == 0) {
    EXPECT_EQ(fathom_device_create("cuda", 0, &device, &status), FATHOM_UNSUPPORTED);
  }
  EXPECT_EQ(fathom_device_create("", 0, &device, &status), FATHOM_UNSUPPORTED);
  for (const int32_t threads : {-1, INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(fathom_device_create("cpu", threads, &device, &status), FATHOM_INVALID_ARGUMENT) << threads;
  }
  EXPECT_EQ(device, nullptr);
}

TEST(CApi, DevicesSayWhatTheyAre) {
  DeviceOwner owner;
  const std::string text =
      text_of([&](char* buffer, int64_t capacity, int64_t* size) { return fathom_device_json(owner.device, buffer, capacity, size, nullptr); });
  EXPECT_EQ(text.find("{\"kind\": \"cpu\", \"index\": 0, \"num_threads\": 2,"), 0u) << text;
  EXPECT_EQ(fathom_device_json(nullptr, nullptr, 0, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
  EXPECT_GE(fathom_cuda_count(), 0);
}

TEST(CApi, BadPlansNameWhatIsWrong) {
  DeviceOwner owner;
  struct Case {
    const char *op, *problem, *force;
    fathom_code code;
    const char* fragment;
  };
  const std::string long_text(100000, 'x');
  for (const Case& c : {
           Case{"nothing", "", nullptr, FATHOM_INVALID_ARGUMENT, "nothing"},
           Case{"", "", nullptr, FATHOM_INVALID_ARGUMENT, "no op"},
           Case{long_text.c_str(), "", nullptr, FATHOM_INVALID_ARGUMENT, "no op"},
           Case{"select_topk", "topk", nullptr, FATHOM_INVALID_ARGUMENT, "topk"},
           Case{"select_topk", "colour=3", nullptr, FATHOM_INVALID_ARGUMENT, "colour"},
           Case{"select_topk", "topk=3 topk=3", nullptr, FATHOM_INVALID_ARGUMENT, "twice"},
           Case{"select_topk", "num_scores=99999999999999999999", nullptr, FATHOM_INVALID_ARGUMENT, "num_scores"},
           Case{"select_topk", "num_scores=4 topk=-1", nullptr, FATHOM_INVALID_ARGUMENT, "topk"},
           Case{"select_topk", long_text.c_str(), nullptr, FATHOM_INVALID_ARGUMENT, "bytes"},
           Case{"select_topk", kProblem, "cuda:sm80", FATHOM_UNSUPPORTED, "cuda:sm80"},
           Case{"select_topk", kProblem, long_text.c_str(), FATHOM_UNSUPPORTED, "no implementation"},
       }) {
    fathom_plan* plan = nullptr;
    fathom_status status;
    EXPECT_EQ(fathom_plan_create(c.op, c.problem, owner.device, c.force, &plan, &status), c.code) << status.text;
    EXPECT_NE(std::strstr(status.text, c.fragment), nullptr) << status.text;
    EXPECT_EQ(plan, nullptr);
  }
}

TEST(CApi, AnEmptyForceTakesTheFirstThatFits) {
  DeviceOwner owner;
  fathom_plan *by_null = nullptr, *by_empty = nullptr;
  ASSERT_EQ(fathom_plan_create("select_topk", kProblem, owner.device, nullptr, &by_null, nullptr), FATHOM_OK);
  ASSERT_EQ(fathom_plan_create("select_topk", kProblem, owner.device, "", &by_empty, nullptr), FATHOM_OK);
  EXPECT_STREQ(fathom_plan_implementation(by_null), fathom_plan_implementation(by_empty));
  fathom_plan_destroy(by_null);
  fathom_plan_destroy(by_empty);
}

TEST(CApi, BadArgumentsAreRefusedAndNothingIsWritten) {
  DeviceOwner owner;
  const PlanOwner plan = plan_select(owner);
  WorkspaceOwner workspace(plan.get());
  using Bend = void (*)(Selection&);
  const std::pair<const char*, Bend> cases[] = {
      {"scores missing", [](Selection& s) { s.args[0] = fathom_tensor{}; }},
      {"output missing", [](Selection& s) { s.args[2] = fathom_tensor{}; }},
      {"wrong dtype", [](Selection& s) { s.args[0].dtype = FATHOM_BF16; }},
      {"dtype past the table", [](Selection& s) { s.args[0].dtype = 8; }},
      {"dtype 255", [](Selection& s) { s.args[2].dtype = 255; }},
      {"on a GPU", [](Selection& s) { s.args[0].device = FATHOM_CUDA; }},
      {"device 255", [](Selection& s) { s.args[0].device = 255; }},
      {"device index", [](Selection& s) { s.args[2].device_index = -1; }},
      {"rank 1", [](Selection& s) { s.args[0].rank = 1; }},
      {"rank 5", [](Selection& s) { s.args[0].rank = 5; }},
      {"rank huge", [](Selection& s) { s.args[0].rank = INT32_MAX; }},
      {"rank negative", [](Selection& s) { s.args[2].rank = -1; }},
      {"shape", [](Selection& s) { s.args[0].shape[1] = 3; }},
      {"negative shape", [](Selection& s) { s.args[0].shape[0] = -2; }},
      {"huge shape", [](Selection& s) { s.args[2].shape[0] = INT64_MAX; }},
      {"tokens past the plan", [](Selection& s) { s.args[0].shape[0] = s.args[2].shape[0] = 3; }},
      {"tokens that disagree", [](Selection& s) { s.args[0].shape[0] = 1; }},
      {"last stride", [](Selection& s) { s.args[0].strides[1] = 2; }},
      {"negative stride", [](Selection& s) { s.args[0].strides[0] = -4; }},
      {"stride overflow", [](Selection& s) { s.args[0].strides[0] = INT64_MAX; }},
      {"output folded onto itself", [](Selection& s) { s.args[2].strides[0] = 0; }},
      {"no data", [](Selection& s) { s.args[0].data = nullptr; }},
      {"misaligned", [](Selection& s) { s.args[2].data = reinterpret_cast<char*>(s.picks) + 1; }},
  };
  for (const auto& [name, bend] : cases) {
    Selection s;
    bend(s);
    fathom_status status;
    EXPECT_EQ(fathom_run(plan.get(), s.args, 3, &workspace.workspace, nullptr, &status), FATHOM_INVALID_ARGUMENT) << name;
    EXPECT_GT(std::strlen(status.text), 10u) << name;
    EXPECT_TRUE(s.untouched()) << name;
  }
}

TEST(CApi, WrongCountsAreRefused) {
  DeviceOwner owner;
  const PlanOwner plan = plan_select(owner);
  WorkspaceOwner workspace(plan.get());
  for (const int32_t count : {0, 1, 2, 4, 64, 65, -1, INT32_MAX, INT32_MIN}) {
    std::vector<fathom_tensor> args(64);
    Selection s;
    std::copy(std::begin(s.args), std::end(s.args), args.begin());
    fathom_status status;
    EXPECT_EQ(fathom_run(plan.get(), args.data(), count, &workspace.workspace, nullptr, &status), FATHOM_INVALID_ARGUMENT) << count;
    EXPECT_NE(std::strstr(status.text, "expected 3"), nullptr) << status.text;
    EXPECT_TRUE(s.untouched()) << count;
  }
}

TEST(CApi, EveryOpFitsTheMostArgumentsOfARun) {
  for (const fathom::OpSpec* op : fathom::op_table()) EXPECT_LE(op->args.size(), 64u) << op->name;
}

TEST(CApi, CarvingChecksSizesAndAlignment) {
  alignas(256) static char block[2048];
  fathom_workspace workspace;
  std::memset(&workspace, 0x5a, sizeof(workspace));
  const fathom_workspace before = workspace;
  fathom_status status;
  const fathom_workspace_size size = {300, 4, 0};
  EXPECT_EQ(fathom_workspace_carve(block, 767, &size, &workspace, &status), FATHOM_INSUFFICIENT_WORKSPACE);
  EXPECT_NE(std::strstr(status.text, "767"), nullptr) << status.text;
  EXPECT_EQ(fathom_workspace_carve(nullptr, 2048, &size, &workspace, &status), FATHOM_INSUFFICIENT_WORKSPACE);
  EXPECT_EQ(fathom_workspace_carve(block + 16, 2000, &size, &workspace, &status), FATHOM_INVALID_ARGUMENT);
  for (const int64_t part : {int64_t{-1}, INT64_MIN, INT64_MAX}) {
    const fathom_workspace_size bad = {part, 0, 0};
    EXPECT_EQ(fathom_workspace_carve(block, INT64_MAX, &bad, &workspace, &status), FATHOM_INVALID_ARGUMENT) << part;
  }
  EXPECT_EQ(std::memcmp(&workspace, &before, sizeof(before)), 0);

  ASSERT_EQ(fathom_workspace_carve(block, 768, &size, &workspace, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(workspace.scratch.data, block);
  EXPECT_EQ(workspace.scratch.bytes, 300);
  EXPECT_EQ(workspace.counters.data, block + 512);
  EXPECT_EQ(workspace.counters.bytes, 4);
  const fathom_workspace_size nothing = {0, 0, 0};
  ASSERT_EQ(fathom_workspace_carve(nullptr, 0, &nothing, &workspace, &status), FATHOM_OK) << status.text;
  EXPECT_EQ(workspace.scratch.data, nullptr);
}

TEST(CApi, OpNamesEndWhereTheTableEnds) {
  ASSERT_GT(fathom_op_count(), 0);
  ASSERT_EQ(fathom_op_count(), static_cast<int32_t>(fathom::op_table().size()));
  for (int32_t i = 0; i < fathom_op_count(); ++i) EXPECT_NE(fathom::find_op(fathom_op_name(i)), nullptr);
  for (const int32_t i : {-1, fathom_op_count(), INT32_MAX, INT32_MIN}) EXPECT_EQ(fathom_op_name(i), nullptr);
}

TEST(CApi, TextsNeverOverrunTheirBuffer) {
  const std::string whole = text_of([](char* buffer, int64_t capacity, int64_t* size) {
    return fathom_op_json("linear", buffer, capacity, size, nullptr);
  });
  for (const int64_t capacity : {int64_t{0}, int64_t{1}, static_cast<int64_t>(whole.size()), int64_t{-1}, INT64_MIN}) {
    std::string buffer(whole.size() + 16, '#');
    int64_t size = -7;
    fathom_status status;
    EXPECT_EQ(fathom_op_json("linear", buffer.data(), capacity, &size, &status), FATHOM_INVALID_ARGUMENT) << capacity;
    EXPECT_EQ(buffer, std::string(buffer.size(), '#')) << capacity;
    EXPECT_EQ(size, -7);
    EXPECT_NE(std::strstr(status.text, std::to_string(whole.size() + 1).c_str()), nullptr) << status.text;
  }
  std::string exact(whole.size() + 2, '#');
  EXPECT_EQ(fathom_op_json("linear", exact.data(), static_cast<int64_t>(whole.size()) + 1, nullptr, nullptr), FATHOM_OK);
  EXPECT_EQ(exact.back(), '#');
  EXPECT_EQ(exact.substr(0, whole.size()), whole);
  EXPECT_EQ(fathom_op_json("nothing", exact.data(), 8, nullptr, nullptr), FATHOM_INVALID_ARGUMENT);
}

TEST(CApi, CandidatesEndWithTheReference) {
  DeviceOwner owner;
  const std::string text = text_of([&](char* buffer, int64_t capacity, int64_t* size) {
    return fathom_candidates_json("select_topk", kProblem, owner.device, buffer, capacity, size, nullptr);
  });
  EXPECT_NE(text.find("\"implementation\": \"reference\", \"reason\": \"\"}]"), std::string::npos) << text;
  fathom_status status;
  char buffer[8];
  EXPECT_EQ(fathom_candidates_json("select_topk", "topk=0", owner.device, buffer, 8, nullptr, &status), FATHOM_INVALID_ARGUMENT);
  EXPECT_EQ(fathom_candidates_json("nothing", kProblem, owner.device, buffer, 8, nullptr, &status), FATHOM_INVALID_ARGUMENT);
}

}  // namespace
