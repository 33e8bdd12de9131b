// The softmax of a query from what its blocks of rows leave.
#include <cmath>

#include "attend/attend_cpu.h"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

void AttendSoftmax::lay_out(Scratch& scratch, std::int64_t threads, std::int64_t blocks) noexcept {
  threads_ = threads;
  blocks_ = blocks;
  const auto take = [&](std::int64_t count) { return scratch.take<float>(threads * count * heads_); };
  query_ = {take(blocks), take(blocks), take(4)};
  settled_ = {take(1), take(1), take(1), take(1), scratch.take<std::int64_t>(threads)};
}

SoftmaxBlocks AttendSoftmax::blocks_of(int slot) const noexcept {
  return {query_.most + slot * blocks_ * heads_, query_.total + slot * blocks_ * heads_,
          query_.carried + slot * 4 * heads_};
}

SettledSoftmax AttendSoftmax::settled_of(int part) const noexcept {
  const std::int64_t at = part * heads_;
  return {settled_.most + at, settled_.total + at, settled_.factor + at, settled_.share + at, settled_.which + part};
}

void AttendSoftmax::find_most(const SoftmaxBlocks& query, std::int64_t span, std::int64_t blocks,
                              float* most) const noexcept {
  if (span == 0) {
    std::fill_n(most, heads_, -kInfinity);
  } else {
    std::copy_n(carried(query, span), heads_, most);
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    const float* its = query.most + block * heads_;
    for (std::int64_t h = 0; h < heads_; ++h) most[h] = its[h] > most[h] ? its[h] : most[h];
  }
}

void AttendSoftmax::find_base(const SoftmaxBlocks& query, std::int64_t span, std::int64_t blocks,
                              const SettledSoftmax& settled) const noexcept {
  *settled.which = -1;
  find_most(query, span, blocks, settled.most);
  // Relative to -inf, while no larger logit has come, a logit of -inf weighs nothing; a NaN stays a NaN.
  for (std::int64_t h = 0; h < heads_; ++h) settled.most[h] = settled.most[h] == -kInfinity ? 0.0f : settled.most[h];
}

void AttendSoftmax::settle(const AttendArgs& args, const SoftmaxBlocks& query, std::int64_t t, std::int64_t span,
                           std::int64_t blocks, const SettledSoftmax& settled) const noexcept {
  const std::int64_t which = span * args.q.shape[0] + t;
  if (*settled.which == which) return;
  *settled.which = which;
  find_most(query, span, blocks, settled.most);
  for (std::int64_t h = 0; h < heads_; ++h) {
    const float before = span == 0 ? -kInfinity : carried(query, span)[h],
                total = span == 0 ? 0.0f : carried(query, span)[heads_ + h];
    settled.factor[h] = settled.most[h] > before ? std::exp(before - settled.most[h]) : 1.0f;  // 0 for the first rows
    settled.total[h] = total * settled.factor[h];
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t h = 0; h < heads_; ++h) settled.total[h] += query.total[block * heads_ + h];
  }
  for (std::int64_t h = 0; h < num_heads_; ++h) {
    const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
    // The sink has no value vector: it only enlarges the denominator. Where no row weighs anything, or the sink takes
    // all, nothing is left of the values.
    const float denominator = settled.total[h] + std::exp(sink - settled.most[h]);
    settled.share[h] = settled.total[h] == 0 || denominator == kInfinity ? 0.0f : 1.0f / denominator;
  }
}

void AttendSoftmax::carry(const SoftmaxBlocks& query, std::int64_t span, const SettledSoftmax& settled) const noexcept {
  float* next = query.carried + (span + 1) % 2 * 2 * heads_;
  std::copy_n(settled.most, heads_, next);
  std::copy_n(settled.total, heads_, next + heads_);
}

void AttendSoftmax::store(const AttendArgs& args, std::int64_t t, bool seen,
                          const SettledSoftmax& settled) const noexcept {
  for (std::int64_t h = 0; h < num_heads_; ++h) {
    if (!args.lse.is_absent())
      args.lse.row<float>(t)[h] = seen ? settled.most[h] + std::log(settled.total[h]) : -kInfinity;
    if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[h] = settled.most[h];
  }
}

}  // namespace fathom
