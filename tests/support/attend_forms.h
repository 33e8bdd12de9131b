// The forms of attend beside the passes they replace: project's head norm and rotation, output's turning back, and the
// quantiser. Everything lies on one device, and bits are compared.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cache/number_codecs.h"
#include "fathom/attend.h"
#include "fathom/output.h"
#include "fathom/project.h"
#include "harness/device_case.h"
#include "harness/plan_workspace.h"

namespace fathom::test {

class AttendForms {
 public:
  /// A case of attend on `device`; `implementation` is attend's, `others` that of project and output ("" = the best).
  AttendForms(const Device& device, const std::string& text, std::string implementation, std::string others)
      : device_(device), implementation_(std::move(implementation)), others_(std::move(others)) {
    attend_case_ = made("attend", "q_form=raw out_form=unrotated outputs=1 sink=1 " + text);
    problem_ = attend_case_.problem_as<AttendProblem>();
    const bool exact = problem_.q_dtype == DType::f32;
    const std::string sizes =
        "num_tokens=" + std::to_string(tokens()) + " num_heads=" + std::to_string(problem_.num_heads) +
        " head_dim=" + std::to_string(problem_.head_dim) + " rope_dim=" + std::to_string(problem_.rope_dim) +
        " hidden_size=48" + (exact ? " numerics=exact" : "");
    project_case_ = made("project", sizes + " q_rank=40 seed=4 window_format=kv_f32");
    output_case_ = made("output", sizes + " output_rank=24 seed=5" + (exact ? " out_dtype=f32" : ""));
    attend_ = placed(attend_case_);
    project_ = placed(project_case_);
    output_ = placed(output_case_);
  }

  /// Raw queries give what final ones give, in every output.
  void raw_queries_change_nothing() {
    const std::vector<std::vector<std::byte>> expected = results(QForm::final, OutForm::plain);
    const std::vector<std::byte> final_q = bytes_of_view(view("q"));
    const std::vector<std::vector<std::byte>> got = results(QForm::raw, OutForm::plain);
    EXPECT_NE(final_q, bytes_of_view(view("q"))) << "raw queries are final already: the test shows nothing";
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(expected[i] == got[i]) << kOutputs[i] << " differs";
  }

  /// An unrotated result is the plain one turned back, and output makes the same of both.
  void unrotated_results_are_outputs_own() {
    const auto plain = results(QForm::raw, OutForm::plain);
    const std::vector<std::byte> expected = output_of(OutForm::plain);
    const auto unrotated = results(QForm::raw, OutForm::unrotated);
    EXPECT_FALSE(plain[0] == unrotated[0]) << "nothing was turned: the test shows nothing";
    EXPECT_TRUE(plain[1] == unrotated[1]) << "lse differs";
    EXPECT_TRUE(expected == output_of(OutForm::unrotated)) << "output differs";
  }

  /// Codes are those of the unrotated result.
  void codes_are_those_of_the_quantiser() {
    results(QForm::raw, OutForm::unrotated);
    const std::vector<std::byte> unrotated = packed(view("out"));
    results(QForm::raw, OutForm::e4m3);
    const std::vector<std::byte> codes = packed(codes_view_), scales = packed(scales_view_);
    const int dim = problem_.value_dim, blocks = (dim + 127) / 128;
    std::vector<float> row(static_cast<std::size_t>(dim));
    std::vector<std::uint8_t> expected(static_cast<std::size_t>(dim));
    for (std::int64_t unit = 0; unit < tokens() * problem_.num_heads; ++unit) {
      const auto* from = reinterpret_cast<const bf16*>(unrotated.data()) + unit * dim;
      for (int c = 0; c < dim; ++c) row[static_cast<std::size_t>(c)] = to_f32(from[c]);
      for (int block = 0; block < blocks; ++block) {
        const int first = 128 * block;
        const std::uint8_t scale = quantise_q8(row.data() + first, std::min(128, dim - first), expected.data() + first);
        ASSERT_EQ(static_cast<int>(scales[static_cast<std::size_t>(unit * blocks + block)]), scale)
            << "head " << unit << " block " << block;
      }
      for (int c = 0; c < dim; ++c) {
        ASSERT_EQ(static_cast<int>(codes[static_cast<std::size_t>(unit * dim + c)]),
                  expected[static_cast<std::size_t>(c)])
            << "head " << unit << " element " << c;
      }
    }
  }

  /// False where the implementation refuses the forms of this case.
  bool is_taken() const { return plan_attend(problem_, device_, {implementation_}).ok(); }

 private:
  static constexpr const char* kOutputs[] = {"out", "lse", "max_logits"};

  static harness::OpCase made(const char* op, const std::string& text) {
    auto built = harness::make_case(op, text);
    EXPECT_TRUE(built.ok()) << built.status().text() << " \"" << text << "\"";
    return std::move(built).value();
  }
  harness::DeviceCase placed(const harness::OpCase& built) const {
    auto placed = harness::DeviceCase::create(built, device_);
    EXPECT_TRUE(placed.ok()) << placed.status().text();
    return std::move(placed).value();
  }
  std::int64_t tokens() const { return attend_case_.arg("q").view.shape[0]; }
  TensorView view(const char* name) const { return attend_->views()[attend_case_.index_of(name)]; }

  void run(Result<AnyPlan> plan, const std::vector<TensorView>& views) {
    ASSERT_TRUE(plan.ok()) << plan.status().text();
    const auto workspace = harness::PlanWorkspace::create(plan.value());
    ASSERT_TRUE(workspace.ok());
    const Status status = run_op(plan.value(), views, workspace->get());
    ASSERT_TRUE(status.ok()) << status.text();
    ASSERT_TRUE(synchronize(device_).ok());
  }
  /// The whole memory between a view's first and last element.
  std::vector<std::byte> bytes_of_view(const TensorView& view) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(harness::span_bytes(view)));
    EXPECT_TRUE(copy_bytes(device_, bytes.data(), view.data, static_cast<std::int64_t>(bytes.size())).ok());
    EXPECT_TRUE(synchronize(device_).ok());
    return bytes;
  }
  /// Its elements, packed.
  std::vector<std::byte> packed(const TensorView& view) const {
    std::vector<std::byte> bytes = bytes_of_view(view), result;
    TensorView host = view;
    host.data = bytes.data();
    harness::for_each_row(host, [&](const std::byte* row, std::int64_t count) {
      result.insert(result.end(), row, row + fathom::bytes_of(view.dtype, count));
    });
    return result;
  }

  /// Queries of that form by project, straight into attend's q; then attend. The outputs' elements.
  std::vector<std::vector<std::byte>> results(QForm q_form, OutForm out_form) {
    ProjectProblem project = project_case_.problem_as<ProjectProblem>();
    project.q_form = q_form;
    std::vector<TensorView> views = project_->views();
    views[project_case_.index_of("q")] = view("q");
    views[project_case_.index_of("rope_table")] = view("rope_table");
    views[project_case_.index_of("positions")] = view("positions");
    run(as_any(plan_project(project, device_, {others_})), views);

    AttendProblem problem = problem_;
    problem.q_form = q_form;
    problem.out_form = out_form;
    views = attend_->views();
    if (q_form == QForm::final && out_form == OutForm::plain) {
      views[attend_case_.index_of("rope_table")] = views[attend_case_.index_of("positions")] = {};
    }
    if (out_form == OutForm::e4m3) {
      problem.out_dtype = DType::e4m3;
      codes_ = memory_of(tokens() * problem.num_heads * problem.value_dim);
      const std::int64_t blocks = (problem.value_dim + 127) / 128;
      scales_ = memory_of(tokens() * problem.num_heads * blocks);
      codes_view_ = fathom::view(codes_.data(), DType::e4m3, {tokens(), problem.num_heads, problem.value_dim}, device_);
      scales_view_ = fathom::view(scales_.data(), DType::ue8m0, {tokens(), problem.num_heads, blocks}, device_);
      views[attend_case_.index_of("out")] = codes_view_;
      views[attend_case_.index_of("out_scale")] = scales_view_;
    }
    run(as_any(plan_attend(problem, device_, {implementation_})), views);
    std::vector<std::vector<std::byte>> outputs;
    for (const char* name : kOutputs) outputs.push_back(packed(views[attend_case_.index_of(name)]));
    return outputs;
  }

  /// What output makes of attend's out.
  std::vector<std::byte> output_of(OutForm form) {
    OutputProblem output = output_case_.problem_as<OutputProblem>();
    output.attn_form = form;
    std::vector<TensorView> views = output_->views();
    views[output_case_.index_of("attn_out")] = view("out");
    views[output_case_.index_of("rope_table")] = view("rope_table");
    views[output_case_.index_of("positions")] = view("positions");
    run(as_any(plan_output(output, device_, {others_})), views);
    return packed(views[output_case_.index_of("out")]);
  }

  template <class P>
  static Result<AnyPlan> as_any(Result<P> plan) {
    if (!plan.ok()) return plan.status();
    return AnyPlan(std::move(plan).value());
  }
  DeviceMemory memory_of(std::int64_t bytes) {
    auto memory = DeviceMemory::allocate(device_, bytes);
    EXPECT_TRUE(memory.ok() && fill_bytes(device_, memory->data(), std::byte{0xa5}, bytes).ok());
    return std::move(memory).value();
  }

  Device device_;
  std::string implementation_, others_;
  AttendProblem problem_;
  harness::OpCase attend_case_, project_case_, output_case_;
  std::optional<harness::DeviceCase> attend_, project_, output_;
  DeviceMemory codes_, scales_;
  TensorView codes_view_, scales_view_;
};

}  // namespace fathom::test
