// project: hidden states -> queries and the window's KV rows (norm, RoPE, quantise, write the window cache).
#pragma once

#include "fathom/cache.h"
#include "fathom/core/plan.h"

namespace fathom FATHOM_PUBLIC {

struct ProjectProblem {
  std::int32_t num_tokens = 1;
  std::int32_t hidden_size = 0;
  std::int32_t num_heads = 0;
  std::int32_t head_dim = 512;
  std::int32_t rope_dim = 64;
  std::int32_t q_rank = 0;
  Numerics numerics = Numerics::served;
  DType wq_a_dtype = DType::bf16;  ///< a weight in e4m3 is multiplied quantised in `served`, whatever the others are
  DType wq_b_dtype = DType::bf16;
  DType wkv_dtype = DType::bf16;
  CacheFormat window_format = CacheFormat::kv_e4m3_ue8m0;
  std::int32_t window_page_size = 64;
  float norm_eps = 1e-6f;
  QForm q_form = QForm::final;  ///< raw: attend norms and rotates q

  bool operator==(const ProjectProblem&) const = default;
  static const ProblemSpec& spec() noexcept;
};

struct ProjectArgs {
  TensorView x, wq_a, wq_a_scale, q_norm, wq_b, wq_b_scale, wkv, wkv_scale, kv_norm;
  TensorView rope_table, positions, slot_mapping, window_cache, q_latent, q;
};

inline constexpr ArgSpec kProjectArgs[] = {
    {offsetof(ProjectArgs, x), Role::in, "x", "num_tokens hidden_size", "$numerics", "normed hidden states"},
    {offsetof(ProjectArgs, wq_a), Role::in, "wq_a", "q_rank hidden_size", "$wq_a_dtype", "query down-projection"},
    {offsetof(ProjectArgs, wq_a_scale), Role::optional_in, "wq_a_scale", "q_rank/128 hidden_size/128", "ue8m0",
     "with e4m3 weights"},
    {offsetof(ProjectArgs, q_norm), Role::in, "q_norm", "q_rank", "f32|bf16", "RMSNorm weight of the latent"},
    {offsetof(ProjectArgs, wq_b), Role::in, "wq_b", "num_heads*head_dim q_rank", "$wq_b_dtype", "query up-projection"},
    {offsetof(ProjectArgs, wq_b_scale), Role::optional_in, "wq_b_scale", "num_heads*head_dim/128 q_rank/128", "ue8m0",
     "with e4m3 weights"},
    {offsetof(ProjectArgs, wkv), Role::in, "wkv", "head_dim hidden_size", "$wkv_dtype", "KV projection"},
    {offsetof(ProjectArgs, wkv_scale), Role::optional_in, "wkv_scale", "head_dim/128 hidden_size/128", "ue8m0",
     "with e4m3 weights"},
    {offsetof(ProjectArgs, kv_norm), Role::in, "kv_norm", "head_dim", "f32|bf16", "RMSNorm weight of the KV row"},
    {offsetof(ProjectArgs, rope_table), Role::in, "rope_table", "num_positions rope_dim", "f32",
     "cos, then sin, by position"},
    {offsetof(ProjectArgs, positions), Role::in, "positions", "num_tokens", "i32",
     "position in its sequence; outside the table = padding: latent and final q zero, no row written"},
    {offsetof(ProjectArgs, slot_mapping), Role::in, "slot_mapping", "num_tokens", "i64",
     "window slot each token writes; -1 = none"},
    {offsetof(ProjectArgs, window_cache), Role::inout, "window_cache", "window_pages window_page_bytes", "u8",
     "pages of window_format"},
    {offsetof(ProjectArgs, q_latent), Role::out, "q_latent", "num_tokens q_rank", "$numerics",
     "normed query latent; the indexer reads it"},
    {offsetof(ProjectArgs, q), Role::out, "q", "num_tokens num_heads head_dim", "$numerics",
     "queries, head-normed and rotated; raw: the product"},
};
static_assert(lists_every_field<ProjectArgs>(kProjectArgs));

using ProjectPlan = Plan<ProjectProblem>;

/// q_latent = RMSNorm(x * wq_a^T);  q = rotate(head_norm(q_latent * wq_b^T));  row = rotate(RMSNorm(x * wkv^T))
///   head_norm  weightless RMS over all head_dim of a head; rotation of the last rope_dim dims, adjacent pairs.
///   q_form=raw leaves both to attend: q = q_latent * wq_b^T.
///   The KV row is both key and value; it is quantised as window_format says and written to slot_mapping[t].
/// Two tokens that name one slot: what that slot holds afterwards is unspecified.
/// Errors  invalid_argument: shape, dtype or device differs from the table; a scale missing or superfluous.
/// Source  spec 2; definition in src/project/project_reference.cpp.
Result<ProjectPlan> plan_project(const ProjectProblem& problem, const Device& device, const PlanOptions& options = {}) noexcept;
Status project(const ProjectPlan& plan, const ProjectArgs& args, const Workspace& workspace, Stream stream = {}) noexcept;

}  // namespace fathom
