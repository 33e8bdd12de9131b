// The definition of attend (spec 6.1, 6.2): gather the rows of both sets, one softmax, the sink in the denominator.
#include <limits>

#include "attend/attend_impl.h"
#include "reference/definition.h"

namespace fathom {
namespace {

namespace ref = reference;

struct SetProblem {
  RowsBy rows_by;
  CacheFormat format;
  std::int64_t page_size, width;
};

/// Appends the present rows of query t, in order.
void gather(const SetProblem& problem, const RowSet& set, const TensorView& seq_ids, std::int64_t head_dim, std::int64_t t,
            std::vector<ref::Vector>& rows) {
  if (problem.rows_by == RowsBy::none) return;
  const ref::Pages cache{set.cache, problem.format, head_dim, problem.page_size};
  if (problem.rows_by == RowsBy::list) {
    std::int64_t length = set.lengths.is_absent() ? problem.width : ref::integer(set.lengths, t);
    length = std::clamp<std::int64_t>(length, 0, problem.width);
    for (std::int64_t i = 0; i < length; ++i) {
      const std::int64_t slot = static_cast<const std::int32_t*>(set.indices.data)[t * set.indices.strides[0] + i];
      if (cache.holds(slot)) rows.push_back(cache.read(slot));
    }
    return;
  }
  const std::int64_t begin = set.begin.is_absent() ? 0 : std::max<std::int64_t>(ref::integer(set.begin, t), 0);
  const std::int64_t end = std::min(ref::integer(set.end, t), begin + problem.width);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t slot = ref::slot_of(set.block_table, ref::integer(seq_ids, t), row, problem.page_size);
    if (cache.holds(slot)) rows.push_back(cache.read(slot));
  }
}

/// Head h of query t, head-normed and rotated.
ref::Vector query(const AttendProblem& problem, const AttendArgs& args, std::int64_t t, int h) {
  ref::Vector q = ref::row_of(args.q, problem.head_dim, t, h);
  if (problem.q_form == QForm::final) return q;
  const Numerics numerics = problem.q_dtype == DType::f32 ? Numerics::exact : Numerics::served;
  const std::int64_t position = ref::integer(args.positions, t);
  if (!ref::is_token(args.rope_table, position)) return ref::Vector(q.size());
  ref::head_norm(q, problem.norm_eps, numerics);
  if (problem.rope_dim > 0) ref::rotate(q, args.rope_table, position);
  ref::round_all(q, numerics);
  return q;
}

/// A result leaves in the problem's form.
void store_result(const AttendProblem& problem, const AttendArgs& args, ref::Vector out, std::int64_t t, int h) {
  if (problem.out_form == OutForm::plain) return ref::store_row(args.out, out, t, h);
  const Numerics numerics = problem.out_dtype == DType::f32 ? Numerics::exact : Numerics::served;
  const std::int64_t position = ref::integer(args.positions, t);
  if (ref::is_token(args.rope_table, position)) {
    ref::round_all(out, numerics);
    if (problem.rope_dim > 0) ref::rotate(out, args.rope_table, position, -1);
    ref::round_all(out, numerics);
  } else {
    out.assign(out.size(), 0.0);
  }
  if (problem.out_form == OutForm::unrotated) return ref::store_row(args.out, out, t, h);
  constexpr std::int64_t kBlock = 128;
  ref::Vector codes, scales;
  for (std::int64_t first = 0; first < problem.value_dim; first += kBlock) {
    const std::int64_t count = std::min(kBlock, problem.value_dim - first);
    const int exponent = ref::q8_exponent(&out[first], static_cast<int>(count));
    for (std::int64_t c = 0; c < count; ++c) codes.push_back(ref::q8_code(out[first + c], exponent));
    scales.push_back(exponent + 127);
  }
  ref::store_row(args.out, codes, t, h);
  ref::store_row(args.out_scale, scales, t, h);
}

}  // namespace

Status attend_reference(const AttendProblem& problem, const AttendArgs& args, const RunContext&) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const SetProblem window{problem.window_rows, problem.window_format, problem.window_page_size, problem.window_width};
  const SetProblem entries{problem.entries_rows, problem.entries_format, problem.entries_page_size, problem.entries_width};
  for (std::int64_t t = 0; t < args.q.shape[0]; ++t) {
    std::vector<ref::Vector> rows;
    gather(window, args.window, args.seq_ids, problem.head_dim, t, rows);
    gather(entries, args.entries, args.seq_ids, problem.head_dim, t, rows);
    for (int h = 0; h < problem.num_heads; ++h) {
      const ref::Vector q = query(problem, args, t, h);
      ref::Vector logits;
      double most = -kInfinity;
      for (const ref::Vector& row : rows) {
        double dot = 0;
        for (std::int64_t c = 0; c < problem.head_dim; ++c) dot += q[c] * row[c];
        // A logit is an f32: past its range it is infinite.
        const double logit = dot * problem.softmax_scale;
        logits.push_back(std::isinf(ref::f32(logit)) ? ref::f32(logit) : logit);
        most = std::max(most, logits.back());
      }
      double sum = 0;
      ref::Vector out(problem.value_dim);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const double weight = std::exp(logits[i] - (most == -kInfinity ? 0 : most));
        sum += weight;
        for (std::int64_t c = 0; c < problem.value_dim; ++c) out[c] += weight * rows[i][c];
      }
      const double sink = args.attn_sink.is_absent() ? -kInfinity : ref::element(args.attn_sink.data, DType::f32, h);
      // Where no row weighs anything there is nothing to divide: the sink alone would give 0 as well.
      const double denominator = sum == 0 ? kInfinity : sum + std::exp(sink - most);
      for (double& value : out) value = std::isinf(denominator) ? 0 : value / denominator;
      store_result(problem, args, std::move(out), t, h);
      const std::int64_t at = t * args.lse.strides[0] + h;
      if (!args.lse.is_absent()) ref::store(args.lse, at, rows.empty() ? -kInfinity : most + std::log(sum));
      if (!args.max_logits.is_absent()) ref::store(args.max_logits, t * args.max_logits.strides[0] + h, most);
    }
  }
  return {};
}

}  // namespace fathom
