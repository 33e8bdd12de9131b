// select_topk: check -> select -> plan -> run.
#include "fathom/index.h"

#include "index/select_topk_impl.h"

namespace fathom {
namespace {

constexpr ProblemField kFields[] = {
    {offsetof(SelectTopkProblem, num_tokens), FieldKind::capacity, "num_tokens", "rows of scores, at most", 0, kMaxTokens},
    {offsetof(SelectTopkProblem, num_scores), FieldKind::integer, "num_scores", "columns of scores", 0, kMaxEntries},
    {offsetof(SelectTopkProblem, topk), FieldKind::integer, "topk", "columns kept per row", 1, 1 << 20},
};
constexpr SelectTopkProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(SelectTopkProblem), &kDefaults};

constexpr OpSpec kSpec{"select_topk", "index", "Keep the topk largest scores of every row; ties go to the smaller column.",
                       "topk_entries[t] = the topk largest of scores[t, 0 .. lengths[t]), ascending", "spec 4.2", kSelectTopkArgs, &kProblem};

}  // namespace

const ProblemSpec& SelectTopkProblem::spec() noexcept { return kProblem; }

const Op& select_topk_op() noexcept {
  static const Op op{&kSpec, select_topk_implementations(), nullptr, nullptr};
  return op;
}

Result<SelectTopkPlan> plan_select_topk(const SelectTopkProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<SelectTopkPlan>(select_topk_op(), problem, device, options);
}
Status select_topk(const SelectTopkPlan& plan, const SelectTopkArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(select_topk_op(), plan, args, workspace, stream);
}

}  // namespace fathom
