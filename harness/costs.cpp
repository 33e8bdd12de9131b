// One function for each op; the comments say what is left out and why that is small.
#include "harness/costs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fathom/attend.h"
#include "fathom/compress.h"
#include "fathom/index.h"
#include "fathom/layer.h"
#include "fathom/linear.h"
#include "fathom/output.h"
#include "fathom/project.h"
#include "harness/cache_args.h"
#include "harness/case_builder.h"

namespace fathom::harness {
namespace {

double extent(const OpCase& built, const char* argument, int dimension) {
  return static_cast<double>(built.arg(argument).view.shape[dimension]);
}

/// Bytes of everything that is no cache.
Cost plain_bytes(const OpCase& built) {
  Cost cost;
  for (std::size_t i = 0; i < built.args.size(); ++i) {
    const Argument& argument = built.args[i];
    if (argument.presence != Presence::given || cache_of(built, i, argument.view)) continue;
    const auto bytes = static_cast<double>(argument.view.numel()) * bits_of(argument.view.dtype) / 8;
    (is_written(built.op->args[i].role) ? cost.written_bytes : cost.read_bytes) += bytes;
  }
  return cost;
}

double row_bytes(const OpCase& built, const char* argument) {
  const auto cache = cache_of(built, built.index_of(argument), built.arg(argument).view);
  return cache ? cache->layout.row_bytes + cache->layout.footer_bytes : 0;
}

/// Rows of a list or range that the queries read, and how many of them are distinct at most.
struct RowCount {
  double read = 0;
  double distinct = 0;
};

RowCount attended_rows(const OpCase& built, const std::string& set, RowsBy rows, std::int64_t width) {
  const auto view = [&](const char* name) { return built.arg(set + "." + name).view; };
  const auto cache =
      rows == RowsBy::none ? std::nullopt : cache_of(built, built.index_of(set + ".cache"), view("cache"));
  if (!cache) return {};
  RowCount count;
  const std::int64_t num_tokens = built.arg("q").view.shape[0];
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    if (rows == RowsBy::list) {
      const TensorView indices = view("indices"), lengths = view("lengths");
      const std::int64_t length =
          lengths.is_absent() ? width : std::clamp<std::int64_t>(integer_at(lengths, t), 0, width);
      const std::int32_t* row = indices.row<std::int32_t>(t);
      count.read +=
          static_cast<double>(std::count_if(row, row + length, [&](std::int32_t slot) { return cache->holds(slot); }));
    } else {
      const TensorView begin = view("begin");
      const std::int64_t first = begin.is_absent() ? 0 : std::max<std::int64_t>(integer_at(begin, t), 0);
      count.read += static_cast<double>(std::clamp<std::int64_t>(integer_at(view("end"), t) - first, 0, width));
    }
  }
  // Queries of one sequence share rows; reading each row of the cache once is the least that must move.
  count.distinct = std::min(count.read, static_cast<double>(cache->num_slots()));
  return count;
}

Cost linear_cost(const OpCase& built) {
  const auto& problem = built.problem_as<LinearProblem>();
  Cost cost = plain_bytes(built);
  cost.operations = 2.0 * extent(built, "x", 0) * problem.in_dim * problem.out_dim * problem.groups;
  return cost;
}

Cost project_cost(const OpCase& built) {
  const auto& problem = built.problem_as<ProjectProblem>();
  const double tokens = extent(built, "x", 0);
  Cost cost = plain_bytes(built);
  cost.written_bytes += tokens * row_bytes(built, "window_cache");
  // Three products; norms and rotations are a rounding error beside them.
  cost.operations = 2 * tokens *
                    (double{1} * problem.hidden_size * problem.q_rank +
                     double{1} * problem.q_rank * problem.num_heads * problem.head_dim +
                     double{1} * problem.hidden_size * problem.head_dim);
  return cost;
}

Cost compress_cost(const OpCase& built) {
  const auto& problem = built.problem_as<CompressProblem>();
  const TensorView& positions = built.arg("positions").view;
  const double tokens = extent(built, "x", 0), width = static_cast<double>(problem.width());
  double closing = 0;
  for (std::int64_t t = 0; t < positions.shape[0]; ++t) closing += (integer_at(positions, t) + 1) % problem.ratio == 0;
  Cost cost = plain_bytes(built);
  // State rows that were written by this very call are still at hand, so the older ones are at most the rest.
  const double pooled = closing * static_cast<double>(problem.state_tokens());
  cost.read_bytes += std::max(pooled - tokens, 0.0) * row_bytes(built, "state_cache");
  cost.written_bytes += tokens * row_bytes(built, "state_cache") + closing * row_bytes(built, "cache");
  // Two products; per pooled row and channel an exponential (counted as one), a multiplication and two additions.
  cost.operations = 2 * tokens * problem.hidden_size * 2 * width + 4 * pooled * problem.dim;
  return cost;
}

Cost index_query_cost(const OpCase& built) {
  const auto& problem = built.problem_as<IndexQueryProblem>();
  const double tokens = extent(built, "x", 0), all = double{1} * problem.index_heads * problem.index_dim;
  Cost cost = plain_bytes(built);
  // Two products and a fast Walsh-Hadamard transform of every head.
  cost.operations = 2 * tokens * (problem.q_rank * all + double{1} * problem.hidden_size * problem.index_heads) +
                    tokens * all * std::log2(std::max(problem.index_dim, 1));
  return cost;
}

Cost index_cost(const OpCase& built) {
  const auto& problem = built.problem_as<IndexProblem>();
  const TensorView& positions = built.arg("positions").view;
  double scores = 0;
  for (std::int64_t t = 0; t < positions.shape[0]; ++t) {
    scores += static_cast<double>(std::min<std::int64_t>(
        std::max<std::int64_t>(integer_at(positions, t) + 1, 0) / problem.compress_ratio, problem.max_entries));
  }
  const auto cache = cache_of(built, built.index_of("index_cache"), built.arg("index_cache").view);
  Cost cost = plain_bytes(built);
  if (cache)
    cost.read_bytes += std::min(scores, static_cast<double>(cache->num_slots())) * row_bytes(built, "index_cache");
  // A dot product per head, its ReLU and its weight; the selection is one comparison a score.
  cost.operations = scores * (problem.index_heads * (2.0 * problem.index_dim + 2) + 1);
  return cost;
}

Cost select_topk_cost(const OpCase& built) {
  const auto& problem = built.problem_as<SelectTopkProblem>();
  const TensorView& lengths = built.arg("lengths").view;
  const double tokens = extent(built, "scores", 0);
  double scores = tokens * problem.num_scores;
  if (!lengths.is_absent()) {
    scores = 0;
    for (std::int64_t t = 0; t < lengths.shape[0]; ++t)
      scores += static_cast<double>(std::clamp<std::int64_t>(integer_at(lengths, t), 0, problem.num_scores));
  }
  // One comparison a score.
  return {4 * scores, 4 * tokens * problem.topk, scores};
}

Cost attend_cost(const OpCase& built) {
  const auto& problem = built.problem_as<AttendProblem>();
  const RowCount window = attended_rows(built, "window", problem.window_rows, problem.window_width);
  const RowCount entries = attended_rows(built, "entries", problem.entries_rows, problem.entries_width);
  Cost cost = plain_bytes(built);
  cost.read_bytes +=
      window.distinct * row_bytes(built, "window.cache") + entries.distinct * row_bytes(built, "entries.cache");
  // q . k over head_dim and p . v over value_dim, a multiplication and an addition each.
  cost.operations =
      2 * (window.read + entries.read) * problem.num_heads * (double{1} * problem.head_dim + problem.value_dim);
  return cost;
}

Cost merge_partials_cost(const OpCase& built) {
  Cost cost = plain_bytes(built);
  // Each part's value times its weight, added up.
  cost.operations = 2 * static_cast<double>(built.arg("partial_out").view.numel());
  return cost;
}

Cost output_cost(const OpCase& built) {
  const auto& problem = built.problem_as<OutputProblem>();
  Cost cost = plain_bytes(built);
  // Each group's product, then the common one.
  cost.operations = 2 * extent(built, "attn_out", 0) *
                    (double{1} * problem.num_heads * problem.head_dim * problem.output_rank +
                     double{1} * problem.output_groups * problem.output_rank * problem.hidden_size);
  return cost;
}

Cost layer_cost(const OpCase& built) {
  const auto& problem = built.problem_as<LayerProblem>();
  const TensorView& positions = built.arg("positions").view;
  const double heads = problem.num_heads, dim = problem.head_dim, hidden = problem.hidden_size,
               ratio = problem.compress_ratio;
  const bool csa = problem.compress_ratio == 4, hca = problem.compress_ratio > 4;
  Cost cost = plain_bytes(built);  // the weights: most of what a decode step moves
  const double per_token =
      hidden * problem.q_rank + problem.q_rank * heads * dim + hidden * dim +  // project
      heads * dim * problem.output_rank + 1.0 * problem.output_groups * problem.output_rank * hidden +
      (csa || hca ? 2 * hidden * dim * (csa ? 2 : 1) : 0) +  // compress
      (csa ? 4 * hidden * problem.index_dim + problem.q_rank * 1.0 * problem.index_heads * problem.index_dim +
                 hidden * problem.index_heads
           : 0);  // index
  for (std::int64_t t = 0; t < positions.shape[0]; ++t) {
    const auto position = static_cast<double>(integer_at(positions, t));
    if (position < 0) continue;
    const double visible = ratio == 0 ? 0 : std::floor((position + 1) / ratio);
    const double window = std::min<double>(position + 1, problem.window);
    const double entries = csa ? std::min<double>(visible, problem.index_topk) : visible;
    cost.operations += 2 * per_token + 4 * (window + entries) * heads * dim +
                       (csa ? 2 * visible * problem.index_heads * problem.index_dim : 0);
    cost.read_bytes += window * row_bytes(built, "window") + entries * row_bytes(built, "entries") +
                       (csa ? visible * row_bytes(built, "index_keys") : 0);
    cost.written_bytes += row_bytes(built, "window") + row_bytes(built, "state") + row_bytes(built, "index_state");
  }
  return cost;
}

struct CostOf {
  const char* op;
  Cost (*count)(const OpCase& built);
};
constexpr CostOf kCosts[] = {
    {"linear", linear_cost},     {"project", project_cost},
    {"compress", compress_cost}, {"index_query", index_query_cost},
    {"index", index_cost},       {"select_topk", select_topk_cost},
    {"attend", attend_cost},     {"merge_partials", merge_partials_cost},
    {"output", output_cost},     {"layer", layer_cost},
};

}  // namespace

Result<Cost> cost_of(const OpCase& built) {
  for (const CostOf& cost : kCosts) {
    if (std::strcmp(cost.op, built.op->name) == 0) return cost.count(built);
  }
  return Status::unsupported("bench: nobody has counted the cost of %s (harness/costs.cpp)", built.op->name);
}

}  // namespace fathom::harness
