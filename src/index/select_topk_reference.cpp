// The definition of select_topk: sort, keep, put back in order.
#include "index/select_topk_impl.h"
#include "reference/definition.h"

namespace fathom {

Status select_topk_reference(const SelectTopkProblem& problem, const SelectTopkArgs& args, const RunContext&) {
  namespace ref = reference;
  for (std::int64_t t = 0; t < args.scores.shape[0]; ++t) {
    std::int64_t length = args.lengths.is_absent() ? problem.num_scores : ref::integer(args.lengths, t);
    length = std::clamp<std::int64_t>(length, 0, problem.num_scores);
    const ref::Vector score = ref::row_of(args.scores, length, t);
    std::vector<std::int64_t> order(length);
    for (std::int64_t j = 0; j < length; ++j) order[j] = j;
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      if (std::isnan(score[a]) || std::isnan(score[b])) return !std::isnan(score[a]) && std::isnan(score[b]);
      return score[a] > score[b];
    });
    order.resize(std::min<std::int64_t>(length, problem.topk));
    std::sort(order.begin(), order.end());
    for (std::int64_t k = 0; k < problem.topk; ++k) {
      const std::int64_t entry = k < static_cast<std::int64_t>(order.size()) ? order[k] : -1;
      ref::store(args.topk_entries, t * args.topk_entries.strides[0] + k, static_cast<double>(entry));
    }
  }
  return {};
}

}  // namespace fathom
