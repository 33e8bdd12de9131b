// layer's contract: its problem, what a configuration asks of it, and the checks that come before any stage runs.
#include <cmath>

#include "core/arg_checks.h"
#include "layer/layer_impl.h"

namespace fathom {
namespace {

#define FATHOM_PAGE_SIZE(NAME, DOC) \
  {offsetof(LayerProblem, NAME), FieldKind::integer, #NAME, DOC, 1, kMaxPageSize}
#define FATHOM_WEIGHT_DTYPE(NAME, DOC) {offsetof(LayerProblem, NAME), FieldKind::dtype, #NAME, DOC, 0, 0, {}, "weight_dtype"}
constexpr ProblemField kFields[] = {
    {offsetof(LayerProblem, num_tokens), FieldKind::capacity, "num_tokens", "tokens of a step, at most", 0, kMaxTokens},
    {offsetof(LayerProblem, num_seqs), FieldKind::capacity, "num_seqs", "sequences of a step, at most", 0, kMaxSeqs},
    {offsetof(LayerProblem, hidden_size), FieldKind::integer, "hidden_size", "elements of a hidden state", 1, kMaxDim},
    {offsetof(LayerProblem, num_heads), FieldKind::integer, "num_heads", "query heads", 1, kMaxHeads},
    {offsetof(LayerProblem, head_dim), FieldKind::integer, "head_dim", "elements of a head and of a KV row", 2, 4096},
    {offsetof(LayerProblem, rope_dim), FieldKind::integer, "rope_dim", "rotated elements, the last", 0, 4096},
    {offsetof(LayerProblem, q_rank), FieldKind::integer, "q_rank", "elements of the query latent", 1, kMaxDim},
    {offsetof(LayerProblem, output_groups), FieldKind::integer, "output_groups", "groups of consecutive heads", 1,
     kMaxHeads},
    {offsetof(LayerProblem, output_rank), FieldKind::integer, "output_rank", "elements a group is projected to", 1,
     kMaxDim},
    {offsetof(LayerProblem, window), FieldKind::integer, "window", "tokens a query sees uncompressed, itself included",
     1, 1 << 20},
    {offsetof(LayerProblem, compress_ratio), FieldKind::integer, "compress_ratio", "0 window, 4 CSA, any other HCA", 0,
     4096},
    {offsetof(LayerProblem, index_heads), FieldKind::integer, "index_heads", "CSA: heads of the indexer", 1, kMaxHeads},
    {offsetof(LayerProblem, index_dim), FieldKind::integer, "index_dim", "CSA: elements of an index head", 2, 1024},
    {offsetof(LayerProblem, index_topk), FieldKind::integer, "index_topk", "CSA: entries kept per query", 1, 1 << 20},
    {offsetof(LayerProblem, max_entries), FieldKind::integer, "max_entries", "most entries of a sequence", 0,
     kMaxEntries},
    {offsetof(LayerProblem, numerics), FieldKind::numerics, "numerics", "exact: f32 activations; served: bf16"},
    FATHOM_WEIGHT_DTYPE(wq_a_dtype, "f32, bf16 or e4m3"),
    FATHOM_WEIGHT_DTYPE(wq_b_dtype, "f32, bf16 or e4m3"),
    FATHOM_WEIGHT_DTYPE(wkv_dtype, "f32, bf16 or e4m3"),
    FATHOM_WEIGHT_DTYPE(wo_a_dtype, "f32, bf16 or e4m3"),
    FATHOM_WEIGHT_DTYPE(wo_b_dtype, "f32, bf16 or e4m3"),
    FATHOM_WEIGHT_DTYPE(index_wq_b_dtype, "CSA: f32, bf16 or e4m3"),
    {offsetof(LayerProblem, compress_weight_dtype), FieldKind::dtype, "compress_weight_dtype",
     "of the compressors: f32 or bf16"},
    {offsetof(LayerProblem, out_dtype), FieldKind::dtype, "out_dtype", "f32 or bf16"},
    {offsetof(LayerProblem, window_format), FieldKind::word, "window_format", "rows of the window cache", 0, 0,
     kCacheFormatWords},
    {offsetof(LayerProblem, entries_format), FieldKind::word, "entries_format", "rows of the entries", 0, 0,
     kCacheFormatWords},
    {offsetof(LayerProblem, index_format), FieldKind::word, "index_format", "rows of the index keys", 0, 0,
     kCacheFormatWords},
    FATHOM_PAGE_SIZE(window_page_size, "window rows of a page"),
    FATHOM_PAGE_SIZE(entries_page_size, "entries of a page"),
    FATHOM_PAGE_SIZE(index_page_size, "index keys of a page"),
    FATHOM_PAGE_SIZE(state_page_size, "state rows of a page"),
    FATHOM_PAGE_SIZE(index_state_page_size, "the indexer's state rows of a page"),
    {offsetof(LayerProblem, norm_eps), FieldKind::real, "norm_eps", "added to every mean square", 0, 1},
    {offsetof(LayerProblem, split), FieldKind::word, "split", "attend's: where rows are cut on a GPU", 0, 0,
     kSplitWords},
};
#undef FATHOM_PAGE_SIZE
#undef FATHOM_WEIGHT_DTYPE
constexpr LayerProblem kDefaults;
constexpr ProblemSpec kProblem{kFields, sizeof(LayerProblem), &kDefaults};

constexpr OpSpec kSpec{"layer", "layer", "Compute one attention layer of a step: any mix of prefill, chunked prefill, decode and verification.",
                       "project -> compress -> index -> attend -> output", "spec 9.1", kLayerArgs, &kProblem};

constexpr Implementation kList[] = {
    implement<refuses_nothing<LayerProblem>, prepare_layer, run_layer>("stages", DeviceKind::cpu),
#ifdef FATHOM_WITH_CUDA
    implement<refuses_nothing<LayerProblem>, prepare_layer, run_layer>("stages", DeviceKind::cuda),
#endif
};

Status validate(const void* opaque) {
  const auto& problem = *static_cast<const LayerProblem*>(opaque);
  FATHOM_TRY(check_weight_dtype("layer", "wq_a_dtype", problem.wq_a_dtype));
  FATHOM_TRY(check_weight_dtype("layer", "wq_b_dtype", problem.wq_b_dtype));
  FATHOM_TRY(check_weight_dtype("layer", "wkv_dtype", problem.wkv_dtype));
  FATHOM_TRY(check_weight_dtype("layer", "wo_a_dtype", problem.wo_a_dtype));
  FATHOM_TRY(check_weight_dtype("layer", "wo_b_dtype", problem.wo_b_dtype));
  FATHOM_TRY(check_weight_dtype("layer", "index_wq_b_dtype", problem.index_wq_b_dtype));
  FATHOM_TRY(check_float("layer", "compress_weight_dtype", problem.compress_weight_dtype));
  return check_float("layer", "out_dtype", problem.out_dtype);
}

Status check(const void* problem, const void* args) {
  return check_layer(*static_cast<const LayerProblem*>(problem), *static_cast<const LayerArgs*>(args));
}

/// A group of arguments that a layer kind has or has not.
struct Member {
  const char* name;
  const TensorView& tensor;
};
Status check_presence(const char* kind, bool expected, std::initializer_list<Member> members) {
  for (const Member& member : members) {
    if (expected && member.tensor.is_absent()) return Status::invalid("layer: %s is missing, %s layers need it", member.name, kind);
    if (!expected && !member.tensor.is_absent()) return Status::invalid("layer: %s came, expected none: only %s layers have it", member.name, kind);
  }
  return {};
}

Status check_rows(const char* name, const TensorView& tensor, std::int64_t expected, const char* meaning) {
  if (tensor.is_absent() || tensor.shape[0] == expected) return {};
  return Status::invalid("layer: %s has %lld rows, expected %lld (%s)", name, static_cast<long long>(tensor.shape[0]),
                         static_cast<long long>(expected), meaning);
}

Status check_cache(const char* name, const TensorView& pages, CacheFormat format, std::int64_t dim, int page_size) {
  if (pages.is_absent()) return {};
  FATHOM_ASSIGN(const RowLayout layout, row_layout(format, static_cast<int>(dim)));
  return paged_cache("layer", name, pages, layout, page_size).status();
}

}  // namespace

const ProblemSpec& LayerProblem::spec() noexcept { return kProblem; }

const Op& layer_op() noexcept {
  static const Op op{&kSpec, kList, validate, check};
  return op;
}

Result<LayerPlan> plan_layer(const LayerProblem& problem, const Device& device, const PlanOptions& options) noexcept {
  return make_plan<LayerPlan>(layer_op(), problem, device, options);
}
Status layer(const LayerPlan& plan, const LayerArgs& args, const Workspace& workspace, Stream stream) noexcept {
  return run_plan(layer_op(), plan, args, workspace, stream);
}

Result<LayerProblem> layer_problem(const LayerConfig& config, Numerics numerics) noexcept {
  FATHOM_TRY(check_config(config));
  const bool exact = numerics == Numerics::exact;
  LayerProblem problem;
  problem.hidden_size = config.hidden_size;
  problem.num_heads = config.num_heads;
  problem.head_dim = config.head_dim;
  problem.rope_dim = config.rope_dim();
  problem.q_rank = config.q_rank;
  problem.output_groups = config.output_groups;
  problem.output_rank = config.output_rank;
  problem.window = config.window;
  problem.compress_ratio = config.compress_ratio;
  if (config.kind() == LayerKind::csa) {
    problem.index_heads = config.index_heads;
    problem.index_dim = config.index_dim;
    problem.index_topk = config.index_topk;
  }
  if (config.compress_ratio > 0) problem.max_entries = static_cast<std::int32_t>(config.max_positions / config.compress_ratio);
  problem.numerics = numerics;
  problem.out_dtype = exact || config.shard_world > 1 ? DType::f32 : DType::bf16;
  problem.window_format = problem.entries_format = exact ? CacheFormat::kv_f32 : CacheFormat::kv_e4m3_ue8m0;
  problem.index_format = exact ? CacheFormat::index_f32 : CacheFormat::index_e2m1_ue8m0;
  problem.state_page_size = config.kind() == LayerKind::hca ? 8 : 4;
  problem.norm_eps = config.norm_eps;
  return problem;
}

Status check_layer(const LayerProblem& problem, const LayerArgs& args) {
  const LayerWeights& w = args.weights;
  const Batch& batch = args.batch;
  const LayerCaches& caches = args.caches;
  const bool entries = problem.compress_ratio > 0, csa = problem.compress_ratio == 4;
  FATHOM_TRY(check_presence("CSA and HCA", entries,
                            {{"compress_wkv", w.compress_wkv}, {"compress_wgate", w.compress_wgate}, {"compress_ape", w.compress_ape},
                             {"compress_norm", w.compress_norm}, {"entries", caches.entries}, {"state", caches.state},
                             {"entry_slots", batch.entry_slots}, {"state_slots", batch.state_slots},
                             {"entries_table", batch.entries_table}, {"state_table", batch.state_table}}));
  FATHOM_TRY(check_presence("CSA", csa,
                            {{"index_wq_b", w.index_wq_b}, {"index_weights_proj", w.index_weights_proj}, {"index_wkv", w.index_wkv},
                             {"index_wgate", w.index_wgate}, {"index_ape", w.index_ape}, {"index_norm", w.index_norm},
                             {"index_keys", caches.index_keys}, {"index_state", caches.index_state}, {"index_slots", batch.index_slots},
                             {"index_state_slots", batch.index_state_slots}, {"index_table", batch.index_table},
                             {"index_state_table", batch.index_state_table}}));
  if (entries && !csa) FATHOM_TRY(check_presence("HCA", true, {{"num_visible", batch.num_visible}}));
  if (!csa) FATHOM_TRY(check_presence("CSA", false, {{"topk_entries", args.topk_entries}, {"index_scores", args.index_scores}}));

  FATHOM_TRY(check_scale("layer", "wq_a_scale", problem.wq_a_dtype, w.wq_a_scale));
  FATHOM_TRY(check_scale("layer", "wq_b_scale", problem.wq_b_dtype, w.wq_b_scale));
  FATHOM_TRY(check_scale("layer", "wkv_scale", problem.wkv_dtype, w.wkv_scale));
  FATHOM_TRY(check_scale("layer", "wo_a_scale", problem.wo_a_dtype, w.wo_a_scale));
  FATHOM_TRY(check_scale("layer", "wo_b_scale", problem.wo_b_dtype, w.wo_b_scale));
  if (csa) FATHOM_TRY(check_scale("layer", "index_wq_b_scale", problem.index_wq_b_dtype, w.index_wq_b_scale));

  const std::int64_t halves = csa ? 2 : 1, group_dim = std::int64_t{problem.num_heads / problem.output_groups} * problem.head_dim;
  FATHOM_TRY(check_rows("compress_wkv", w.compress_wkv, halves * problem.head_dim, "width: head_dim, doubled on CSA layers"));
  FATHOM_TRY(check_rows("index_wkv", w.index_wkv, halves * problem.index_dim, "index_width: 2 * index_dim"));
  if (w.wo_a.shape[1] != group_dim || (!w.wo_a_scale.is_absent() && w.wo_a_scale.shape[1] != (group_dim + 127) / 128)) {
    return Status::invalid("layer: wo_a has %lld columns, expected group_dim=%lld (num_heads / output_groups * head_dim), its scale a tile for each 128",
                           static_cast<long long>(w.wo_a.shape[1]), static_cast<long long>(group_dim));
  }
  FATHOM_TRY(check_cache("window", caches.window, problem.window_format, problem.head_dim, problem.window_page_size));
  FATHOM_TRY(check_cache("entries", caches.entries, problem.entries_format, problem.head_dim, problem.entries_page_size));
  FATHOM_TRY(check_cache("state", caches.state, CacheFormat::state_f32, 2 * halves * problem.head_dim, problem.state_page_size));
  FATHOM_TRY(check_cache("index_keys", caches.index_keys, problem.index_format, problem.index_dim, problem.index_page_size));
  return check_cache("index_state", caches.index_state, CacheFormat::state_f32, 2 * halves * problem.index_dim, problem.index_state_page_size);
}

}  // namespace fathom
