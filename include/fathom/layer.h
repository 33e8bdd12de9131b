// layer: the five stages in order. Plan once, run every step.
#pragma once

#include "fathom/attend.h"
#include "fathom/compress.h"
#include "fathom/config.h"
#include "fathom/index.h"
#include "fathom/output.h"
#include "fathom/project.h"

namespace fathom FATHOM_PUBLIC {

/// A layer's sizes, the step's capacities and the caches' formats.
struct LayerProblem {
  std::int32_t num_tokens = 1;  ///< most tokens of a step
  std::int32_t num_seqs = 1;    ///< most sequences of a step
  std::int32_t hidden_size = 0;
  std::int32_t num_heads = 0;
  std::int32_t head_dim = 512;
  std::int32_t rope_dim = 64;
  std::int32_t q_rank = 0;
  std::int32_t output_groups = 1;
  std::int32_t output_rank = 0;
  std::int32_t window = 128;
  std::int32_t compress_ratio = 0;
  std::int32_t index_heads = 64;
  std::int32_t index_dim = 128;
  std::int32_t index_topk = 512;
  std::int32_t max_entries = 1 << 18;  ///< most entries of a sequence
  Numerics numerics = Numerics::served;
  DType wq_a_dtype = DType::bf16;             ///< a weight in e4m3 is multiplied quantised in `served`, wo_a apart
  DType wq_b_dtype = DType::bf16;
  DType wkv_dtype = DType::bf16;
  DType wo_a_dtype = DType::bf16;
  DType wo_b_dtype = DType::bf16;
  DType index_wq_b_dtype = DType::bf16;
  DType compress_weight_dtype = DType::bf16;  ///< of the compressors and of index_weights_proj
  DType out_dtype = DType::bf16;              ///< f32 on a shard: ranks add partial sums
  CacheFormat window_format = CacheFormat::kv_e4m3_ue8m0;
  CacheFormat entries_format = CacheFormat::kv_e4m3_ue8m0;
  CacheFormat index_format = CacheFormat::index_e2m1_ue8m0;
  std::int32_t window_page_size = 64;
  std::int32_t entries_page_size = 64;
  std::int32_t index_page_size = 64;
  std::int32_t state_page_size = 4;
  std::int32_t index_state_page_size = 4;
  float norm_eps = 1e-6f;
  Split split = Split::balanced;  ///< of attend

  bool operator==(const LayerProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

/// The problem of a configured layer in the formats its numerics imply: exact keeps f32 rows, served the checkpoint's
/// serving formats. Capacities, page sizes and weight dtypes are left at their defaults.
Result<LayerProblem> layer_problem(const LayerConfig& config, Numerics numerics) noexcept;

/// Weights, spec 8. The compressor's are absent on window layers, the indexer's outside CSA layers; scales go with e4m3.
struct LayerWeights {
  TensorView wq_a, wq_a_scale, q_norm, wq_b, wq_b_scale, wkv, wkv_scale, kv_norm, attn_sink;
  TensorView wo_a, wo_a_scale, wo_b, wo_b_scale;
  TensorView compress_wkv, compress_wgate, compress_ape, compress_norm;
  TensorView index_wq_b, index_wq_b_scale, index_weights_proj;
  TensorView index_wkv, index_wgate, index_ape, index_norm;
};

/// The caches of one layer: u8 [pages, page_bytes] each; those the layer kind does not have are absent.
struct LayerCaches {
  TensorView window, entries, index_keys, state, index_state;
};

/// The step's bookkeeping, built once for all layers of a kind (PagePool::batch builds it).
/// Tokens of a sequence stand together with ascending positions.
struct Batch {
  TensorView positions, seq_ids;                                                                // i32 [num_tokens]
  TensorView window_begin, window_end, num_visible;                                             // i32 [num_tokens]
  TensorView window_slots, entry_slots, index_slots, state_slots, index_state_slots;            // i64 [num_tokens]
  TensorView window_table, entries_table, index_table, state_table, index_state_table;          // i32 [num_seqs, pages]
};

struct LayerArgs {
  TensorView x, rope_table;
  LayerWeights weights;
  LayerCaches caches;
  Batch batch;
  TensorView out;
  TensorView topk_entries, index_scores, attn_out;  ///< optional: what happened inside
};

#define FATHOM_LAYER_WEIGHT(NAME, ROLE, SHAPE, DTYPES, DOC) \
  {offsetof(LayerArgs, weights.NAME), Role::ROLE, #NAME, SHAPE, DTYPES, DOC}
#define FATHOM_LAYER_CACHE(NAME, ROLE, DOC) \
  {offsetof(LayerArgs, caches.NAME), Role::ROLE, #NAME, #NAME "_pages " #NAME "_page_bytes", "u8", DOC}
#define FATHOM_LAYER_TOKENS(NAME, ROLE, DTYPE, DOC) {offsetof(LayerArgs, batch.NAME), Role::ROLE, #NAME, "num_tokens", DTYPE, DOC}
#define FATHOM_LAYER_TABLE(NAME, ROLE, DOC) {offsetof(LayerArgs, batch.NAME), Role::ROLE, #NAME, "num_seqs max_" #NAME, "i32", DOC}
inline constexpr ArgSpec kLayerArgs[] = {
    {offsetof(LayerArgs, x), Role::in, "x", "num_tokens hidden_size", "$numerics", "normed hidden states"},
    {offsetof(LayerArgs, rope_table), Role::in, "rope_table", "num_positions rope_dim", "f32", "of this layer's kind"},
    FATHOM_LAYER_WEIGHT(wq_a, in, "q_rank hidden_size", "$wq_a_dtype", "query down-projection"),
    FATHOM_LAYER_WEIGHT(wq_a_scale, optional_in, "q_rank/128 hidden_size/128", "ue8m0", "with e4m3 weights"),
    FATHOM_LAYER_WEIGHT(q_norm, in, "q_rank", "f32|bf16", "RMSNorm weight"),
    FATHOM_LAYER_WEIGHT(wq_b, in, "num_heads*head_dim q_rank", "$wq_b_dtype", "query up-projection"),
    FATHOM_LAYER_WEIGHT(wq_b_scale, optional_in, "num_heads*head_dim/128 q_rank/128", "ue8m0", "with e4m3 weights"),
    FATHOM_LAYER_WEIGHT(wkv, in, "head_dim hidden_size", "$wkv_dtype", "KV projection"),
    FATHOM_LAYER_WEIGHT(wkv_scale, optional_in, "head_dim/128 hidden_size/128", "ue8m0", "with e4m3 weights"),
    FATHOM_LAYER_WEIGHT(kv_norm, in, "head_dim", "f32|bf16", "RMSNorm weight"),
    FATHOM_LAYER_WEIGHT(attn_sink, in, "num_heads", "f32", "logit that joins the denominator"),
    FATHOM_LAYER_WEIGHT(wo_a, in, "output_groups*output_rank group_dim", "$wo_a_dtype", "grouped down-projection"),
    FATHOM_LAYER_WEIGHT(wo_a_scale, optional_in, "output_groups*output_rank/128 group_tiles", "ue8m0", "with e4m3 weights"),
    FATHOM_LAYER_WEIGHT(wo_b, in, "hidden_size output_groups*output_rank", "$wo_b_dtype", "output up-projection"),
    FATHOM_LAYER_WEIGHT(wo_b_scale, optional_in, "hidden_size/128 output_groups*output_rank/128", "ue8m0", "with e4m3 weights"),
    FATHOM_LAYER_WEIGHT(compress_wkv, optional_in, "width hidden_size", "$compress_weight_dtype", "CSA and HCA"),
    FATHOM_LAYER_WEIGHT(compress_wgate, optional_in, "width hidden_size", "$compress_weight_dtype", "CSA and HCA"),
    FATHOM_LAYER_WEIGHT(compress_ape, optional_in, "compress_ratio width", "f32|bf16", "CSA and HCA"),
    FATHOM_LAYER_WEIGHT(compress_norm, optional_in, "head_dim", "f32|bf16", "CSA and HCA"),
    FATHOM_LAYER_WEIGHT(index_wq_b, optional_in, "index_heads*index_dim q_rank", "$index_wq_b_dtype", "CSA"),
    FATHOM_LAYER_WEIGHT(index_wq_b_scale, optional_in, "index_heads*index_dim/128 q_rank/128", "ue8m0", "CSA, with e4m3 weights"),
    FATHOM_LAYER_WEIGHT(index_weights_proj, optional_in, "index_heads hidden_size", "$compress_weight_dtype", "CSA"),
    FATHOM_LAYER_WEIGHT(index_wkv, optional_in, "index_width hidden_size", "$compress_weight_dtype", "CSA"),
    FATHOM_LAYER_WEIGHT(index_wgate, optional_in, "index_width hidden_size", "$compress_weight_dtype", "CSA"),
    FATHOM_LAYER_WEIGHT(index_ape, optional_in, "compress_ratio index_width", "f32|bf16", "CSA"),
    FATHOM_LAYER_WEIGHT(index_norm, optional_in, "index_dim", "f32|bf16", "CSA"),
    FATHOM_LAYER_CACHE(window, inout, "pages of window_format"),
    FATHOM_LAYER_CACHE(entries, optional_inout, "CSA and HCA: pages of entries_format"),
    FATHOM_LAYER_CACHE(index_keys, optional_inout, "CSA: pages of index_format"),
    FATHOM_LAYER_CACHE(state, optional_inout, "CSA and HCA: state rows of the compressor"),
    FATHOM_LAYER_CACHE(index_state, optional_inout, "CSA: state rows of the indexer's compressor"),
    FATHOM_LAYER_TOKENS(positions, in, "i32", "outside the table = padding: nothing written, out row zero; give -1, which picks nothing either"),
    FATHOM_LAYER_TOKENS(seq_ids, in, "i32", "row of the block tables"),
    FATHOM_LAYER_TOKENS(window_begin, in, "i32", "first position a token sees in its window"),
    FATHOM_LAYER_TOKENS(window_end, in, "i32", "one past the last"),
    FATHOM_LAYER_TOKENS(num_visible, optional_in, "i32", "HCA: entries a token sees"),
    FATHOM_LAYER_TOKENS(window_slots, in, "i64", "window slot each token writes; -1 = none"),
    FATHOM_LAYER_TOKENS(entry_slots, optional_in, "i64", "CSA and HCA: slot of the entry a token closes"),
    FATHOM_LAYER_TOKENS(index_slots, optional_in, "i64", "CSA: the same for index keys"),
    FATHOM_LAYER_TOKENS(state_slots, optional_in, "i64", "CSA and HCA: state slot each token writes; -1 = none"),
    FATHOM_LAYER_TOKENS(index_state_slots, optional_in, "i64", "CSA: the same for the indexer's"),
    FATHOM_LAYER_TABLE(window_table, in, "window pages by position"),
    FATHOM_LAYER_TABLE(entries_table, optional_in, "CSA and HCA: pages of entries"),
    FATHOM_LAYER_TABLE(index_table, optional_in, "CSA: pages of index keys"),
    FATHOM_LAYER_TABLE(state_table, optional_in, "CSA and HCA: pages of state rows by position"),
    FATHOM_LAYER_TABLE(index_state_table, optional_in, "CSA: the same for the indexer's"),
    {offsetof(LayerArgs, out), Role::out, "out", "num_tokens hidden_size", "$out_dtype", "the layer's output"},
    {offsetof(LayerArgs, topk_entries), Role::optional_out, "topk_entries", "num_tokens index_topk", "i32", "CSA: picks, ascending"},
    {offsetof(LayerArgs, index_scores), Role::optional_out, "index_scores", "num_tokens score_width", "f32", "CSA: -inf where not visible"},
    {offsetof(LayerArgs, attn_out), Role::optional_out, "attn_out", "num_tokens num_heads head_dim", "$numerics", "before the inverse rotation"},
};
#undef FATHOM_LAYER_WEIGHT
#undef FATHOM_LAYER_CACHE
#undef FATHOM_LAYER_TOKENS
#undef FATHOM_LAYER_TABLE
static_assert(lists_every_field<LayerArgs>(kLayerArgs));

using LayerPlan = Plan<LayerProblem>;

/// One attention layer over any mix of first prefill, chunked prefill, decode and multi-token verification:
///   project -> compress -> index -> attend -> output. An entry closed by a token is visible to that token and later ones.
/// PlanOptions::implementation may name implementations for the stages: "attend=reference index=cpu".
/// Errors  invalid_argument: as the stages; a weight or cache that the layer kind needs is missing.
/// Source  spec 9.1; src/layer/layer.cpp.
Result<LayerPlan> plan_layer(const LayerProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status layer(const LayerPlan& plan, const LayerArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

/// One stage of a planned layer.
struct LayerStage {
  const char* title;  ///< "compress (index keys)": an op may be two stages
  AnyPlan plan;
};
/// The stages that the layer has, in the order they run; they live as long as a copy of the plan does.
std::span<const LayerStage> layer_stages(const LayerPlan& plan) noexcept;
/// Runs stage number `stage` alone, to time it or to look between stages. What stages hand on lies in the workspace: all
/// of them in order, with one args and one workspace, are one run of layer.
Status run_layer_stage(const LayerPlan& plan, std::size_t stage, const LayerArgs& args, const Workspace& workspace,
                       Stream stream = {}) noexcept;

}  // namespace fathom
