// Uses an installed Fathom through its C++ headers: a plan, a run, and an error that names what is wrong.
#include <cstdio>
#include <cstring>
#include <vector>

#include "fathom/fathom.h"

int main() {
  const auto device = fathom::Device::cpu(1);
  if (!device.ok()) return 1;
  fathom::SelectTopkProblem problem;
  problem.num_scores = 4;
  problem.topk = 2;
  const auto plan = fathom::plan_select_topk(problem, device.value());
  if (!plan.ok()) return std::printf("%s\n", plan.status().text()), 1;

  const float scores[] = {1, 4, 4, 2};
  std::int32_t picked[2] = {};
  fathom::SelectTopkArgs args;
  args.scores = fathom::view(scores, fathom::DType::f32, {1, 4});
  args.topk_entries = fathom::view(picked, fathom::DType::i32, {1, 2});
  const fathom::WorkspaceSize size = plan->workspace_size();
  std::vector<std::byte> block(static_cast<std::size_t>(size.total() + fathom::kWorkspaceAlignment));
  const auto address = reinterpret_cast<std::uintptr_t>(block.data());
  const auto aligned = (address + fathom::kWorkspaceAlignment - 1) / fathom::kWorkspaceAlignment * fathom::kWorkspaceAlignment;
  const fathom::Workspace workspace = fathom::carve_workspace(reinterpret_cast<void*>(aligned), size);
  if (!fathom::init_workspace(plan.value(), workspace).ok()) return 1;
  if (const auto status = fathom::select_topk(plan.value(), args, workspace); !status.ok()) return std::printf("%s\n", status.text()), 1;

  args.scores.shape[1] = 3;
  const fathom::Status refused = fathom::select_topk(plan.value(), args, workspace);
  std::printf("picked %d and %d; then \"%s\"\n", picked[0], picked[1], refused.text());
  return picked[0] == 1 && picked[1] == 2 && std::strstr(refused.text(), "scores") != nullptr ? 0 : 1;
}
