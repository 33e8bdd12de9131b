// index on the CPU by products of bf16 pairs: AVX-512's dot products, or AMX tiles. Keys and queries have codes of the
// same format, so one decoder serves both.
#include "index/index_cpu.h"
#include "index/index_impl.h"
#include "simd/bf16_scores.h"
#include "simd/loops.h"

namespace fathom {
namespace {

using simd::kLine, simd::kPiece, simd::kStep, simd::Pair;

class Bf16Scorer {
 public:
  Bf16Scorer(const IndexProblem& problem, const Device& device, Scratch& scratch, const simd::Bf16Scores& scores)
      : problem_(problem), scores_(scores), groups_((problem.index_heads + kLine - 1) / kLine) {
    const std::int64_t threads = device.num_threads();
    heads_ = scratch.take<RowBytes>(threads * problem.index_heads);
    q_ = scratch.take<Pair>(threads * q_size());
    weights_ = scratch.take<float>(threads * groups_ * kLine);
    keys_ = scratch.take<Pair>(threads * keys_size());
  }

  void load(const IndexArgs& args, std::int64_t t, int part) const {
    RowBytes* heads = heads_ + part * std::int64_t{problem_.index_heads};
    for (std::int64_t h = 0; h < problem_.index_heads; ++h) {
      const std::int64_t at = bytes_of(args.q.dtype, t * args.q.strides[0] + h * args.q.strides[1]);
      const std::byte* scales = args.q_scale.is_absent() ? nullptr : args.q_scale.row<const std::byte>(t, h);
      heads[h] = {static_cast<const std::byte*>(args.q.data) + at, scales};
    }
    scores_.pack(row_layout(problem_.format, problem_.index_dim).value(), heads, problem_.index_heads,
                 q_ + part * q_size());
    float* weights = weights_ + part * groups_ * kLine;
    std::fill_n(weights, groups_ * kLine, 0.0f);
    std::copy_n(args.weights.row<const float>(t), problem_.index_heads, weights);
  }

  void score(const RowLayout& layout, const RowBytes* rows, std::int64_t count, int part, float* scores) const {
    scores_.score(layout, rows, count, keys_ + part * keys_size(), q_ + part * q_size(), problem_.index_heads,
                  weights_ + part * groups_ * kLine, scores);
  }

 private:
  std::int64_t q_size() const { return groups_ * (problem_.index_dim / kStep) * kPiece; }
  std::int64_t keys_size() const { return simd::kScoredKeys / kLine * (problem_.index_dim / kStep) * kPiece; }

  const IndexProblem& problem_;
  const simd::Bf16Scores& scores_;
  std::int64_t groups_;  ///< of kLine heads
  RowBytes* heads_;      ///< [threads, index_heads]
  Pair* q_;              ///< [threads, groups, steps, piece]
  float* weights_;       ///< [threads, groups * kLine]
  Pair* keys_;           ///< [threads, tiles, steps, piece]
};

Result<Prepared> prepare(const IndexProblem& problem, const Device& device, const simd::Bf16Scores& scores) {
  Scratch scratch;
  const Bf16Scorer scorer(problem, device, scratch, scores);
  IndexRun(problem, device, scratch, scorer, simd::avx512_loops().above);
  return Prepared{.workspace = {.scratch = scratch.used()},
                  .state = std::shared_ptr<const void>(std::shared_ptr<void>(), &scores),
                  .parts = {}};
}

}  // namespace

Reason index_bf16_refuses(const IndexProblem& problem, const Device&) {
  if (!simd::takes_bf16_scores(problem.format, problem.index_dim)) {
    return "keys must be index_e4m3_f32 of a multiple of 64 elements, or index_e2m1_ue8m0 of a multiple of 128";
  }
  return {};
}

Result<Prepared> prepare_index_avx512bf16(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::bf16_dot_scores());
}
Result<Prepared> prepare_index_amx(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::bf16_tile_scores());
}
Status index_bf16(const IndexProblem& problem, const IndexArgs& args, const RunContext& context) {
  Scratch scratch(context.workspace.scratch);
  const Bf16Scorer scorer(problem, context.device, scratch, *static_cast<const simd::Bf16Scores*>(context.state));
  return IndexRun(problem, context.device, scratch, scorer, simd::avx512_loops().above).run(args);
}

}  // namespace fathom
