// attend: queries x (window rows + selected entries) -> out, lse. One softmax over both row sets.
#pragma once

#include "fathom/cache.h"
#include "fathom/core/plan.h"

namespace fathom FATHOM_PUBLIC {

/// How a row set names the rows of each query.
enum class RowsBy : std::uint8_t {
  none,   ///< the set is empty
  list,   ///< indices [num_tokens, width]: slots, -1 anywhere = absent; lengths [num_tokens] cut each list
  range,  ///< rows begin..end-1 of the query's sequence, through block_table
};
inline constexpr const char* kRowsByWords[] = {"none", "list", "range"};

/// Where a query's rows are cut among blocks of a GPU. It decides the order of sums, hence the last bits.
enum class Split : std::uint8_t {
  balanced,  ///< so that the device is full: by the step's queries and the multiprocessors
  fixed,     ///< by the query's own rows alone: the same bits in any batch, on any GPU of the same implementation
};
inline constexpr const char* kSplitWords[] = {"balanced", "fixed"};

struct AttendProblem {
  std::int32_t num_tokens = 1;   ///< query tokens of this step, all sequences together
  std::int32_t num_seqs = 1;     ///< rows of the block tables
  std::int32_t num_heads = 0;
  std::int32_t head_dim = 512;   ///< elements of q and of a key
  std::int32_t value_dim = 512;  ///< leading elements of a row that are its value
  DType q_dtype = DType::bf16;
  DType out_dtype = DType::bf16;
  float softmax_scale = 0.0441941738f;
  RowsBy window_rows = RowsBy::range;
  CacheFormat window_format = CacheFormat::kv_e4m3_ue8m0;
  std::int32_t window_page_size = 64;
  std::int32_t window_width = 128;  ///< list: columns; range: most rows of a query
  RowsBy entries_rows = RowsBy::none;
  CacheFormat entries_format = CacheFormat::kv_e4m3_ue8m0;
  std::int32_t entries_page_size = 64;
  std::int32_t entries_width = 0;
  Split split = Split::balanced;
  QForm q_form = QForm::final;
  OutForm out_form = OutForm::plain;
  std::int32_t rope_dim = 64;  ///< raw q, and out that is not plain: rotated elements, the last of a head
  float norm_eps = 1e-6f;      ///< raw q

  bool operator==(const AttendProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

/// Rows of one paged cache that each query attends to.
struct RowSet {
  TensorView cache;        ///< u8 [pages, page_bytes]
  TensorView indices;      ///< list: i32 [num_tokens, width]
  TensorView lengths;      ///< list, optional: i32 [num_tokens]; columns at and past it are never read
  TensorView begin;        ///< range, optional: i32 [num_tokens]; absent = 0
  TensorView end;          ///< range: i32 [num_tokens]
  TensorView block_table;  ///< range: i32 [num_seqs, max_pages]
};

struct AttendArgs {
  TensorView q, seq_ids;
  RowSet window, entries;
  TensorView attn_sink, out, lse, max_logits;
  TensorView rope_table, positions, out_scale;
};

#define FATHOM_ROW_SET_ARGS(SET)                                                                                              \
  {offsetof(AttendArgs, SET.cache), Role::optional_in, #SET ".cache", #SET "_pages " #SET "_page_bytes", "u8",               \
   "pages of " #SET "_format"},                                                                                               \
      {offsetof(AttendArgs, SET.indices), Role::optional_in, #SET ".indices", "num_tokens " #SET "_width", "i32",             \
       "list: slots; -1 or outside the cache = absent, anywhere in the row"},                                                 \
      {offsetof(AttendArgs, SET.lengths), Role::optional_in, #SET ".lengths", "num_tokens", "i32",                            \
       "list: columns of each row that count; clamped to 0..width"},                                                          \
      {offsetof(AttendArgs, SET.begin), Role::optional_in, #SET ".begin", "num_tokens", "i32", "range: first row; absent = 0"}, \
      {offsetof(AttendArgs, SET.end), Role::optional_in, #SET ".end", "num_tokens", "i32", "range: one past the last row"},   \
      {offsetof(AttendArgs, SET.block_table), Role::optional_in, #SET ".block_table", "num_seqs max_" #SET "_pages", "i32",   \
       "range: page ids; -1 = none"}

inline constexpr ArgSpec kAttendArgs[] = {
    {offsetof(AttendArgs, q), Role::in, "q", "num_tokens num_heads head_dim", "$q_dtype",
     "final: head-normed and rotated; raw: neither"},
    {offsetof(AttendArgs, seq_ids), Role::optional_in, "seq_ids", "num_tokens", "i32",
     "row of the block tables; required with a range"},
    FATHOM_ROW_SET_ARGS(window),
    FATHOM_ROW_SET_ARGS(entries),
    {offsetof(AttendArgs, attn_sink), Role::optional_in, "attn_sink", "num_heads", "f32",
     "logit that joins the denominator only; absent = none"},
    {offsetof(AttendArgs, out), Role::out, "out", "num_tokens num_heads value_dim", "$out_dtype",
     "plain: RoPE not undone"},
    {offsetof(AttendArgs, lse), Role::optional_out, "lse", "num_tokens num_heads", "f32",
     "natural log, sink excluded; -inf if no row"},
    {offsetof(AttendArgs, max_logits), Role::optional_out, "max_logits", "num_tokens num_heads", "f32",
     "largest scaled logit; -inf if no row"},
    {offsetof(AttendArgs, rope_table), Role::optional_in, "rope_table", "num_positions rope_dim", "f32",
     "raw q, or out that is not plain: cos, then sin, by position"},
    {offsetof(AttendArgs, positions), Role::optional_in, "positions", "num_tokens", "i32",
     "with rope_table; outside the table = padding: raw q counts as zero, out that is not plain is zero"},
    {offsetof(AttendArgs, out_scale), Role::optional_out, "out_scale", "num_tokens num_heads value_dim/128", "ue8m0",
     "with out_form=e4m3: scales of out's codes"},
};
#undef FATHOM_ROW_SET_ARGS
static_assert(lists_every_field<AttendArgs>(kAttendArgs));

using AttendPlan = Plan<AttendProblem>;

/// l_i = (q . row_i) * softmax_scale;  lse = ln(sum exp(l_i));
/// out = sum exp(l_i) row_i[:value_dim] / (sum exp(l_i) + exp(sink))
/// over the rows of both sets together. A row that stands in both sets, or twice in a list, counts twice.
/// With bf16 q an implementation may round the probabilities to bf16 or f16. A range of more than width rows keeps the
/// first width of them: give the widest range any query has.
/// A query that sees nothing, or only rows whose logit is -inf: out = 0, lse = max_logits = -inf.
/// attn_sink = -inf: no effect; +inf: out = 0.
/// Slots outside the cache, and ranges past the block table, are absent and never read, so what lies there (NaN
/// included) cannot reach the output.
/// q_form=raw: q gets the head norm of spec 2 and its rotation first, rounded to its type after each, as project does.
/// out_form=unrotated, e4m3: out is rounded (for e4m3 to bf16), its last rope_dim elements are rotated back and rounded
/// again, as output does; e4m3 then quantises blocks of 128. Both need value_dim = head_dim, e4m3 out_dtype=e4m3.
/// split=fixed: a query's bits depend on its own q, rows and sinks alone, given tensors that are aligned alike (16
/// bytes). CPUs never cut otherwise.
/// Errors  invalid_argument: shape, dtype or device differs from the table; arguments do not fit a row set's kind or a
///         form.
/// Source  spec 2, 6; definition in src/attend/attend_reference.cpp.
Result<AttendPlan> plan_attend(const AttendProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status attend(const AttendPlan& plan, const AttendArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

// ---- merge_partials: attention over disjoint row sets, computed apart ---------------------------------------------

struct MergePartialsProblem {
  std::int32_t num_partials = 2;
  std::int32_t num_tokens = 1;
  std::int32_t num_heads = 0;
  std::int32_t value_dim = 512;
  DType partial_dtype = DType::f32;
  DType out_dtype = DType::bf16;

  bool operator==(const MergePartialsProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct MergePartialsArgs {
  TensorView partial_out, partial_lse, attn_sink, out, lse;
};

inline constexpr ArgSpec kMergePartialsArgs[] = {
    {offsetof(MergePartialsArgs, partial_out), Role::in, "partial_out", "num_partials num_tokens num_heads value_dim", "$partial_dtype",
     "each part's own softmax, without sink"},
    {offsetof(MergePartialsArgs, partial_lse), Role::in, "partial_lse", "num_partials num_tokens num_heads", "f32",
     "natural log; -inf (or +inf, as FlashMLA reports it) = the part saw nothing"},
    {offsetof(MergePartialsArgs, attn_sink), Role::optional_in, "attn_sink", "num_heads", "f32", "joins the denominator once"},
    {offsetof(MergePartialsArgs, out), Role::out, "out", "num_tokens num_heads value_dim", "$out_dtype", "attention over all parts"},
    {offsetof(MergePartialsArgs, lse), Role::optional_out, "lse", "num_tokens num_heads", "f32", "of all parts, sink excluded"},
};
static_assert(lists_every_field<MergePartialsArgs>(kMergePartialsArgs));

using MergePartialsPlan = Plan<MergePartialsProblem>;

/// out = sum_p exp(lse_p) out_p / (sum_p exp(lse_p) + exp(sink)), parts in order.
/// Source  spec 6.2, 13.2; definition in src/attend/merge_partials_reference.cpp.
Result<MergePartialsPlan> plan_merge_partials(const MergePartialsProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status merge_partials(const MergePartialsPlan& plan, const MergePartialsArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

}  // namespace fathom
