// Problem texts of every op: what is read prints and reads back, and is planned or refused.
#include <vector>

#include "fathom/fathom.h"
#include "fuzz/targets.h"

namespace fathom::fuzz {

void problem_text(Input input) {
  Reader reader(input);
  const auto ops = op_table();
  const OpSpec& op = *ops[reader.byte() % ops.size()];
  const Input rest = reader.rest();
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
  std::vector<std::byte> problem(op.problem->size), again(op.problem->size);
  if (!parse_problem(*op.problem, text, problem.data()).ok()) return;
  const std::string printed = fathom::problem_text(*op.problem, problem.data());
  require(parse_problem(*op.problem, printed, again.data()).ok(), "\"" + printed + "\" is printed and not read");
  require(fathom::problem_text(*op.problem, again.data()) == printed,
          "\"" + printed + "\" reads back as another problem");
  static const Device device = Device::cpu(2).value();
  const auto plan = plan_problem(op, problem.data(), device);
  if (plan.ok()) {
    const WorkspaceSize size = plan->workspace_size();
    require(size.scratch >= 0 && size.counters >= 0 && size.schedule >= 0,
            "\"" + printed + "\" needs a negative workspace");
  } else {
    require(plan.status().text()[0] != '\0', "a refusal without a word");
  }
}

}  // namespace fathom::fuzz
