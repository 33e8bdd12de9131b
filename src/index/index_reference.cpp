// The definition of index (spec 4.2): score every visible entry, sort, keep the best.
#include <limits>

#include "index/index_impl.h"
#include "reference/definition.h"

namespace fathom {
namespace {

namespace ref = reference;

/// Index query (t, h), dequantised.
ref::Vector query(const IndexProblem& problem, const IndexArgs& args, std::int64_t t, std::int64_t h) {
  ref::Vector q(problem.index_dim);
  for (std::int64_t c = 0; c < problem.index_dim; ++c) {
    const std::int64_t at = t * args.q.strides[0] + h * args.q.strides[1] + c;
    q[c] = ref::element(args.q.data, args.q.dtype, at);
    if (!args.q_scale.is_absent()) {
      q[c] *= ref::element(args.q_scale.data, DType::ue8m0, t * args.q_scale.strides[0] + h * args.q_scale.strides[1] + c / 32);
    }
  }
  return q;
}

}  // namespace

Status index_reference(const IndexProblem& problem, const IndexArgs& args, const RunContext&) {
  constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
  const ref::Pages keys{args.index_cache, problem.format, problem.index_dim, problem.page_size};
  for (std::int64_t t = 0; t < args.q.shape[0]; ++t) {
    const std::int64_t position = ref::integer(args.positions, t), seq = ref::integer(args.seq_ids, t);
    std::int64_t visible = position < 0 ? 0 : (position + 1) / problem.compress_ratio;
    visible = std::min<std::int64_t>(visible, problem.max_entries);

    std::vector<ref::Vector> q;
    for (int h = 0; h < problem.index_heads; ++h) q.push_back(query(problem, args, t, h));
    struct Scored {
      std::int64_t entry;
      double score;
    };
    std::vector<Scored> scored;
    for (std::int64_t j = 0; j < visible; ++j) {
      const std::int64_t slot = ref::slot_of(args.block_table, seq, j, problem.page_size);
      if (!keys.holds(slot)) continue;
      const ref::Vector key = keys.read(slot);
      double score = 0;
      for (int h = 0; h < problem.index_heads; ++h) {
        double dot = 0;
        for (std::int64_t c = 0; c < problem.index_dim; ++c) dot += q[h][c] * key[c];
        // NaN must survive the ReLU: std::max would drop it.
        score += (dot < 0 ? 0 : dot) * ref::element(args.weights.data, DType::f32, t * args.weights.strides[0] + h);
      }
      scored.push_back({j, ref::f32(score)});
    }

    if (!args.scores.is_absent()) {
      for (std::int64_t j = 0; j < args.scores.shape[1]; ++j) ref::store(args.scores, t * args.scores.strides[0] + j, kMinusInfinity);
      for (const Scored& s : scored) {
        if (s.entry < args.scores.shape[1]) ref::store(args.scores, t * args.scores.strides[0] + s.entry, s.score);
      }
    }
    std::stable_sort(scored.begin(), scored.end(), [](const Scored& a, const Scored& b) {
      if (std::isnan(a.score) || std::isnan(b.score)) return !std::isnan(a.score) && std::isnan(b.score);
      return a.score > b.score;
    });
    if (static_cast<std::int64_t>(scored.size()) > problem.topk) scored.resize(problem.topk);
    std::sort(scored.begin(), scored.end(), [](const Scored& a, const Scored& b) { return a.entry < b.entry; });
    for (std::int64_t k = 0; k < problem.topk; ++k) {
      const std::int64_t entry = k < static_cast<std::int64_t>(scored.size()) ? scored[k].entry : -1;
      if (!args.topk_entries.is_absent()) ref::store(args.topk_entries, t * args.topk_entries.strides[0] + k, static_cast<double>(entry));
      if (!args.topk_indices.is_absent()) {
        const std::int64_t slot = ref::slot_of(args.entries_block_table, seq, entry, problem.entries_page_size);
        const bool fits = slot <= std::numeric_limits<std::int32_t>::max();
        ref::store(args.topk_indices, t * args.topk_indices.strides[0] + k, fits ? static_cast<double>(slot) : -1);
      }
    }
  }
  return {};
}

}  // namespace fathom
