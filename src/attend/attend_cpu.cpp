// attend on the CPU in f32, for every instruction set that Highway compiles for. A query goes through four stages:
//
//   list    its present rows, and q turned so that a vector holds one element of many heads
//   score   a block of rows: decoded to f32 a stripe of columns at a time, and met by all heads
//   weigh   a block's logits: exponentials relative to the largest logit of the query
//   gather  a stripe of the value's columns: decoded once more, weighted, divided by the sum
//
// Decoding twice costs a few per cent of the products, less than to keep a query's rows in f32, which L2 does not hold.
// Every stage's items are independent of each other, so that threads may share a query (share_queries).
#include "attend/attend_cpu.h"
#include "attend/attend_impl.h"
#include "simd/loops.h"

namespace fathom {
namespace {

constexpr std::int64_t kBlock = 96;  ///< rows: a stripe of them and the operands it meets stay close to L1
constexpr int kScoreColumns = 64;    ///< of a stripe of keys
constexpr int kGatherColumns = 32;   ///< of a stripe of values; few, so that even one query is shared by many threads
enum Stage : int { kList, kScore, kWeigh, kGather, kStages };

/// A query's scratch. Heads are padded to whole vectors.
struct Query {
  RowSpan* span;
  RowBytes* rows;  ///< [span]
  float* q;        ///< panels of heads, [panels, head_dim, width]
  float* weights;  ///< [span, heads]: logits, then exp(logit - most)
  float* sums;     ///< [heads, value_dim], padded to whole panels
  SoftmaxBlocks blocks;
};

class AttendCpu {
 public:
  AttendCpu(const AttendProblem& problem, const Device& device, const simd::Loops& loops, Scratch& scratch)
      : problem_(problem),
        loops_(loops),
        heads_(loops.padded(problem.num_heads)),
        span_(span_of(problem)),
        softmax_(problem, heads_) {
    const std::int64_t threads = device.num_threads();
    queries_ = {scratch.take<RowSpan>(threads),
                scratch.take<RowBytes>(threads * span_),
                scratch.take<float>(threads * q_size()),
                scratch.take<float>(threads * span_ * heads_),
                scratch.take<float>(threads * problem.num_heads * value_columns()),
                {}};
    stripes_ = scratch.take<float>(threads * kBlock * kScoreColumns);
    softmax_.lay_out(scratch, threads, blocks());
  }

  Status run(const AttendArgs& args, const Device& device) {
    FATHOM_ASSIGN(const AttendSets sets, open_sets(problem_, args));
    sets_ = &sets;
    args_ = &args;
    softmax_.begin();
    const std::int64_t stripes = (problem_.value_dim + kGatherColumns - 1) / kGatherColumns;
    const std::int64_t items[kStages] = {loops_.panels(problem_.num_heads), blocks(), blocks(), stripes};
    share_queries(
        device, args.q.shape[0], items, [&](const AttendItems& some) { work(some); },
        [&](int slot) { return queries_.span[slot].last; });
    return {};
  }

 private:
  std::int64_t blocks() const { return (span_ + kBlock - 1) / kBlock; }
  std::int64_t q_size() const { return loops_.panels(problem_.num_heads) * loops_.width() * problem_.head_dim; }
  std::int64_t value_columns() const { return loops_.panels(problem_.value_dim) * loops_.width(); }

  Query query_of(int slot) const {
    return {queries_.span + slot,
            queries_.rows + slot * span_,
            queries_.q + slot * q_size(),
            queries_.weights + slot * span_ * heads_,
            queries_.sums + slot * problem_.num_heads * value_columns(),
            softmax_.blocks_of(slot)};
  }

  void work(const AttendItems& items) const {
    const Query query = query_of(items.slot);
    const SettledSoftmax settled = softmax_.settled_of(items.part);
    float* stripe = stripes_ + items.part * kBlock * kScoreColumns;
    if (items.stage == kList) {
      if (items.first == 0) list_rows(*sets_, *args_, items.t, items.span, span_, *query.span, query.rows);
      for (std::int64_t panel = items.first; items.span == 0 && panel < items.last; ++panel)
        turn(query, items.t, panel);
      return;
    }
    const std::int64_t blocks = (query.span->count + kBlock - 1) / kBlock, last = std::min(items.last, blocks);
    if (items.stage == kScore) {
      for (std::int64_t block = items.first; block < last; ++block) score(query, stripe, block);
    } else if (items.stage == kWeigh) {
      softmax_.find_base(query.blocks, items.span, blocks, settled);
      for (std::int64_t block = items.first; block < last; ++block) weigh(query, block, settled.most);
    } else {
      softmax_.settle(*args_, query.blocks, items.t, items.span, blocks, settled);
      for (std::int64_t item = items.first; item < items.last; ++item)
        gather(query, items, blocks, settled, stripe, static_cast<int>(item) * kGatherColumns);
      if (items.first != 0) return;
      softmax_.carry(query.blocks, items.span, settled);
      if (items.span == query.span->last) softmax_.store(*args_, items.t, query.span->seen, settled);
    }
  }

  /// Puts a panel of heads side by side; heads that are not there are zeros.
  void turn(const Query& query, std::int64_t t, std::int64_t panel) const {
    const std::int64_t width = loops_.width(), dim = problem_.head_dim, first = panel * width;
    float* out = query.q + panel * width * dim;
    const std::int64_t heads = std::min(width, problem_.num_heads - first);
    if (heads < width) std::fill_n(out, width * dim, 0.0f);
    for (std::int64_t h = 0; h < heads; ++h) {
      if (args_->q.dtype == DType::f32) {
        const auto* q = args_->q.row<const float>(t, first + h);
        for (std::int64_t c = 0; c < dim; ++c) out[c * width + h] = q[c];
      } else {
        const auto* q = args_->q.row<const bf16>(t, first + h);
        for (std::int64_t c = 0; c < dim; ++c) out[c * width + h] = to_f32(q[c]);
      }
    }
  }

  std::int64_t rows_of(const Query& query, std::int64_t block) const {
    return std::min(kBlock, query.span->count - block * kBlock);
  }

  /// Decodes a stripe of rows [first, first + rows) of the span, of both sets if need be, a row every `stride`.
  void decode(const Query& query, std::int64_t first, std::int64_t rows, int column, int columns, float* out,
              std::int64_t stride) const {
    const std::int64_t window = std::clamp<std::int64_t>(query.span->from_window - first, 0, rows);
    if (window > 0) loops_.decode(sets_->caches[0].layout, query.rows + first, window, column, columns, out, stride);
    if (window == rows) return;
    loops_.decode(sets_->caches[1].layout, query.rows + first + window, rows - window, column, columns,
                  out + window * stride, stride);
  }

  void score(const Query& query, float* stripe, std::int64_t block) const {
    const std::int64_t first = block * kBlock, rows = rows_of(query, block), next = first + rows;
    for (std::int64_t j = next; j < std::min(next + rows, query.span->count); ++j) {
      const int bytes = sets_->caches[j >= query.span->from_window].layout.row_bytes;
      for (int line = 0; line < bytes; line += 64) __builtin_prefetch(query.rows[j].row + line);
    }
    float* logits = query.weights + first * heads_;
    std::fill_n(logits, rows * heads_, 0.0f);
    const std::int64_t width = loops_.width();
    for (int column = 0; column < problem_.head_dim; column += kScoreColumns) {
      const int columns = std::min(kScoreColumns, problem_.head_dim - column);
      decode(query, first, rows, column, columns, stripe, kScoreColumns);
      loops_.multiply({.m = static_cast<int>(rows),
                       .n = static_cast<int>(heads_),
                       .k = columns,
                       .a = stripe,
                       .a_i = kScoreColumns,
                       .a_p = 1,
                       .b = query.q + column * width,
                       .b_p = width,
                       .b_panel = problem_.head_dim * width,
                       .out = logits,
                       .out_i = heads_});
    }
    loops_.largest(logits, heads_, rows, heads_, problem_.softmax_scale, query.blocks.most + block * heads_);
  }

  void weigh(const Query& query, std::int64_t block, const float* base) const {
    // The model multiplies rows by bf16 probabilities and sums them unrounded.
    const bool round = problem_.q_dtype == DType::bf16;
    loops_.weigh(query.weights + block * kBlock * heads_, heads_, rows_of(query, block), heads_, base, round,
                 query.blocks.total + block * heads_);
  }

  void gather(const Query& query, const AttendItems& items, std::int64_t blocks, const SettledSoftmax& settled,
              float* stripe, int column) const {
    const int columns = std::min(kGatherColumns, problem_.value_dim - column),
              padded = static_cast<int>(loops_.padded(columns));
    const std::int64_t stride = value_columns();
    float* sums = query.sums + column;
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      if (items.span == 0) {
        std::fill_n(sums + h * stride, padded, 0.0f);
      } else if (settled.factor[h] != 1) {
        for (int c = 0; c < columns; ++c) sums[h * stride + c] *= settled.factor[h];
      }
    }
    if (padded != columns)
      std::fill_n(stripe, kBlock * kGatherColumns, 0.0f);  // the columns between are multiplied too
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t first = block * kBlock, rows = rows_of(query, block);
      decode(query, first, rows, column, columns, stripe, kGatherColumns);
      loops_.multiply({.m = problem_.num_heads,
                       .n = padded,
                       .k = static_cast<int>(rows),
                       .a = query.weights + first * heads_,
                       .a_i = 1,
                       .a_p = heads_,
                       .b = stripe,
                       .b_p = kGatherColumns,
                       .b_panel = loops_.width(),
                       .out = sums,
                       .out_i = stride});
    }
    if (items.span != query.span->last) return;
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      if (settled.share[h] == 0) std::fill_n(sums + h * stride, columns, 0.0f);
      const std::int64_t at = items.t * args_->out.strides[0] + h * args_->out.strides[1] + column;
      loops_.store(sums + h * stride, columns, settled.share[h], args_->out.dtype,
                   static_cast<std::byte*>(args_->out.data) + bytes_of(args_->out.dtype, at));
    }
  }

  const AttendProblem& problem_;
  const simd::Loops& loops_;
  std::int64_t heads_, span_;
  AttendSoftmax softmax_;
  Query queries_{};           ///< of slot 0; the others' follow
  float* stripes_ = nullptr;  ///< [threads, kBlock, kScoreColumns]
  const AttendSets* sets_ = nullptr;
  const AttendArgs* args_ = nullptr;
};

/// Planned and run by the same loops, which a plan keeps.
Result<Prepared> prepare(const AttendProblem& problem, const Device& device, const simd::Loops& loops) {
  Scratch scratch;
  AttendCpu(problem, device, loops, scratch);
  return Prepared{.workspace = {.scratch = scratch.used()},
                  .state = std::shared_ptr<const void>(std::shared_ptr<void>(), &loops),
                  .parts = {}};
}

}  // namespace

Result<Prepared> prepare_attend_cpu(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::best_loops());
}
Result<Prepared> prepare_attend_avx2(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::avx2_loops());
}
Result<Prepared> prepare_attend_avx512(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::avx512_loops());
}
Status attend_cpu(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Scratch scratch(context.workspace.scratch);
  return AttendCpu(problem, context.device, *static_cast<const simd::Loops*>(context.state), scratch)
      .run(args, context.device);
}

}  // namespace fathom
