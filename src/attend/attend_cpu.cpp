// attend on the CPU: rows of both sets dequantised a block at a time, every block met by all heads of the query, softmax
// carried along (running maximum, rescaled sums). Blocks go in list order, so a query's result depends on its own rows
// and on nothing else in the batch.
#include <cmath>
#include <limits>

#include "attend/attend_impl.h"
#include "attend/row_walk.h"
#include "cache/row_codec.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "simd/words.h"

namespace fathom {
namespace {

constexpr std::int64_t kRowBlock = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// One thread's scratch.
struct Share {
  float* q;        ///< [num_heads, head_dim]
  float* rows;     ///< [kRowBlock, head_dim]
  float* weights;  ///< [num_heads, kRowBlock]: logits, then exp(logit - most)
  float* sums;     ///< [num_heads, value_dim]
  float* most;     ///< [num_heads]: running maximum
  float* total;    ///< [num_heads]: running sum of weights
};

Share lay_out(const AttendProblem& problem, const Device& device, Scratch& scratch, int part) {
  const std::int64_t threads = device.num_threads(), heads = problem.num_heads;
  const auto take = [&](std::int64_t count) {
    float* all = scratch.take<float>(threads * count);
    return all == nullptr ? nullptr : all + part * count;
  };
  Share share;
  share.q = take(heads * problem.head_dim);
  share.rows = take(kRowBlock * problem.head_dim);
  share.weights = take(heads * kRowBlock);
  share.sums = take(heads * problem.value_dim);
  share.most = take(heads);
  share.total = take(heads);
  return share;
}

/// The two sets with their caches.
struct Sets {
  RowSetProblem problems[2];
  const RowSet* sets[2];
  PagedCacheView caches[2];
};

Result<Sets> open_sets(const AttendProblem& problem, const AttendArgs& args) {
  Sets sets{{window_set(problem), entries_set(problem)}, {&args.window, &args.entries}, {}};
  for (int s = 0; s < 2; ++s) {
    if (sets.problems[s].rows_by == RowsBy::none) continue;
    FATHOM_ASSIGN(const RowLayout layout, row_layout(sets.problems[s].format, problem.head_dim));
    FATHOM_ASSIGN(sets.caches[s], paged_cache("attend", "cache", sets.sets[s]->cache, layout, sets.problems[s].page_size));
  }
  return sets;
}

/// Folds `rows` dequantised rows into the running softmax of `heads` heads.
void fold_block(const AttendProblem& problem, const Share& share, int heads, int rows) {
  simd::dot_rows(share.q, problem.head_dim, heads, share.rows, problem.head_dim, rows, problem.head_dim, share.weights, kRowBlock);
  for (int h = 0; h < heads; ++h) {
    float* weights = share.weights + h * kRowBlock;
    float most = share.most[h];
    for (int j = 0; j < rows; ++j) {
      weights[j] *= problem.softmax_scale;
      most = weights[j] > most ? weights[j] : most;
    }
    if (most > share.most[h]) {
      const float factor = std::exp(share.most[h] - most);  // 0 for the first block
      share.total[h] *= factor;
      simd::scale_row(share.sums + std::int64_t{h} * problem.value_dim, problem.value_dim, factor);
      share.most[h] = most;
    }
    for (int j = 0; j < rows; ++j) {
      const float weight = std::exp(weights[j] - most);
      share.total[h] += weight;
      // The model multiplies rows by bf16 probabilities, relative to the maximum so far, and sums them unrounded.
      weights[j] = problem.q_dtype == DType::bf16 ? round_bf16(weight) : weight;
    }
  }
  simd::accumulate_rows(share.weights, kRowBlock, heads, share.rows, problem.head_dim, rows, problem.value_dim, share.sums,
                        problem.value_dim);
}

/// Heads [first, first + heads) of query t.
void attend_query(const AttendProblem& problem, const AttendArgs& args, const Sets& sets, const Share& share, std::int64_t t,
                  int first, int heads) {
  for (int h = 0; h < heads; ++h) {
    load_row(args.q, t * args.q.strides[0] + (first + h) * args.q.strides[1], problem.head_dim, share.q + std::int64_t{h} * problem.head_dim);
  }
  std::fill_n(share.sums, std::int64_t{heads} * problem.value_dim, 0.0f);
  std::fill_n(share.most, heads, -kInfinity);
  std::fill_n(share.total, heads, 0.0f);

  int rows = 0;
  bool seen = false;
  for (int s = 0; s < 2; ++s) {
    const PagedCacheView& cache = sets.caches[s];
    const RowWalk walk(sets.problems[s], *sets.sets[s], args.seq_ids, cache, t);
    for (std::int64_t i = 0; i < walk.count(); ++i) {
      const std::int64_t slot = walk.slot(i);
      if (slot < 0) continue;
      decode_row(cache.layout, cache.row(slot), cache.footer(slot), share.rows + rows * problem.head_dim);
      seen = true;
      if (++rows < kRowBlock) continue;
      fold_block(problem, share, heads, rows);
      rows = 0;
    }
  }
  if (rows > 0) fold_block(problem, share, heads, rows);

  for (int h = 0; h < heads; ++h) {
    const int head = first + h;
    float* sums = share.sums + std::int64_t{h} * problem.value_dim;
    const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(head);
    // The sink has no value vector: it only enlarges the denominator. A huge one makes it infinite and the result 0.
    if (seen) simd::scale_row(sums, problem.value_dim, 1.0f / (share.total[h] + std::exp(sink - share.most[h])));
    store_row(args.out, t * args.out.strides[0] + head * args.out.strides[1], problem.value_dim, sums);
    if (!args.lse.is_absent()) args.lse.row<float>(t)[head] = seen ? share.most[h] + std::log(share.total[h]) : -kInfinity;
    if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[head] = share.most[h];
  }
}

}  // namespace

Result<Prepared> prepare_attend_cpu(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  Scratch scratch;
  lay_out(problem, device, scratch, 0);
  return Prepared{{.scratch = scratch.used()}};
}

Status attend_cpu(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  FATHOM_ASSIGN(const Sets sets, open_sets(problem, args));
  const std::int64_t num_tokens = args.q.shape[0];
  // With fewer queries than threads the heads of a query are shared out, at the price of dequantising its rows again.
  const std::int64_t wanted = num_tokens >= context.device.num_threads() ? 1 : context.device.num_threads();
  const std::int64_t per_part = (problem.num_heads + wanted - 1) / wanted;
  const std::int64_t parts = (problem.num_heads + per_part - 1) / per_part;
  parallel_for(context.device, num_tokens * parts, 1, [&](std::int64_t begin, std::int64_t end, int part) {
    Scratch scratch(context.workspace.scratch);
    const Share share = lay_out(problem, context.device, scratch, part);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t first = i % parts * per_part;
      attend_query(problem, args, sets, share, i / parts, static_cast<int>(first),
                   static_cast<int>(std::min<std::int64_t>(per_part, problem.num_heads - first)));
    }
  });
  return {};
}

}  // namespace fathom
