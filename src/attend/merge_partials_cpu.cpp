// merge_partials on the CPU: one (token, head) at a time, parts in order.
#include <cmath>
#include <limits>

#include "attend/merge_partials_impl.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "simd/words.h"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Scratch of one thread: a part's row and the merged row.
float* rows_of_thread(const MergePartialsProblem& problem, const Device& device, Scratch& scratch, int part) {
  float* all = scratch.take<float>(device.num_threads() * std::int64_t{2} * problem.value_dim);
  return all == nullptr ? nullptr : all + part * std::int64_t{2} * problem.value_dim;
}

/// FlashMLA reports a part that saw nothing as +inf, the native interface as -inf.
float part_lse(const MergePartialsArgs& args, int p, std::int64_t t, std::int64_t h) {
  const float lse = args.partial_lse.row<float>(p, t)[h];
  return lse == kInfinity ? -kInfinity : lse;
}

void merge_head(const MergePartialsProblem& problem, const MergePartialsArgs& args, std::int64_t t, std::int64_t h, float* rows) {
  float* row = rows;
  float* merged = rows + problem.value_dim;
  float most = -kInfinity, total = 0;
  bool seen = false;  // a part whose lse is NaN saw something, and poisons what it is merged with
  for (int p = 0; p < problem.num_partials; ++p) {
    most = std::max(most, part_lse(args, p, t, h));
    seen |= part_lse(args, p, t, h) != -kInfinity;
  }
  std::fill_n(merged, problem.value_dim, 0.0f);
  for (int p = 0; p < problem.num_partials; ++p) {
    const float lse = part_lse(args, p, t, h);
    if (lse == -kInfinity) continue;  // whatever its values are, NaN included
    const float weight = std::exp(lse - most);
    total += weight;
    load_row(args.partial_out, p * args.partial_out.strides[0] + t * args.partial_out.strides[1] + h * args.partial_out.strides[2],
             problem.value_dim, row);
    simd::accumulate_rows(&weight, 1, 1, row, problem.value_dim, 1, problem.value_dim, merged, problem.value_dim);
  }
  const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
  const float denominator = total + std::exp(sink - most);
  if (!seen || denominator == kInfinity) {
    std::fill_n(merged, problem.value_dim, 0.0f);
  } else {
    simd::scale_row(merged, problem.value_dim, 1.0f / denominator);
  }
  store_row(args.out, t * args.out.strides[0] + h * args.out.strides[1], problem.value_dim, merged);
  if (!args.lse.is_absent()) args.lse.row<float>(t)[h] = seen ? most + std::log(total) : -kInfinity;
}

}  // namespace

Result<Prepared> prepare_merge_partials_cpu(const MergePartialsProblem& problem, const Device& device, const PlanOptions&) {
  Scratch scratch;
  rows_of_thread(problem, device, scratch, 0);
  return Prepared{{.scratch = scratch.used()}};
}

Status merge_partials_cpu(const MergePartialsProblem& problem, const MergePartialsArgs& args, const RunContext& context) {
  parallel_for(context.device, args.out.shape[0] * problem.num_heads, 8, [&](std::int64_t begin, std::int64_t end, int part) {
    Scratch scratch(context.workspace.scratch);
    float* rows = rows_of_thread(problem, context.device, scratch, part);
    for (std::int64_t i = begin; i < end; ++i) merge_head(problem, args, i / problem.num_heads, i % problem.num_heads, rows);
  });
  return {};
}

}  // namespace fathom
