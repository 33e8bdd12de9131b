// Configuration: what a DeepSeek-V4 model, and one attention layer of it, is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/status.h"
#include "fathom/core/tensor.h"

namespace fathom FATHOM_PUBLIC {

/// The three layer kinds. Derived from compress_ratio, never stored.
enum class LayerKind : std::uint8_t { window, csa, hca };
constexpr const char* name_of(LayerKind kind) noexcept {
  return kind == LayerKind::window ? "window" : kind == LayerKind::csa ? "csa" : "hca";
}

/// Rotary embedding of one layer. `factor` = 0: plain frequencies; otherwise YaRN over the last rope_dim dims.
struct RopeConfig {
  int rope_dim = 64;
  float theta = 10000.0f;
  float factor = 0.0f;                  ///< YaRN scaling factor; 0 on window layers
  std::int64_t original_length = 65536;  ///< positions the model was first trained on
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  bool operator==(const RopeConfig&) const = default;
};

/// One attention layer: sizes in elements, lengths in tokens.
struct LayerConfig {
  std::string name;          ///< checkpoint prefix without the dot: "layers.3.attn", "mtp.0.attn"
  int hidden_size = 0;       ///< D
  int num_heads = 0;         ///< H, query heads of this rank
  int head_dim = 512;        ///< nope_dim + rope_dim; one KV row serves all heads
  int q_rank = 0;            ///< q_lora_rank
  int output_groups = 0;     ///< o_groups of this rank
  int output_rank = 0;       ///< o_lora_rank
  int window = 128;
  int compress_ratio = 0;    ///< 0, 4 or 128
  int index_heads = 0;       ///< CSA only, as the next two
  int index_dim = 0;
  int index_topk = 0;
  float norm_eps = 1e-6f;
  std::int64_t max_positions = 1048576;
  RopeConfig rope;           ///< serves queries, window rows, entries, index keys and the output of this layer
  int first_head = 0;        ///< of the unsharded layer
  int first_group = 0;
  int shard_rank = 0, shard_world = 1;
  int layer_index = -1;      ///< place in ModelConfig::compress_ratios; -1 = unknown

  LayerKind kind() const noexcept {
    return compress_ratio == 0 ? LayerKind::window : compress_ratio == 4 ? LayerKind::csa : LayerKind::hca;
  }
  int rope_dim() const noexcept { return rope.rope_dim; }
  int nope_dim() const noexcept { return head_dim - rope.rope_dim; }
  /// Entries of CSA pool two groups, so that neighbours overlap.
  bool overlap() const noexcept { return kind() == LayerKind::csa; }
  /// Tokens whose state rows an entry pools: 8 (CSA), 128 (HCA), 0.
  int state_tokens() const noexcept { return compress_ratio * (overlap() ? 2 : 1); }
  float softmax_scale() const noexcept;
  /// Rank `rank` of `world`: whole output groups and their heads; the layer's output is then a partial sum over ranks.
  /// Everything else (KV, compressor, indexer) is replicated.
  Result<LayerConfig> shard(int rank, int world) const noexcept;
};

/// Every size positive, possible and consistent; the status names the field.
Status check_config(const LayerConfig& config) noexcept;

struct ModelConfig {
  std::string name;
  int hidden_size = 0;
  int num_layers = 0;      ///< decoder layers; further entries of compress_ratios are MTP layers
  int num_heads = 0;
  int head_dim = 512;
  int rope_dim = 64;
  int q_rank = 0;
  int output_groups = 0;
  int output_rank = 0;
  int window = 128;
  int index_heads = 64;
  int index_dim = 128;
  int index_topk = 512;
  float norm_eps = 1e-6f;
  float rope_theta = 10000.0f;
  float compress_rope_theta = 160000.0f;
  std::int64_t original_length = 65536;
  float rope_factor = 16.0f;
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  std::int64_t max_positions = 1048576;
  std::vector<int> compress_ratios;  ///< one for each layer, MTP layers last

  int num_attention_layers() const noexcept { return static_cast<int>(compress_ratios.size()); }
  /// Layer `index` of compress_ratios; MTP layers follow the decoder's and are named "mtp.N.attn".
  Result<LayerConfig> layer(int index) const noexcept;
};

Status check_config(const ModelConfig& config) noexcept;

/// Reads a config.json: the vendor's native inference form or the Hugging Face form. DeepSeek-V4.1 is recognised and
/// refused. Unknown keys are ignored; impossible values are refused by name.
Result<ModelConfig> parse_model_config(std::string_view json) noexcept;
/// Reads `path` (at most 16 MiB) and parses it.
Result<ModelConfig> read_model_config(const std::string& path) noexcept;
/// "v4-flash" or "v4-pro".
Result<ModelConfig> preset_config(std::string_view name) noexcept;

/// Frequencies f_i, i < rope_dim/2, each step rounded to f32 as the model's reference does.
Status rope_frequencies(const RopeConfig& config, float* out) noexcept;
/// Fills rows [first, first + table.shape[0]) of a rotary table: f32 [count, rope_dim], cos of the rope_dim/2 angles,
/// then their sin. The angle is the f32-rounded product position * f_i.
Status fill_rope_table(const RopeConfig& config, std::int64_t first, const TensorView& table) noexcept;

}  // namespace fathom
