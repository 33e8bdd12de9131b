// index on the CPU: keys dequantised a block at a time and met by all index heads of a query; the scores of one query
// become sortable integers in the thread's own scratch, and the best are picked from them.
#include <limits>

#include "cache/number_codecs.h"
#include "cache/row_codec.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "index/index_impl.h"
#include "index/top_entries.h"
#include "simd/words.h"

namespace fathom {
namespace {

constexpr std::int64_t kKeyBlock = 64;

struct Pieces {
  float* q;             ///< [threads, index_heads, index_dim]
  float* keys;          ///< [threads, kKeyBlock, index_dim]
  float* dots;          ///< [threads, index_heads, kKeyBlock]
  std::int32_t* block;  ///< [threads, kKeyBlock]: entry numbers of the block in hand
  std::uint64_t* picks; ///< [threads, max_entries]
  std::int32_t* best;   ///< [threads, topk]
};

Pieces lay_out(const IndexProblem& problem, const Device& device, Scratch& scratch) {
  const std::int64_t threads = device.num_threads(), heads = problem.index_heads, dim = problem.index_dim;
  Pieces pieces;
  pieces.q = scratch.take<float>(threads * heads * dim);
  pieces.keys = scratch.take<float>(threads * kKeyBlock * dim);
  pieces.dots = scratch.take<float>(threads * heads * kKeyBlock);
  pieces.block = scratch.take<std::int32_t>(threads * kKeyBlock);
  pieces.picks = scratch.take<std::uint64_t>(threads * problem.max_entries);
  pieces.best = scratch.take<std::int32_t>(threads * problem.topk);
  return pieces;
}

/// One thread's share of Pieces.
struct Share {
  float *q, *keys, *dots;
  std::int32_t* block;
  std::uint64_t* picks;
  std::int32_t* best;
};
Share share_of(const Pieces& pieces, const IndexProblem& problem, int part) {
  const std::int64_t heads = problem.index_heads, dim = problem.index_dim;
  return {pieces.q + part * heads * dim,          pieces.keys + part * kKeyBlock * dim,
          pieces.dots + part * heads * kKeyBlock, pieces.block + part * kKeyBlock,
          pieces.picks + part * std::int64_t{problem.max_entries}, pieces.best + part * std::int64_t{problem.topk}};
}

/// All index heads of query t as f32.
void load_query(const IndexProblem& problem, const IndexArgs& args, std::int64_t t, float* q) {
  const int dim = problem.index_dim;
  for (std::int64_t h = 0; h < problem.index_heads; ++h, q += dim) {
    const std::int64_t at = t * args.q.strides[0] + h * args.q.strides[1];
    if (args.q.dtype == DType::f32) {
      load_row(args.q, at, dim, q);
    } else if (args.q.dtype == DType::e4m3) {
      dequantise_e4m3(static_cast<const std::uint8_t*>(args.q.data) + at, dim, 1.0f, q);
    } else {
      const std::uint8_t* scales = args.q_scale.row<std::uint8_t>(t, h);
      for (int c = 0; c < dim; c += 32) {
        dequantise_e2m1(static_cast<const std::uint8_t*>(args.q.data) + (at + c) / 2, 32, decode_ue8m0(scales[c / 32]), q + c);
      }
    }
  }
}

/// sum over heads of weight * relu(dot), heads in order; a NaN dot stays NaN.
float score_of(const float* dots, std::int64_t stride, const float* weights, int heads) {
  float score = 0;
  for (int h = 0; h < heads; ++h) {
    const float dot = dots[h * stride];
    score += (dot < 0 ? 0.0f : dot) * weights[h];
  }
  return score;
}

/// Scores every present entry of query t. Returns how many keys lie in share.picks.
std::int64_t score_entries(const IndexProblem& problem, const IndexArgs& args, const PagedCacheView& cache, std::int64_t t,
                           const Share& share) {
  const std::int64_t position = args.positions.at<std::int32_t>(t), seq = args.seq_ids.at<std::int32_t>(t);
  if (position < 0 || seq < 0 || seq >= args.block_table.shape[0]) return 0;
  const std::int64_t visible = std::min<std::int64_t>((position + 1) / problem.compress_ratio, problem.max_entries);
  const std::int32_t* table = args.block_table.row<std::int32_t>(seq);
  const float* weights = args.weights.row<float>(t);
  float* scores = args.scores.is_absent() ? nullptr : args.scores.row<float>(t);
  load_query(problem, args, t, share.q);
  std::int64_t count = 0;
  for (std::int64_t next = 0; next < visible;) {
    int rows = 0;
    for (; next < visible && rows < kKeyBlock; ++next) {
      const std::int64_t slot = slot_through(table, args.block_table.shape[1], problem.page_size, next);
      if (!cache.holds(slot)) continue;
      share.block[rows] = static_cast<std::int32_t>(next);
      decode_row(cache.layout, cache.row(slot), cache.footer(slot), share.keys + rows * problem.index_dim);
      ++rows;
    }
    simd::dot_rows(share.q, problem.index_dim, problem.index_heads, share.keys, problem.index_dim, rows, problem.index_dim,
                   share.dots, kKeyBlock);
    for (int j = 0; j < rows; ++j) {
      const float score = score_of(share.dots + j, kKeyBlock, weights, problem.index_heads);
      const auto entry = static_cast<std::uint32_t>(share.block[j]);
      share.picks[count++] = pick_key(score, entry);
      if (scores != nullptr && entry < args.scores.shape[1]) scores[entry] = score;
    }
  }
  return count;
}

void store_picks(const IndexProblem& problem, const IndexArgs& args, std::int64_t t, const std::int32_t* best, std::int64_t count) {
  const std::int64_t seq = args.seq_ids.at<std::int32_t>(t);
  const TensorView& table = args.entries_block_table;
  for (std::int64_t k = 0; k < problem.topk; ++k) {
    const std::int32_t entry = k < count ? best[k] : -1;
    if (!args.topk_entries.is_absent()) args.topk_entries.row<std::int32_t>(t)[k] = entry;
    if (args.topk_indices.is_absent()) continue;
    std::int64_t slot = -1;
    if (entry >= 0 && seq >= 0 && seq < table.shape[0]) {
      slot = slot_through(table.row<std::int32_t>(seq), table.shape[1], problem.entries_page_size, entry);
    }
    const bool fits = slot <= std::numeric_limits<std::int32_t>::max();
    args.topk_indices.row<std::int32_t>(t)[k] = fits ? static_cast<std::int32_t>(slot) : -1;
  }
}

}  // namespace

Result<Prepared> prepare_index_cpu(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  Scratch scratch;
  lay_out(problem, device, scratch);
  return Prepared{{.scratch = scratch.used()}};
}

Status index_cpu(const IndexProblem& problem, const IndexArgs& args, const RunContext& context) {
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, scratch);
  FATHOM_ASSIGN(const RowLayout layout, row_layout(problem.format, problem.index_dim));
  FATHOM_ASSIGN(const PagedCacheView cache, paged_cache("index", "index_cache", args.index_cache, layout, problem.page_size));
  parallel_for(context.device, args.q.shape[0], 1, [&](std::int64_t begin, std::int64_t end, int part) {
    const Share share = share_of(pieces, problem, part);
    for (std::int64_t t = begin; t < end; ++t) {
      if (!args.scores.is_absent()) {
        std::fill_n(args.scores.row<float>(t), args.scores.shape[1], -std::numeric_limits<float>::infinity());
      }
      const std::int64_t count = score_entries(problem, args, cache, t, share);
      store_picks(problem, args, t, share.best, pick_best(share.picks, count, problem.topk, share.best));
    }
  });
  return {};
}

}  // namespace fathom
