// attend on the CPU by products of bf16 pairs: AVX-512's dot products, or AMX tiles. The stages are those of
// attend_cpu.cpp. Tiles are so quick that what feeds them decides: everything a stage touches again has to stay in L2,
// which two threads may share. So rows are decoded twice here too, as keys a block of rows at a time, as values a block
// of columns, where a row's values would be twice its codes to keep.
#include <limits>

#include "attend/attend_cpu.h"
#include "attend/attend_impl.h"
#include "simd/bf16_loops.h"
#include "simd/loops.h"

namespace fathom {
namespace {

using simd::kLine, simd::kPiece, simd::kScoreRows, simd::kValueColumns, simd::Pair;

/// Pairs between groups of weights beside their own, so that lines of one place do not meet in one set of the cache.
constexpr std::int64_t kApart = kLine;
enum Stage : int { kList, kScore, kWeigh, kGather, kStages };

constexpr std::int64_t up(std::int64_t count, std::int64_t multiple) noexcept {
  return (count + multiple - 1) / multiple * multiple;
}

/// A query's scratch; layouts in bf16_loops.h.
struct Query {
  RowSpan* span;
  RowBytes* rows;  ///< [span]
  Pair* q;         ///< [groups, steps, piece]
  float* logits;   ///< [span, heads]
  Pair* weights;   ///< [groups, blocks, piece]
  float* sums;     ///< [heads, value columns]
  SoftmaxBlocks blocks;
};

class AttendBf16 {
 public:
  AttendBf16(const AttendProblem& problem, const Device& device, const simd::Bf16Loops& loops, Scratch& scratch)
      : problem_(problem),
        loops_(loops),
        groups_((problem.num_heads + kLine - 1) / kLine),
        steps_(static_cast<int>(up(problem.head_dim, 64) / simd::kStep)),
        value_columns_(up(problem.value_dim, kValueColumns)),
        span_(up(span_of(problem), kScoreRows)),
        softmax_(problem, heads()) {
    const std::int64_t threads = device.num_threads();
    queries_ = {scratch.take<RowSpan>(threads),
                scratch.take<RowBytes>(threads * span_),
                scratch.take<Pair>(threads * groups_ * q_group()),
                scratch.take<float>(threads * span_ * heads()),
                scratch.take<Pair>(threads * groups_ * weights_group()),
                scratch.take<float>(threads * heads() * value_columns_),
                {}};
    keys_ = scratch.take<Pair>(threads * keys_size());
    values_ = scratch.take<Pair>(threads * values_size());
    softmax_.lay_out(scratch, threads, blocks());
  }

  Status run(const AttendArgs& args, const Device& device) {
    FATHOM_ASSIGN(const AttendSets sets, open_sets(problem_, args));
    sets_ = &sets;
    args_ = &args;
    softmax_.begin();
    const std::int64_t items[kStages] = {groups_, blocks(), blocks(), value_columns_ / kValueColumns};
    share_queries(
        device, args.q.shape[0], items, [&](const AttendItems& some) { work(some); },
        [&](int slot) { return queries_.span[slot].last; });
    return {};
  }

 private:
  std::int64_t heads() const { return std::int64_t{groups_} * kLine; }
  std::int64_t blocks() const { return span_ / kScoreRows; }
  std::int64_t q_group() const { return steps_ * kPiece; }
  std::int64_t weights_group() const { return blocks() * kPiece + kApart; }
  std::int64_t keys_size() const { return kScoreRows / kLine * steps_ * kPiece; }
  std::int64_t values_size() const { return kValueColumns / kLine * blocks() * kPiece; }

  Query query_of(int slot) const {
    return {queries_.span + slot,
            queries_.rows + slot * span_,
            queries_.q + slot * groups_ * q_group(),
            queries_.logits + slot * span_ * heads(),
            queries_.weights + slot * groups_ * weights_group(),
            queries_.sums + slot * heads() * value_columns_,
            softmax_.blocks_of(slot)};
  }

  void work(const AttendItems& items) const {
    const Query query = query_of(items.slot);
    const SettledSoftmax settled = softmax_.settled_of(items.part);
    if (items.stage == kList) {
      if (items.first == 0) list_rows(*sets_, *args_, items.t, items.span, span_, *query.span, query.rows);
      for (std::int64_t group = items.first; items.span == 0 && group < items.last; ++group)
        pack(query, items.t, group);
      return;
    }
    const std::int64_t blocks = (query.span->count + kScoreRows - 1) / kScoreRows, last = std::min(items.last, blocks);
    if (items.stage == kScore) {
      loops_.begin();
      for (std::int64_t block = items.first; block < last; ++block)
        score(query, keys_ + items.part * keys_size(), block);
      loops_.end();
    } else if (items.stage == kWeigh) {
      softmax_.find_base(query.blocks, items.span, blocks, settled);
      for (std::int64_t block = items.first; block < last; ++block) weigh(query, block, settled.most);
    } else {
      softmax_.settle(*args_, query.blocks, items.t, items.span, blocks, settled);
      loops_.begin();
      for (std::int64_t item = items.first; item < items.last; ++item) {
        gather(query, items, blocks, settled, values_ + items.part * values_size(),
               static_cast<int>(item) * kValueColumns);
      }
      loops_.end();
      if (items.first != 0) return;
      softmax_.carry(query.blocks, items.span, settled);
      if (items.span == query.span->last) softmax_.store(*args_, items.t, query.span->seen, settled);
    }
  }

  void pack(const Query& query, std::int64_t t, std::int64_t group) const {
    const int heads = std::min(kLine, problem_.num_heads - static_cast<int>(group) * kLine);
    loops_.pack(args_->q.row<const bf16>(t, group * kLine), args_->q.strides[1], heads, problem_.head_dim,
                query.q + group * q_group());
  }

  int rows_of(const Query& query, std::int64_t block) const {
    return static_cast<int>(std::min<std::int64_t>(kScoreRows, query.span->count - block * kScoreRows));
  }

  void score(const Query& query, Pair* keys, std::int64_t block) const {
    const std::int64_t first = block * kScoreRows, next = first + kScoreRows;
    const int rows = rows_of(query, block),
              ahead = static_cast<int>(std::clamp<std::int64_t>(query.span->count - next, 0, kScoreRows));
    const int window = static_cast<int>(std::clamp<std::int64_t>(query.span->from_window - first, 0, rows));
    if (rows < kScoreRows) std::fill_n(keys, keys_size(), Pair{0});
    const RowBytes* at = query.rows + first;
    if (window > 0) loops_.decode_keys(sets_->caches[0].layout, at, window, 0, query.rows + next, ahead, keys);
    if (window < rows) {
      loops_.decode_keys(sets_->caches[1].layout, at + window, rows - window, window, query.rows + next + window,
                         ahead - window, keys);
    }
    loops_.score(keys, rows, steps_, query.q, groups_, problem_.softmax_scale, query.logits + first * heads(),
                 query.blocks.most + block * heads());
  }

  void weigh(const Query& query, std::int64_t block, const float* base) const {
    loops_.weigh(query.logits + block * kScoreRows * heads(), rows_of(query, block), groups_, problem_.softmax_scale,
                 base, query.weights + block * kPiece, weights_group(), query.blocks.total + block * heads());
  }

  void gather(const Query& query, const AttendItems& items, std::int64_t blocks, const SettledSoftmax& settled,
              Pair* values, int column) const {
    const std::int64_t panel = blocks * kPiece, count = query.span->count, window = query.span->from_window;
    // Rows that are not there weigh nothing, of zeros.
    for (int v = 0; v < kValueColumns / kLine && count % kScoreRows != 0; ++v)
      std::fill_n(values + (v + 1) * panel - kPiece, kPiece, Pair{0});
    if (window > 0) loops_.decode_values(sets_->caches[0].layout, query.rows, window, 0, column, values, panel);
    if (window < count)
      loops_.decode_values(sets_->caches[1].layout, query.rows + window, count - window, window, column, values, panel);
    float* sums = query.sums + column;
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      float* own = sums + h * value_columns_;
      if (items.span == 0 && blocks == 0) std::fill_n(own, kValueColumns, 0.0f);
      if (items.span == 0 || settled.factor[h] == 1) continue;
      for (int c = 0; c < kValueColumns; ++c) own[c] *= settled.factor[h];
    }
    loops_.gather({.weights = query.weights,
                   .weights_group = weights_group(),
                   .values = values,
                   .sums = sums,
                   .sums_head = value_columns_,
                   .groups = groups_,
                   .row_steps = static_cast<int>(blocks),
                   .fresh = items.span == 0});
    if (items.span != query.span->last) return;
    const int stored = std::min(kValueColumns, problem_.value_dim - column);
    for (std::int64_t h = 0; h < problem_.num_heads; ++h) {
      float* own = sums + h * value_columns_;
      if (settled.share[h] == 0) std::fill_n(own, stored, 0.0f);
      const std::int64_t at = items.t * args_->out.strides[0] + h * args_->out.strides[1] + column;
      simd::avx512_loops().store(own, stored, settled.share[h], args_->out.dtype,
                                 static_cast<std::byte*>(args_->out.data) + bytes_of(args_->out.dtype, at));
    }
  }

  const AttendProblem& problem_;
  const simd::Bf16Loops& loops_;
  int groups_;  ///< of kLine heads
  int steps_;   ///< of a key
  std::int64_t value_columns_, span_;
  AttendSoftmax softmax_;
  Query queries_{};         ///< of slot 0; the others' follow
  Pair* keys_ = nullptr;    ///< [threads, row tiles, steps, piece]
  Pair* values_ = nullptr;  ///< [threads, panels, blocks, piece]
  const AttendSets* sets_ = nullptr;
  const AttendArgs* args_ = nullptr;
};

Result<Prepared> prepare(const AttendProblem& problem, const Device& device, const simd::Bf16Loops& loops) {
  Scratch scratch;
  AttendBf16(problem, device, loops, scratch);
  return Prepared{.workspace = {.scratch = scratch.used()},
                  .state = std::shared_ptr<const void>(std::shared_ptr<void>(), &loops),
                  .parts = {}};
}

bool is_exact(RowsBy rows_by, CacheFormat format) {
  return rows_by == RowsBy::none || format == CacheFormat::kv_bf16 || format == CacheFormat::kv_e4m3_ue8m0;
}

}  // namespace

Reason attend_bf16_refuses(const AttendProblem& problem, const Device&) {
  if (problem.q_dtype != DType::bf16) return "q_dtype must be bf16: f32 queries keep f32 arithmetic";
  if (!is_exact(problem.window_rows, problem.window_format) ||
      !is_exact(problem.entries_rows, problem.entries_format)) {
    return "rows must be kv_bf16 or kv_e4m3_ue8m0, which bf16 holds exactly";
  }
  return {};
}

Result<Prepared> prepare_attend_avx512bf16(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::bf16_dot_loops());
}
Result<Prepared> prepare_attend_amx(const AttendProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::bf16_tile_loops());
}
Status attend_bf16(const AttendProblem& problem, const AttendArgs& args, const RunContext& context) {
  Scratch scratch(context.workspace.scratch);
  return AttendBf16(problem, context.device, *static_cast<const simd::Bf16Loops*>(context.state), scratch)
      .run(args, context.device);
}

}  // namespace fathom
