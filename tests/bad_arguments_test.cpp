// BadArguments: every argument of every op, spoilt in every way there is. Each call is refused by one sentence that
// names the op and the argument, and nothing is written.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "harness/case_file.h"
#include "harness/plan_workspace.h"
#include "harness/run.h"
#include "support/cases.h"
#include "support/cut_run.h"

namespace fathom {
namespace {

struct Spoil {
  const char* what;
  /// False where the view cannot be spoilt so.
  std::function<bool(TensorView& view, const ArgSpec& spec)> change;
};

const std::vector<Spoil>& spoils() {
  static const std::vector<Spoil> kSpoils = {
      {"missing", [](TensorView& view, const ArgSpec& spec) { return view = {}, !is_optional(spec.role); }},
      {"another dtype",
       [](TensorView& view, const ArgSpec& spec) {
         view.dtype = std::string(spec.dtypes).find("i32") == std::string::npos ? DType::i32 : DType::i64;
         return true;
       }},
      {"no dtype", [](TensorView& view, const ArgSpec&) { return view.dtype = static_cast<DType>(99), true; }},
      {"on a GPU", [](TensorView& view, const ArgSpec&) { return view.device = DeviceKind::cuda, true; }},
      {"on another device", [](TensorView& view, const ArgSpec&) { return view.device_index = 3, true; }},
      {"a rank more",
       [](TensorView& view, const ArgSpec&) {
         if (view.rank == TensorView::kMaxRank) return false;
         view.shape[view.rank] = view.strides[view.rank] = 1;
         return ++view.rank, true;
       }},
      {"a rank less",
       [](TensorView& view, const ArgSpec& spec) {  // a rank of 0 is absence
         return --view.rank > 0 || !is_optional(spec.role);
       }},
      {"a rank of 9", [](TensorView& view, const ArgSpec&) { return view.rank = 9, true; }},
      {"a rank below 0", [](TensorView& view, const ArgSpec&) { return view.rank = -1, true; }},
      {"a first extent below 0", [](TensorView& view, const ArgSpec&) { return view.shape[0] = -1, true; }},
      {"a huge last extent",
       [](TensorView& view, const ArgSpec&) { return view.shape[view.rank - 1] = std::int64_t{1} << 60, true; }},
      {"a stride below 0", [](TensorView& view, const ArgSpec&) { return view.strides[0] = -1, view.shape[0] > 0; }},
      {"a stride that overflows",
       [](TensorView& view, const ArgSpec&) { return view.strides[0] = INT64_MAX / 2, view.shape[0] > 1; }},
      {"a last stride of 2",
       [](TensorView& view, const ArgSpec&) { return view.strides[view.rank - 1] = 2, view.shape[view.rank - 1] > 1; }},
      {"rows on each other",
       [](TensorView& view, const ArgSpec& spec) {
         if (!is_written(spec.role) || view.rank < 2 || view.shape[0] < 2) return false;
         return view.strides[0] = 0, true;
       }},
      {"no data", [](TensorView& view, const ArgSpec&) { return view.data = nullptr, view.numel() > 0; }},
      {"askew",
       [](TensorView& view, const ArgSpec&) {
         if (bits_of(view.dtype) < 16) return false;
         view.data = static_cast<std::byte*>(view.data) + 1;
         return true;
       }},
  };
  return kSpoils;
}

class BadArguments : public testing::TestWithParam<test::OpName> {};

TEST_P(BadArguments, AreRefusedByNameAndNothingIsWritten) {
  const std::string op = GetParam().name;
  const auto texts = harness::read_cases(FATHOM_CASES_DIR, op, "smoke");
  ASSERT_TRUE(texts.ok());
  std::int64_t refused = 0;
  for (const std::string& text : texts.value()) {
    const auto built = harness::make_case(op, text);
    ASSERT_TRUE(built.ok()) << built.status().text();
    const auto plan = plan_problem(*built->op, built->problem.data(), Device::cpu(2).value());
    ASSERT_TRUE(plan.ok()) << plan.status().text();
    const auto workspace = harness::PlanWorkspace::create(plan.value());
    ASSERT_TRUE(workspace.ok());
    harness::WatchedRun run = harness::run_case(built.value(), plan.value(), harness::kPoisons[0]);
    ASSERT_TRUE(run.ok()) << run.problem_text();
    std::vector<std::uint64_t> before;
    for (const harness::GuardedBlock& block : run.blocks) before.push_back(block.checksum());
    for (std::size_t i = 0; i < run.views.size(); ++i) {
      if (run.views[i].is_absent()) continue;
      for (const Spoil& spoil : spoils()) {
        std::vector<TensorView> views = run.views;
        if (!spoil.change(views[i], built->op->args[i])) continue;
        const Status status = run_op(plan.value(), views, workspace->get());
        const std::string shown = op + " \"" + text + "\": " + built->op->args[i].name + " with " + spoil.what;
        EXPECT_EQ(status.code(), StatusCode::invalid_argument)
            << shown << ": " << name_of(status.code()) << " " << status.text();
        EXPECT_TRUE(std::string(status.text()).starts_with(op + ": ")) << shown << ": " << status.text();
        // A shared extent may be found wanting at the next argument that has it; anything else names the culprit.
        const bool shared = std::string(spoil.what).find("extent") != std::string::npos;
        EXPECT_TRUE(shared || std::string(status.text()).find(built->op->args[i].name) != std::string::npos)
            << shown << ": " << status.text();
        ++refused;
      }
    }
    for (std::size_t i = 0; i < run.blocks.size(); ++i) {
      EXPECT_EQ(run.blocks[i].checksum(), before[i]) << op << ": a refused call wrote " << built->op->args[i].name;
    }
  }
  EXPECT_GT(refused, 30);
  test::count_cases(refused);
}

TEST_P(BadArguments, ProblemsOutOfBoundsAreRefusedByField) {
  const std::string op = GetParam().name;
  const auto texts = harness::read_cases(FATHOM_CASES_DIR, op, "smoke");
  ASSERT_TRUE(texts.ok());
  const auto built = harness::read_case(op, texts->front());
  ASSERT_TRUE(built.ok());
  const Device device = Device::cpu(1).value();
  std::int64_t refused = 0;
  const auto expect_refused = [&](const ProblemField& field, const std::vector<std::byte>& problem) {
    const Status status = plan_problem(*built->op, problem.data(), device).status();
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << op << " " << field.name;
    EXPECT_NE(std::string(status.text()).find(field.name), std::string::npos) << status.text();
    ++refused;
  };
  for (const ProblemField& field : built->op->problem->fields) {
    std::vector<std::byte> problem = built->problem;
    if (field.kind == FieldKind::integer || field.kind == FieldKind::capacity) {
      for (const std::int64_t value :
           {field.least - 1, field.most + 1, std::int64_t{INT32_MIN}, std::int64_t{INT32_MAX}}) {
        if (value >= field.least && value <= field.most) continue;
        const auto number = static_cast<std::int32_t>(value);
        if (number != value) continue;
        std::memcpy(problem.data() + field.offset, &number, sizeof(number));
        expect_refused(field, problem);
      }
    } else if (field.kind == FieldKind::real) {
      for (const float value : {__builtin_nanf(""), __builtin_inff(), -__builtin_inff()}) {
        std::memcpy(problem.data() + field.offset, &value, sizeof(value));
        expect_refused(field, problem);
      }
    } else {
      for (const int value : {static_cast<int>(field_words(field).size()), 255}) {
        problem[field.offset] = static_cast<std::byte>(value);
        expect_refused(field, problem);
      }
    }
  }
  EXPECT_GT(refused, 5);
  test::count_cases(refused);
}

INSTANTIATE_TEST_SUITE_P(All, BadArguments, testing::ValuesIn(test::op_names()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace fathom
