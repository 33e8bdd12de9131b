// attend on the CPU: a span of a query's rows at a time; all logits of the span first, then their weights relative to the
// largest, then the weighted rows. Rows are dequantised a block at a time and every block meets all heads of the query;
// they are dequantised once for each pass, which costs less than keeping them. Rows go in list order, so a query's result
// depends on its own rows and on nothing else in the batch.
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

constexpr std::int64_t kRowBlock = 64;   ///< rows dequantised at a time
constexpr std::int64_t kRowSpan = 4096;  ///< rows whose logits are kept; beyond it the softmax is carried along
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A present row of one of the two sets.
struct Row {
  std::int32_t set;
  std::int64_t slot;
};

/// One thread's scratch.
struct Share {
  float* q;        ///< [num_heads, head_dim]
  Row* span;       ///< [span_rows]
  float* rows;     ///< [kRowBlock, head_dim]
  float* weights;  ///< [num_heads, span_rows]: logits, then exp(logit - most)
  float* sums;     ///< [num_heads, value_dim]
  float* most;     ///< [num_heads]: largest logit so far
  float* total;    ///< [num_heads]: sum of weights
  std::int64_t span_rows;
};

Share lay_out(const AttendProblem& problem, const Device& device, Scratch& scratch, int part) {
  const std::int64_t threads = device.num_threads(), heads = problem.num_heads;
  const auto take = [&]<class T>(T*& piece, std::int64_t count) {
    T* all = scratch.take<T>(threads * count);
    piece = all == nullptr ? nullptr : all + part * count;
  };
  const std::int64_t most_rows = (problem.window_rows == RowsBy::none ? 0 : std::int64_t{problem.window_width}) +
                                 (problem.entries_rows == RowsBy::none ? 0 : std::int64_t{problem.entries_width});
  Share share;
  share.span_rows = std::min(kRowSpan, most_rows);
  take(share.q, heads * problem.head_dim);
  take(share.span, share.span_rows);
  take(share.rows, kRowBlock * problem.head_dim);
  take(share.weights, heads * share.span_rows);
  take(share.sums, heads * problem.value_dim);
  take(share.most, heads);
  take(share.total, heads);
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
  FATHOM_TRY(open_caches(problem, args, sets.caches));
  return sets;
}

/// Dequantises rows [first, first + count) of the span.
void load_block(const AttendProblem& problem, const Sets& sets, const Share& share, std::int64_t first, std::int64_t count) {
  for (std::int64_t j = 0; j < count; ++j) {
    const Row& row = share.span[first + j];
    const PagedCacheView& cache = sets.caches[row.set];
    decode_row(cache.layout, cache.row(row.slot), cache.footer(row.slot), share.rows + j * problem.head_dim);
  }
}

/// Turns the logits of one head into weights relative to the largest logit so far, and adds them up.
void weigh(const AttendProblem& problem, const Share& share, std::int64_t h, std::int64_t rows) {
  float* weights = share.weights + h * share.span_rows;
  float most = share.most[h];
  for (std::int64_t i = 0; i < rows; ++i) {
    weights[i] *= problem.softmax_scale;
    most = weights[i] > most ? weights[i] : most;
  }
  if (most > share.most[h]) {
    const float factor = std::exp(share.most[h] - most);  // 0 for the first span
    share.total[h] *= factor;
    simd::scale_row(share.sums + h * problem.value_dim, problem.value_dim, factor);
    share.most[h] = most;
  }
  // Relative to -inf, while no larger logit has come, a logit of -inf weighs nothing; a NaN stays a NaN.
  const float base = most == -kInfinity ? 0.0f : most;
  for (std::int64_t i = 0; i < rows; ++i) {
    const float weight = std::exp(weights[i] - base);
    share.total[h] += weight;
    // The model multiplies rows by bf16 probabilities and sums them unrounded.
    weights[i] = problem.q_dtype == DType::bf16 ? round_bf16(weight) : weight;
  }
}

/// Folds the span's `rows` rows into the softmax of `heads` heads.
void fold_span(const AttendProblem& problem, const Sets& sets, const Share& share, int heads, std::int64_t rows) {
  for (std::int64_t first = 0; first < rows; first += kRowBlock) {
    const std::int64_t count = std::min(kRowBlock, rows - first);
    load_block(problem, sets, share, first, count);
    simd::dot_rows(share.q, problem.head_dim, heads, share.rows, problem.head_dim, static_cast<int>(count), problem.head_dim,
                   share.weights + first, share.span_rows);
  }
  for (std::int64_t h = 0; h < heads; ++h) weigh(problem, share, h, rows);
  for (std::int64_t first = 0; first < rows; first += kRowBlock) {
    const std::int64_t count = std::min(kRowBlock, rows - first);
    if (rows > kRowBlock) load_block(problem, sets, share, first, count);
    simd::accumulate_rows(share.weights + first, share.span_rows, heads, share.rows, problem.head_dim, static_cast<int>(count),
                          problem.value_dim, share.sums, problem.value_dim);
  }
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

  std::int64_t rows = 0;
  bool seen = false;
  for (std::int32_t s = 0; s < 2; ++s) {
    const RowWalk walk(sets.problems[s], *sets.sets[s], args.seq_ids, sets.caches[s], t);
    for (std::int64_t i = 0; i < walk.count(); ++i) {
      const std::int64_t slot = walk.slot(i);
      if (slot < 0) continue;
      seen = true;
      share.span[rows++] = {s, slot};
      if (rows < share.span_rows) continue;
      fold_span(problem, sets, share, heads, rows);
      rows = 0;
    }
  }
  if (rows > 0) fold_span(problem, sets, share, heads, rows);

  for (int h = 0; h < heads; ++h) {
    const int head = first + h;
    float* sums = share.sums + std::int64_t{h} * problem.value_dim;
    const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(head);
    // The sink has no value vector: it only enlarges the denominator. Where no row weighs anything, or the sink takes
    // all, nothing is left of the values, whatever they are.
    const float denominator = share.total[h] + std::exp(sink - share.most[h]);
    if (share.total[h] == 0 || denominator == kInfinity) {
      std::fill_n(sums, problem.value_dim, 0.0f);
    } else {
      simd::scale_row(sums, problem.value_dim, 1.0f / denominator);
    }
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
