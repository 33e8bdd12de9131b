// The definition of compress (spec 3): state rows by absolute position, pooled per channel where a group closes.
#include <limits>

#include "compress/compress_impl.h"
#include "reference/definition.h"

namespace fathom {
namespace {

namespace ref = reference;

/// kv and score of one token, f32 as the state keeps them: width values of each.
ref::Vector state_row(const CompressProblem& problem, const CompressArgs& args, std::int64_t t, std::int64_t position) {
  const std::int64_t width = problem.width();
  const ref::Vector x = ref::row_of(args.x, problem.hidden_size, t);
  const ref::Vector kv = ref::times(args.wkv, {}, x, 0, width);
  const ref::Vector score = ref::times(args.wgate, {}, x, 0, width);
  ref::Vector row(2 * width);
  for (std::int64_t c = 0; c < width; ++c) {
    row[c] = ref::f32(kv[c]);
    const std::int64_t at = position % problem.ratio * args.ape.strides[0] + c;
    row[width + c] = ref::f32(ref::f32(score[c]) + ref::element(args.ape.data, args.ape.dtype, at));
  }
  return row;
}

}  // namespace

Status compress_reference(const CompressProblem& problem, const CompressArgs& args, const RunContext&) {
  const Numerics numerics = problem.numerics;
  const std::int64_t num_tokens = args.x.shape[0], width = problem.width(), dim = problem.dim, ratio = problem.ratio;
  const ref::Pages cache{args.cache, problem.format, dim, problem.page_size};
  const ref::Pages state{args.state_cache, CacheFormat::state_f32, 2 * width, problem.state_page_size};

  std::vector<ref::Vector> rows(num_tokens);
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const std::int64_t position = ref::integer(args.positions, t);
    if (ref::is_token(args.rope_table, position)) rows[t] = state_row(problem, args, t, position);
  }

  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const std::int64_t position = ref::integer(args.positions, t), seq = ref::integer(args.seq_ids, t);
    const std::int64_t slot = ref::integer(args.slot_mapping, t);
    if (rows[t].empty() || (position + 1) % ratio != 0 || !cache.holds(slot)) continue;

    // The rows this entry pools, oldest first; an empty vector is a masked row.
    std::vector<ref::Vector> pooled_rows;
    for (std::int64_t back = problem.state_tokens() - 1; back >= 0; --back) {
      const std::int64_t at = position - back, token = t - back;
      if (token >= 0 && ref::integer(args.seq_ids, token) == seq && ref::integer(args.positions, token) == at && !rows[token].empty()) {
        pooled_rows.push_back(rows[token]);
        continue;
      }
      const std::int64_t from = ref::slot_of(args.state_block_table, seq, at, problem.state_page_size);
      pooled_rows.push_back(state.holds(from) ? state.read(from) : ref::Vector());
    }

    ref::Vector y(dim);
    for (std::int64_t c = 0; c < dim; ++c) {
      double most = -std::numeric_limits<double>::infinity(), sum = 0, weighted = 0;
      const auto column = [&](std::size_t i) {  // the group before gives its carry half, the closing group its own half
        return problem.overlap != 0 && static_cast<std::int64_t>(i) >= ratio ? dim + c : c;
      };
      for (std::size_t i = 0; i < pooled_rows.size(); ++i) {
        if (!pooled_rows[i].empty()) most = std::max(most, pooled_rows[i][width + column(i)]);
      }
      for (std::size_t i = 0; i < pooled_rows.size(); ++i) {
        if (pooled_rows[i].empty()) continue;
        const double weight = std::exp(pooled_rows[i][width + column(i)] - most);
        sum += weight;
        weighted += weight * pooled_rows[i][column(i)];
      }
      y[c] = weighted / sum;
    }

    ref::round_all(y, numerics);
    y = ref::rms_norm(y, args.norm, problem.norm_eps);
    ref::round_all(y, numerics);
    if (problem.rope_dim > 0) ref::rotate(y, args.rope_table, position + 1 - ratio);
    ref::round_all(y, numerics);
    if (problem.hadamard != 0) {
      y = ref::hadamard(y);
      ref::round_all(y, numerics);
    }
    cache.write(slot, y);
  }

  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const std::int64_t slot = ref::integer(args.state_slot_mapping, t);
    if (!rows[t].empty() && state.holds(slot)) state.write(slot, rows[t]);
  }
  return {};
}

}  // namespace fathom
