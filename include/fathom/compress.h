// compress: groups of tokens -> compressed entries (or index keys), carrying state rows from step to step.
#pragma once

#include "fathom/cache.h"
#include "fathom/core/plan.h"

namespace fathom FATHOM_PUBLIC {

struct CompressProblem {
  std::int32_t num_tokens = 1;
  std::int32_t num_seqs = 1;
  std::int32_t hidden_size = 0;
  std::int32_t dim = 512;     ///< d_c: 512 for entries, 128 for index keys
  std::int32_t rope_dim = 64;
  std::int32_t ratio = 4;     ///< tokens per entry
  std::int32_t overlap = 1;   ///< 1: an entry pools its own group and the one before (CSA); 0: its own (HCA)
  std::int32_t hadamard = 0;  ///< 1: rotate by the Walsh-Hadamard matrix before quantising (index keys)
  Numerics numerics = Numerics::served;
  DType weight_dtype = DType::bf16;
  CacheFormat format = CacheFormat::kv_e4m3_ue8m0;
  std::int32_t page_size = 64;
  std::int32_t state_page_size = 4;
  float norm_eps = 1e-6f;

  /// Columns of wkv and wgate, and of each half of a state row.
  constexpr std::int64_t width() const noexcept { return std::int64_t{dim} * (overlap + 1); }
  /// Tokens an entry pools.
  constexpr std::int64_t state_tokens() const noexcept { return std::int64_t{ratio} * (overlap + 1); }
  bool operator==(const CompressProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct CompressArgs {
  TensorView x, wkv, wgate, ape, norm, rope_table, positions, seq_ids;
  TensorView slot_mapping, state_slot_mapping, state_block_table, state_cache, cache;
};

inline constexpr ArgSpec kCompressArgs[] = {
    {offsetof(CompressArgs, x), Role::in, "x", "num_tokens hidden_size", "$numerics", "normed hidden states"},
    {offsetof(CompressArgs, wkv), Role::in, "wkv", "width hidden_size", "$weight_dtype", "width = dim * (overlap + 1); carry half first"},
    {offsetof(CompressArgs, wgate), Role::in, "wgate", "width hidden_size", "$weight_dtype", "scores of the pooling softmax"},
    {offsetof(CompressArgs, ape), Role::in, "ape", "ratio width", "f32|bf16", "added to the scores, row position mod ratio"},
    {offsetof(CompressArgs, norm), Role::in, "norm", "dim", "f32|bf16", "RMSNorm weight of the entry"},
    {offsetof(CompressArgs, rope_table), Role::in, "rope_table", "num_positions rope_dim", "f32", "cos, then sin, by position"},
    {offsetof(CompressArgs, positions), Role::in, "positions", "num_tokens", "i32",
     "tokens of a sequence stand together, ascending; outside the table = padding"},
    {offsetof(CompressArgs, seq_ids), Role::in, "seq_ids", "num_tokens", "i32", "row of the block tables"},
    {offsetof(CompressArgs, slot_mapping), Role::in, "slot_mapping", "num_tokens", "i64",
     "slot of the entry a token closes; read only where (position + 1) mod ratio = 0; -1 = none"},
    {offsetof(CompressArgs, state_slot_mapping), Role::in, "state_slot_mapping", "num_tokens", "i64", "state slot each token writes; -1 = none"},
    {offsetof(CompressArgs, state_block_table), Role::in, "state_block_table", "num_seqs max_state_pages", "i32", "pages of state rows by position"},
    {offsetof(CompressArgs, state_cache), Role::inout, "state_cache", "state_pages state_page_bytes", "u8",
     "f32 rows of 2 * width: kv, then score with ape"},
    {offsetof(CompressArgs, cache), Role::inout, "cache", "pages page_bytes", "u8", "pages of format"},
};
static_assert(lists_every_field<CompressArgs>(kCompressArgs));

using CompressPlan = Plan<CompressProblem>;

/// kv[t] = x[t] * wkv^T,  score[t] = x[t] * wgate^T + ape[position mod ratio]        (f32, kept as state rows)
/// entry j closes at position (j + 1) * ratio - 1 and pools, per channel c, softmax over its rows of score times kv:
///   own group: columns dim..2*dim-1 (overlap) or all; with overlap also the group before, columns 0..dim-1.
/// Rows before position 0 are masked. Then RMSNorm, rotation at position j * ratio, Hadamard if asked, quantisation.
/// Rows of this call's own tokens come from the call, older ones from state_cache; an older row without a page is masked.
/// All state rows are read before any is written, so state may lie in a ring that this call wraps round. A closing token
/// whose slot is outside the cache pools nothing. Two tokens that name one slot: what it holds is unspecified.
/// Errors  invalid_argument: shape, dtype or device differs from the table.
/// Source  spec 3; definition in src/compress/compress_reference.cpp.
Result<CompressPlan> plan_compress(const CompressProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status compress(const CompressPlan& plan, const CompressArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

}  // namespace fathom
