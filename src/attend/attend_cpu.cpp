// attend on the CPU in f32, for every instruction set that Highway compiles for. A query goes through four stages:
//
//   list    its present rows, and q turned so that a vector holds one element of many heads
//   score   a block of rows: decoded to f32 a stripe of columns at a time, and met by all heads
//   weigh   a block's logits: exponentials relative to the largest logit of the query
//   gather  a stripe of the value's columns: decoded once more, weighted, divided by the sum
//
// Decoding twice costs a few per cent of the products, less than to keep a query's rows in f32, which L2 does not hold.
// Every stage's items are independent of each other, so that threads may share a query (share_queries).
#include <cmath>

#include "attend/attend_cpu.h"
#include "attend/attend_impl.h"
#include "core/scratch.h"
#include "simd/instruction_sets.h"
#include "simd/loops.h"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kBlock = 48;    ///< rows: a stripe of them and the operands it meets fit into L1
constexpr int kScoreColumns = 64;      ///< of a stripe of keys
constexpr int kGatherColumns = 32;     ///< of a stripe of values; few, so that even one query is shared by many threads
enum Stage : int { kList, kScore, kWeigh, kGather, kStages };

/// A query's scratch. Heads are padded to whole vectors.
struct Query {
  RowSpan* span;
  RowBytes* rows;      ///< [span]
  float* q;            ///< panels of heads, [panels, head_dim, width]
  float* weights;      ///< [span, heads]: logits, then exp(logit - most)
  float* block_most;   ///< [blocks, heads]: largest logit of a block
  float* block_total;  ///< [blocks, heads]: sum of its weights
  float* carried;      ///< [2, 2, heads]: most and total of the spans before, by the span's parity
  float* sums;         ///< [heads, value_dim]
};
/// A thread's scratch.
struct Thread {
  float* stripe;  ///< [kBlock, kScoreColumns]
  float* most;    ///< [heads]: largest logit up to the span's end
  float* total;   ///< [heads]: sum of weights up to there
  float* factor;  ///< [heads]: what older sums are worth
  float* share;   ///< [heads]: 1 / (total + exp(sink - most)); 0 where nothing is left of the values, whatever they are
  std::int64_t* settled;  ///< which query's span these four are of
};

class AttendCpu {
 public:
  AttendCpu(const AttendProblem& problem, const Device& device, const simd::Loops& loops)
      : problem_(problem), loops_(loops), threads_(device.num_threads()), heads_(loops.padded(problem.num_heads)), span_(span_of(problem)),
        blocks_((span_ + kBlock - 1) / kBlock) {}

  void lay_out(Scratch& scratch) {
    const std::int64_t columns = loops_.panels(problem_.value_dim) * loops_.width();
    queries_ = {scratch.take<RowSpan>(threads_),
                scratch.take<RowBytes>(threads_ * span_),
                scratch.take<float>(threads_ * q_size()),
                scratch.take<float>(threads_ * span_ * heads_),
                scratch.take<float>(threads_ * blocks_ * heads_),
                scratch.take<float>(threads_ * blocks_ * heads_),
                scratch.take<float>(threads_ * 4 * heads_),
                scratch.take<float>(threads_ * problem_.num_heads * columns)};
    parts_ = {scratch.take<float>(threads_ * kBlock * kScoreColumns), scratch.take<float>(threads_ * heads_), scratch.take<float>(threads_ * heads_),
              scratch.take<float>(threads_ * heads_), scratch.take<float>(threads_ * heads_), scratch.take<std::int64_t>(threads_)};
    value_columns_ = columns;
  }

  Status run(const AttendArgs& args, const Device& device) {
    FATHOM_ASSIGN(const AttendSets sets, open_sets(problem_, args));
    sets_ = &sets;
    args_ = &args;
    std::fill_n(parts_.settled, threads_, std::int64_t{-1});
    const std::int64_t stripes = (problem_.value_dim + kGatherColumns - 1) / kGatherColumns;
    const std::int64_t items[kStages] = {loops_.panels(problem_.num_heads), blocks_, blocks_, stripes};
    share_queries(
        device, args.q.shape[0], kStages, [&](int stage) { return items[stage]; }, [&](const AttendItem& item) { work(item); },
        [&](int slot) { return queries_.span[slot].last; });
    return {};
  }

 private:
  std::int64_t q_size() const { return loops_.panels(problem_.num_heads) * loops_.width() * problem_.head_dim; }

  Query query(int slot) const {
    return {queries_.span + slot,
            queries_.rows + slot * span_,
            queries_.q + slot * q_size(),
            queries_.weights + slot * span_ * heads_,
            queries_.block_most + slot * blocks_ * heads_,
            queries_.block_total + slot * blocks_ * heads_,
            queries_.carried + slot * 4 * heads_,
            queries_.sums + slot * problem_.num_heads * value_columns_};
  }
  Thread thread(int part) const {
    return {parts_.stripe + part * kBlock * kScoreColumns, parts_.most + part * heads_, parts_.total + part * heads_, parts_.factor + part * heads_,
            parts_.share + part * heads_, parts_.settled + part};
  }

  void work(const AttendItem& item) const {
    const Query query = this->query(item.slot);
    const std::int64_t first = item.item * kBlock;
    switch (item.stage) {
      case kList:
        if (item.item == 0) list_rows(*sets_, *args_, item.t, item.span, span_, *query.span, query.rows);
        if (item.span == 0) turn(query, item.t, item.item);
        return;
      case kScore:
        if (first < query.span->count) score(query, thread(item.part), item.item);
        return;
      case kWeigh:
        if (first < query.span->count) weigh(query, thread(item.part), item);
        return;
      default: return gather(query, thread(item.part), item);
    }
  }

  /// Puts a panel of heads side by side; heads that are not there are zeros.
  void turn(const Query& query, std::int64_t t, std::int64_t panel) const {
    const std::int64_t width = loops_.width(), dim = problem_.head_dim, first = panel * width;
    float* out = query.q + panel * width * dim;
    for (std::int64_t h = 0; h < width; ++h) {
      if (first + h >= problem_.num_heads) {
        for (std::int64_t c = 0; c < dim; ++c) out[c * width + h] = 0;
      } else if (args_->q.dtype == DType::f32) {
        const auto* q = args_->q.row<const float>(t, first + h);
        for (std::int64_t c = 0; c < dim; ++c) out[c * width + h] = q[c];
      } else {
        const auto* q = args_->q.row<const bf16>(t, first + h);
        for (std::int64_t c = 0; c < dim; ++c) out[c * width + h] = to_f32(q[c]);
      }
    }
  }

  /// Decodes a stripe of rows [first, first + rows) of the span, of both sets if need be.
  void decode(const Query& query, std::int64_t first, std::int64_t rows, int column, int columns, float* out) const {
    const std::int64_t window = std::clamp<std::int64_t>(query.span->from_window - first, 0, rows);
    if (window > 0) loops_.decode(sets_->caches[0].layout, query.rows + first, window, column, columns, out, columns);
    if (window == rows) return;
    loops_.decode(sets_->caches[1].layout, query.rows + first + window, rows - window, column, columns, out + window * columns, columns);
  }

  std::int64_t rows_of_block(const Query& query, std::int64_t block) const { return std::min(kBlock, query.span->count - block * kBlock); }
  std::int64_t blocks_in(const Query& query) const { return (query.span->count + kBlock - 1) / kBlock; }

  void score(const Query& query, const Thread& thread, std::int64_t block) const {
    const std::int64_t first = block * kBlock, rows = rows_of_block(query, block);
    float* logits = query.weights + first * heads_;
    std::fill_n(logits, rows * heads_, 0.0f);
    for (std::int64_t j = first + rows; j < std::min(first + 2 * rows, query.span->count); ++j) {
      for (int line = 0; line < sets_->caches[j >= query.span->from_window].layout.row_bytes; line += 64) __builtin_prefetch(query.rows[j].row + line);
    }
    for (int column = 0; column < problem_.head_dim; column += kScoreColumns) {
      const int columns = std::min(kScoreColumns, problem_.head_dim - column);
      decode(query, first, rows, column, columns, thread.stripe);
      loops_.multiply({.m = static_cast<int>(rows), .n = static_cast<int>(heads_), .k = columns,
                       .a = thread.stripe, .a_i = columns, .a_p = 1,
                       .b = query.q + column * loops_.width(), .b_p = loops_.width(), .b_panel = std::int64_t{problem_.head_dim} * loops_.width(),
                       .out = logits, .out_i = heads_});
    }
    loops_.largest(logits, heads_, rows, heads_, problem_.softmax_scale, query.block_most + block * heads_);
  }

  const float* carried(const Query& query, std::int64_t span) const { return query.carried + span % 2 * 2 * heads_; }

  /// The largest logit of each head, up to this span's end.
  void find_most(const Query& query, std::int64_t span, float* most) const {
    if (span == 0) {
      std::fill_n(most, heads_, -kInfinity);
    } else {
      std::copy_n(carried(query, span), heads_, most);
    }
    for (std::int64_t block = 0; block < blocks_in(query); ++block) {
      const float* its = query.block_most + block * heads_;
      for (std::int64_t h = 0; h < heads_; ++h) most[h] = its[h] > most[h] ? its[h] : most[h];
    }
  }

  void weigh(const Query& query, const Thread& thread, const AttendItem& item) const {
    *thread.settled = -1;
    find_most(query, item.span, thread.most);
    // Relative to -inf, while no larger logit has come, a logit of -inf weighs nothing; a NaN stays a NaN.
    for (std::int64_t h = 0; h < heads_; ++h) thread.most[h] = thread.most[h] == -kInfinity ? 0.0f : thread.most[h];
    // The model multiplies rows by bf16 probabilities and sums them unrounded.
    loops_.weigh(query.weights + item.item * kBlock * heads_, heads_, rows_of_block(query, item.item), heads_, thread.most,
                 problem_.q_dtype == DType::bf16, query.block_total + item.item * heads_);
  }

  /// Largest logits, sums of weights, factors and shares of a query's span, once for all the stripes that a thread gathers of it.
  void settle(const Query& query, const Thread& thread, const AttendItem& item) const {
    const std::int64_t which = item.span * args_->q.shape[0] + item.t;
    if (*thread.settled == which) return;
    *thread.settled = which;
    find_most(query, item.span, thread.most);
    for (std::int64_t h = 0; h < heads_; ++h) {
      const float before = item.span == 0 ? -kInfinity : carried(query, item.span)[h];
      const float total = item.span == 0 ? 0.0f : carried(query, item.span)[heads_ + h];
      thread.factor[h] = thread.most[h] > before ? std::exp(before - thread.most[h]) : 1.0f;  // 0 for the first rows
      thread.total[h] = total * thread.factor[h];
    }
    for (std::int64_t block = 0; block < blocks_in(query); ++block) {
      for (std::int64_t h = 0; h < heads_; ++h) thread.total[h] += query.block_total[block * heads_ + h];
    }
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      const float sink = args_->attn_sink.is_absent() ? -kInfinity : args_->attn_sink.at<float>(h);
      // The sink has no value vector: it only enlarges the denominator. Where no row weighs anything, or the sink takes
      // all, nothing is left of the values.
      const float denominator = thread.total[h] + std::exp(sink - thread.most[h]);
      thread.share[h] = thread.total[h] == 0 || denominator == kInfinity ? 0.0f : 1.0f / denominator;
    }
  }

  void gather(const Query& query, const Thread& thread, const AttendItem& item) const {
    settle(query, thread, item);
    const int column = static_cast<int>(item.item) * kGatherColumns, columns = std::min(kGatherColumns, problem_.value_dim - column);
    const int padded = static_cast<int>(loops_.padded(columns));
    float* sums = query.sums + column;
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      float* own = sums + h * value_columns_;
      if (item.span == 0) {
        std::fill_n(own, padded, 0.0f);
      } else if (thread.factor[h] != 1) {
        for (int c = 0; c < columns; ++c) own[c] *= thread.factor[h];
      }
    }
    for (std::int64_t block = 0; block < blocks_in(query); ++block) {
      const std::int64_t first = block * kBlock, rows = rows_of_block(query, block);
      decode(query, first, rows, column, columns, thread.stripe);
      if (padded != columns) pad(thread.stripe, rows, columns, padded);
      loops_.multiply({.m = problem_.num_heads, .n = padded, .k = static_cast<int>(rows),
                       .a = query.weights + first * heads_, .a_i = 1, .a_p = heads_,
                       .b = thread.stripe, .b_p = padded, .b_panel = loops_.width(),
                       .out = sums, .out_i = value_columns_});
    }
    if (item.item == 0) {
      float* next = query.carried + (item.span + 1) % 2 * 2 * heads_;
      std::copy_n(thread.most, heads_, next);
      std::copy_n(thread.total, heads_, next + heads_);
    }
    if (item.span == query.span->last) finish(query, thread, item, column, columns);
  }

  /// Moves rows of `columns` apart, to a stride of `padded`, last row first; what lies between them becomes zero.
  static void pad(float* stripe, std::int64_t rows, int columns, int padded) {
    for (std::int64_t j = rows - 1; j >= 0; --j) {
      std::copy_backward(stripe + j * columns, stripe + (j + 1) * columns, stripe + j * padded + columns);
      std::fill(stripe + j * padded + columns, stripe + (j + 1) * padded, 0.0f);
    }
  }

  void finish(const Query& query, const Thread& thread, const AttendItem& item, int column, int columns) const {
    const AttendArgs& args = *args_;
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      float* sums = query.sums + h * value_columns_ + column;
      if (thread.share[h] == 0) std::fill_n(sums, columns, 0.0f);
      const std::int64_t at = item.t * args.out.strides[0] + h * args.out.strides[1] + column;
      loops_.store(sums, columns, thread.share[h], args.out.dtype, static_cast<std::byte*>(args.out.data) + bytes_of(args.out.dtype, at));
      if (column != 0) continue;
      const float most = thread.most[h];
      if (!args.lse.is_absent()) args.lse.row<float>(item.t)[h] = query.span->seen ? most + std::log(thread.total[h]) : -kInfinity;
      if (!args.max_logits.is_absent()) args.max_logits.row<float>(item.t)[h] = most;
    }
  }

  const AttendProblem& problem_;
  const simd::Loops& loops_;
  std::int64_t threads_, heads_, span_, blocks_, value_columns_ = 0;
  Query queries_{};  ///< of slot 0; the others' follow
  Thread parts_{};   ///< of thread 0
  const AttendSets* sets_ = nullptr;
  const AttendArgs* args_ = nullptr;
};

/// Planned and run by the same loops, which a plan keeps.
Result<Prepared> prepare(const AttendProblem& problem, const Device& device, const simd::Loops& loops) {
  Scratch scratch;
  AttendCpu(problem, device, loops).lay_out(scratch);
  return Prepared{.workspace = {.scratch = scratch.used()}, .state = std::shared_ptr<const void>(std::shared_ptr<void>(), &loops), .parts = {}};
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
  AttendCpu attend(problem, context.device, *static_cast<const simd::Loops*>(context.state));
  Scratch scratch(context.workspace.scratch);
  attend.lay_out(scratch);
  return attend.run(args, context.device);
}

const char* attend_avx2_lacks() noexcept { return simd::why_not(simd::InstructionSet::avx2); }
const char* attend_avx512_lacks() noexcept { return simd::why_not(simd::InstructionSet::avx512); }

}  // namespace fathom
