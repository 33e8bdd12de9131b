// index: which compressed entries a query attends to (the lightning indexer of CSA layers).
#pragma once

#include "fathom/cache.h"
#include "fathom/core/plan.h"

namespace fathom FATHOM_PUBLIC {

/// Element type of index queries that meet keys of `format`; e2m1x2 queries come with q_scale.
constexpr DType index_query_dtype(CacheFormat format) noexcept {
  return format == CacheFormat::index_f32 ? DType::f32 : format == CacheFormat::index_e4m3_f32 ? DType::e4m3 : DType::e2m1x2;
}

// ---- index_query: query latent and hidden states -> index queries and head weights --------------------------------

struct IndexQueryProblem {
  std::int32_t num_tokens = 1;
  std::int32_t hidden_size = 0;
  std::int32_t q_rank = 0;
  std::int32_t index_heads = 64;
  std::int32_t index_dim = 128;
  std::int32_t rope_dim = 64;
  Numerics numerics = Numerics::served;
  DType wq_b_dtype = DType::bf16;
  DType weights_proj_dtype = DType::bf16;
  CacheFormat format = CacheFormat::index_e2m1_ue8m0;   ///< of the keys the queries will meet

  bool operator==(const IndexQueryProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct IndexQueryArgs {
  TensorView x, q_latent, wq_b, wq_b_scale, weights_proj, rope_table, positions, q, q_scale, weights;
};

inline constexpr ArgSpec kIndexQueryArgs[] = {
    {offsetof(IndexQueryArgs, x), Role::in, "x", "num_tokens hidden_size", "$numerics", "normed hidden states"},
    {offsetof(IndexQueryArgs, q_latent), Role::in, "q_latent", "num_tokens q_rank", "$numerics", "from project"},
    {offsetof(IndexQueryArgs, wq_b), Role::in, "wq_b", "index_heads*index_dim q_rank", "$wq_b_dtype", "index query projection"},
    {offsetof(IndexQueryArgs, wq_b_scale), Role::optional_in, "wq_b_scale", "index_heads*index_dim/128 q_rank/128", "ue8m0", "with e4m3 weights"},
    {offsetof(IndexQueryArgs, weights_proj), Role::in, "weights_proj", "index_heads hidden_size", "$weights_proj_dtype", "head weight projection"},
    {offsetof(IndexQueryArgs, rope_table), Role::in, "rope_table", "num_positions rope_dim", "f32", "cos, then sin, by position"},
    {offsetof(IndexQueryArgs, positions), Role::in, "positions", "num_tokens", "i32", "outside the table = padding: zeros"},
    {offsetof(IndexQueryArgs, q), Role::out, "q", "num_tokens index_heads index_dim", "f32|e4m3|e2m1x2", "f32, e4m3 or e2m1x2 as format says"},
    {offsetof(IndexQueryArgs, q_scale), Role::optional_out, "q_scale", "num_tokens index_heads index_dim/32", "ue8m0", "with e2m1x2 queries only"},
    {offsetof(IndexQueryArgs, weights), Role::out, "weights", "num_tokens index_heads", "f32",
     "head weights times (index_dim * index_heads)^-0.5; e4m3: the query's scale too"},
};
static_assert(lists_every_field<IndexQueryArgs>(kIndexQueryArgs));

using IndexQueryPlan = Plan<IndexQueryProblem>;

/// q = quantise(Hadamard(rotate(q_latent * wq_b^T))) per head, no head norm;  weights = x * weights_proj^T * scale
/// Errors  invalid_argument: shape, dtype or device differs from the table; q or q_scale does not fit the format.
/// Source  spec 4.1 and 4.3; definition in src/index/index_query_reference.cpp.
Result<IndexQueryPlan> plan_index_query(const IndexQueryProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status index_query(const IndexQueryPlan& plan, const IndexQueryArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

// ---- index: scores of all visible entries and the best topk of them -----------------------------------------------

struct IndexProblem {
  std::int32_t num_tokens = 1;
  std::int32_t num_seqs = 1;
  std::int32_t index_heads = 64;
  std::int32_t index_dim = 128;
  std::int32_t topk = 512;
  std::int32_t compress_ratio = 4;
  CacheFormat format = CacheFormat::index_e2m1_ue8m0;
  std::int32_t page_size = 64;          ///< of the index keys
  std::int32_t entries_page_size = 64;  ///< of the entries topk_indices point into
  std::int32_t max_entries = 1 << 18;   ///< most entries a sequence may have; later ones are not seen

  bool operator==(const IndexProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct IndexArgs {
  TensorView q, q_scale, weights, index_cache, block_table, entries_block_table, positions, seq_ids;
  TensorView topk_entries, topk_indices, scores;
};

inline constexpr ArgSpec kIndexArgs[] = {
    {offsetof(IndexArgs, q), Role::in, "q", "num_tokens index_heads index_dim", "f32|e4m3|e2m1x2", "from index_query"},
    {offsetof(IndexArgs, q_scale), Role::optional_in, "q_scale", "num_tokens index_heads index_dim/32", "ue8m0", "with e2m1x2 queries only"},
    {offsetof(IndexArgs, weights), Role::in, "weights", "num_tokens index_heads", "f32", "from index_query"},
    {offsetof(IndexArgs, index_cache), Role::in, "index_cache", "index_pages index_page_bytes", "u8", "pages of format"},
    {offsetof(IndexArgs, block_table), Role::in, "block_table", "num_seqs max_index_pages", "i32", "pages of index keys; -1 = none"},
    {offsetof(IndexArgs, entries_block_table), Role::optional_in, "entries_block_table", "num_seqs max_entry_pages", "i32",
     "pages of entries; required with topk_indices"},
    {offsetof(IndexArgs, positions), Role::in, "positions", "num_tokens", "i32", "negative = padding: nothing is picked"},
    {offsetof(IndexArgs, seq_ids), Role::in, "seq_ids", "num_tokens", "i32", "row of the block tables"},
    {offsetof(IndexArgs, topk_entries), Role::optional_out, "topk_entries", "num_tokens topk", "i32", "entry numbers, ascending; -1 at the tail"},
    {offsetof(IndexArgs, topk_indices), Role::optional_out, "topk_indices", "num_tokens topk", "i32", "the same as slots, for attend"},
    {offsetof(IndexArgs, scores), Role::optional_out, "scores", "num_tokens score_width", "f32", "-inf where not visible or absent"},
};
static_assert(lists_every_field<IndexArgs>(kIndexArgs));

using IndexPlan = Plan<IndexProblem>;

/// score[t, j] = sum over h of weights[t, h] * max(q[t, h] . key[j], 0),    j < floor((position[t] + 1) / compress_ratio)
/// Keeps the best topk. Where no more than topk entries are visible all are kept, whatever their scores.
/// Ties    common, since relu gives exact zeros: the smaller entry number wins. NaN ranks below every number.
///         Equal scores give equal picks everywhere; scores of two implementations may differ in the last bits.
/// Errors  invalid_argument: shape, dtype or device differs from the table; no output asked for.
///         An entry whose index page is missing or outside the cache is absent: never read, never picked. A picked entry
///         without an entry page, or whose slot does not fit i32, has topk_indices -1.
/// Source  spec 4.2; definition in src/index/index_reference.cpp.
Result<IndexPlan> plan_index(const IndexProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status index(const IndexPlan& plan, const IndexArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

// ---- select_topk: the selection alone, for scores computed elsewhere ----------------------------------------------

struct SelectTopkProblem {
  std::int32_t num_tokens = 1;
  std::int32_t num_scores = 0;  ///< columns of scores
  std::int32_t topk = 512;

  bool operator==(const SelectTopkProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct SelectTopkArgs {
  TensorView scores, lengths, topk_entries;
};

inline constexpr ArgSpec kSelectTopkArgs[] = {
    {offsetof(SelectTopkArgs, scores), Role::in, "scores", "num_tokens num_scores", "f32", "columns past the row's length are not read"},
    {offsetof(SelectTopkArgs, lengths), Role::optional_in, "lengths", "num_tokens", "i32", "columns of each row; clamped to 0..num_scores"},
    {offsetof(SelectTopkArgs, topk_entries), Role::out, "topk_entries", "num_tokens topk", "i32", "columns, ascending; -1 at the tail"},
};
static_assert(lists_every_field<SelectTopkArgs>(kSelectTopkArgs));

using SelectTopkPlan = Plan<SelectTopkProblem>;

/// The topk largest of scores[t, 0 .. lengths[t]), ties to the smaller column, NaN below every number (-inf included).
/// Source  spec 4.2; definition in src/index/select_topk_reference.cpp.
Result<SelectTopkPlan> plan_select_topk(const SelectTopkProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status select_topk(const SelectTopkPlan& plan, const SelectTopkArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

}  // namespace fathom
