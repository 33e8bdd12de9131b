// index on the CPU in f32, for every instruction set that Highway compiles for: a few keys at a time against all index
// heads, whose sums never leave the registers.
#include "index/index_cpu.h"
#include "index/index_impl.h"
#include "simd/loops.h"

namespace fathom {
namespace {

constexpr std::int64_t kKeys = 48;  ///< decoded at a time: whole register tiles of every instruction set

class F32Scorer {
 public:
  F32Scorer(const IndexProblem& problem, const Device& device, Scratch& scratch, const simd::Loops& loops)
      : problem_(problem), loops_(loops), heads_(loops.panels(problem.index_heads) * loops.width()) {
    const std::int64_t threads = device.num_threads();
    row_ = scratch.take<float>(threads * problem.index_dim);
    q_ = scratch.take<float>(threads * heads_ * problem.index_dim);
    weights_ = scratch.take<float>(threads * heads_);
    keys_ = scratch.take<float>(threads * kKeys * problem.index_dim);
  }

  void load(const IndexArgs& args, std::int64_t t, int part) const {
    const std::int64_t dim = problem_.index_dim, width = loops_.width();
    float* row = row_ + part * dim;
    float* q = q_ + part * heads_ * dim;
    float* weights = weights_ + part * heads_;
    std::fill_n(weights, heads_, 0.0f);
    std::copy_n(args.weights.row<const float>(t), problem_.index_heads, weights);
    for (std::int64_t h = 0; h < heads_; ++h) {
      if (h < problem_.index_heads) {
        load_index_query(args, t, h, problem_.index_dim, row);
      } else {
        std::fill_n(row, dim, 0.0f);
      }
      for (std::int64_t c = 0; c < dim; ++c) q[(h / width * dim + c) * width + h % width] = row[c];
    }
  }

  void score(const RowLayout& layout, const RowBytes* rows, std::int64_t count, int part, float* scores) const {
    const std::int64_t dim = problem_.index_dim;
    float* keys = keys_ + part * kKeys * dim;
    for (std::int64_t j = 0; j < count; j += kKeys) {
      const std::int64_t some = std::min(kKeys, count - j);
      loops_.decode(layout, rows + j, some, 0, problem_.index_dim, keys, dim);
      loops_.score(keys, some, q_ + part * heads_ * dim, problem_.index_dim, problem_.index_heads,
                   weights_ + part * heads_, scores + j);
    }
  }

 private:
  const IndexProblem& problem_;
  const simd::Loops& loops_;
  std::int64_t heads_;  ///< padded to whole panels
  float* row_;          ///< [threads, dim]
  float* q_;            ///< [threads, panels, dim, width]
  float* weights_;      ///< [threads, heads]
  float* keys_;         ///< [threads, kKeys, dim]
};

Result<Prepared> prepare(const IndexProblem& problem, const Device& device, const simd::Loops& loops) {
  Scratch scratch;
  const F32Scorer scorer(problem, device, scratch, loops);
  IndexRun(problem, device, scratch, scorer, loops.above);
  return Prepared{.workspace = {.scratch = scratch.used()},
                  .state = std::shared_ptr<const void>(std::shared_ptr<void>(), &loops),
                  .parts = {}};
}

}  // namespace

Result<Prepared> prepare_index_cpu(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::best_loops());
}
Result<Prepared> prepare_index_avx2(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::avx2_loops());
}
Result<Prepared> prepare_index_avx512(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, simd::avx512_loops());
}
Status index_cpu(const IndexProblem& problem, const IndexArgs& args, const RunContext& context) {
  const auto& loops = *static_cast<const simd::Loops*>(context.state);
  Scratch scratch(context.workspace.scratch);
  const F32Scorer scorer(problem, context.device, scratch, loops);
  return IndexRun(problem, context.device, scratch, scorer, loops.above).run(args);
}

}  // namespace fathom
