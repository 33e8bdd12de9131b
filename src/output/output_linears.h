// The two products that output is made of, wherever it runs.
#pragma once

#include <memory>

#include "linear/linear_problem.h"
#include "output/output_impl.h"

namespace fathom {

struct OutputLinears {
  LinearPlan wo_a, wo_b;
};

/// Plans them for `token_tile` tokens at a time.
inline Result<std::shared_ptr<OutputLinears>> plan_output_linears(const OutputProblem& problem, std::int32_t token_tile,
                                                                  const Device& device, const PlanOptions& options) {
  const std::int64_t group_dim = std::int64_t{problem.num_heads / problem.output_groups} * problem.head_dim;
  const std::int64_t width = std::int64_t{problem.output_groups} * problem.output_rank;
  LinearProblem down = projection(problem.numerics, problem.wo_a_dtype, token_tile, group_dim, problem.output_rank);
  down.groups = problem.output_groups;
  down.activation_quant =
      ActivationQuant::none;  // wo_a is used dequantised, its input unquantised, whatever its storage
  LinearProblem up = projection(problem.numerics, problem.wo_b_dtype, token_tile, width, problem.hidden_size);
  up.out_dtype = problem.out_dtype;
  auto linears = std::make_shared<OutputLinears>();
  FATHOM_ASSIGN(linears->wo_a, plan_linear(down, device, nested(options)));
  FATHOM_ASSIGN(linears->wo_b, plan_linear(up, device, nested(options)));
  return linears;
}

}  // namespace fathom
