// What a layer and a model may be: bounds, derived sizes, shards, presets.
#include "fathom/config.h"

#include <algorithm>
#include <cmath>

#include "config/config_checks.h"

namespace fathom {
namespace {

Status check_integer(const char* what, const char* name, std::int64_t value, std::int64_t least,
                     std::int64_t most) noexcept {
  if (value >= least && value <= most) return {};
  return Status::invalid("%s: %s is %lld, expected %lld to %lld", what, name, static_cast<long long>(value),
                         static_cast<long long>(least), static_cast<long long>(most));
}

/// The comparison is written so that NaN fails it.
Status check_real(const char* what, const char* name, float value, float least, float most) noexcept {
  if (value >= least && value <= most) return {};
  return Status::invalid("%s: %s is %.7g, expected %.7g to %.7g", what, name, static_cast<double>(value),
                         static_cast<double>(least), static_cast<double>(most));
}

/// The fields that layers and models share; `Config` is either.
template <class Config>
Status check_sizes(const Config& config, int num_heads, int output_groups, int rope_dim,
                   const FieldNames& names) noexcept {
  const auto in_range = [&](const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
    return check_integer("config", names.of(field), value, least, most);
  };
  FATHOM_TRY(in_range("hidden_size", config.hidden_size, 1, kMaxDim));
  FATHOM_TRY(in_range("num_heads", num_heads, 1, kMaxHeads));
  FATHOM_TRY(in_range("head_dim", config.head_dim, 2, kMaxHeadDim));
  FATHOM_TRY(in_range("rope_dim", rope_dim, 2, config.head_dim));
  FATHOM_TRY(in_range("q_rank", config.q_rank, 1, kMaxDim));
  FATHOM_TRY(in_range("output_groups", output_groups, 1, num_heads));
  if (num_heads % output_groups != 0) {
    return Status::invalid("config: %s is %d, expected a divisor of %s = %d", names.of("output_groups"), output_groups,
                           names.of("num_heads"), num_heads);
  }
  FATHOM_TRY(in_range("output_rank", config.output_rank, 1, kMaxDim / output_groups));
  FATHOM_TRY(in_range("window", config.window, 1, kMaxWindow));
  FATHOM_TRY(check_real("config", names.of("norm_eps"), config.norm_eps, 1e-30f, 1.0f));
  return in_range("max_positions", config.max_positions, 1, kMaxPositions);
}

template <class Config>
Status check_indexer(const Config& config, int rope_dim, const FieldNames& names) noexcept {
  FATHOM_TRY(check_integer("config", names.of("index_heads"), config.index_heads, 1, kMaxHeads));
  FATHOM_TRY(check_integer("config", names.of("index_dim"), config.index_dim, rope_dim, kMaxIndexDim));
  if ((config.index_dim & (config.index_dim - 1)) != 0) {
    return Status::invalid("config: %s is %d, expected a power of two (the Hadamard rotation needs one)",
                           names.of("index_dim"), config.index_dim);
  }
  FATHOM_TRY(check_integer("config", names.of("index_topk"), config.index_topk, 1, kMaxIndexTopk));
  const std::int64_t most_entries = (config.max_positions + 3) / 4;
  if (config.index_topk > most_entries) {
    return Status::invalid("config: %s is %d, expected 1 to %lld, the entries of %s = %lld tokens",
                           names.of("index_topk"), config.index_topk, static_cast<long long>(most_entries),
                           names.of("max_positions"), static_cast<long long>(config.max_positions));
  }
  return {};
}

bool is_ratio(int ratio) noexcept { return ratio == 0 || ratio == 4 || ratio == 128; }

RopeConfig rope_of(const ModelConfig& model, int ratio) noexcept {
  RopeConfig rope;
  rope.rope_dim = model.rope_dim;
  rope.theta = ratio == 0 ? model.rope_theta : model.compress_rope_theta;
  rope.factor = ratio == 0 ? 0.0f : model.rope_factor;
  rope.original_length = model.original_length;
  rope.beta_fast = model.beta_fast;
  rope.beta_slow = model.beta_slow;
  return rope;
}

}  // namespace

Status check_rope(const char* what, const RopeConfig& rope, const FieldNames& names) noexcept {
  FATHOM_TRY(check_integer(what, names.of("rope_dim"), rope.rope_dim, 2, kMaxHeadDim));
  if (rope.rope_dim % 2 != 0) {
    return Status::invalid("%s: %s is %d, expected an even number (dims rotate in pairs)", what, names.of("rope_dim"),
                           rope.rope_dim);
  }
  FATHOM_TRY(check_real(what, names.of("rope theta"), rope.theta, 1.5f, 1e12f));
  if (rope.factor == 0.0f) return {};
  FATHOM_TRY(check_real(what, names.of("rope factor"), rope.factor, 1.0f, 1e6f));
  FATHOM_TRY(check_integer(what, names.of("rope original_length"), rope.original_length, 1, kMaxPositions));
  FATHOM_TRY(check_real(what, names.of("beta_fast"), rope.beta_fast, 1e-3f, 1e6f));
  FATHOM_TRY(check_real(what, names.of("beta_slow"), rope.beta_slow, 1e-3f, 1e6f));
  if (rope.beta_slow >= rope.beta_fast) {
    return Status::invalid("%s: %s is %.7g, expected less than %s = %.7g", what, names.of("beta_slow"),
                           static_cast<double>(rope.beta_slow), names.of("beta_fast"),
                           static_cast<double>(rope.beta_fast));
  }
  return {};
}

Status check_config(const LayerConfig& config) noexcept {
  FATHOM_TRY(check_integer("config", "shard_world", config.shard_world, 1, kMaxHeads));
  FATHOM_TRY(check_integer("config", "shard_rank", config.shard_rank, 0, config.shard_world - 1));
  FATHOM_TRY(check_sizes(config, config.num_heads, config.output_groups, config.rope.rope_dim, {}));
  FATHOM_TRY(check_integer("config", "num_heads of all shards", std::int64_t{config.num_heads} * config.shard_world, 1,
                           kMaxHeads));
  if (config.first_head != config.shard_rank * config.num_heads) {
    return Status::invalid("config: first_head is %d, expected shard_rank * num_heads = %d", config.first_head,
                           config.shard_rank * config.num_heads);
  }
  if (config.first_group != config.shard_rank * config.output_groups) {
    return Status::invalid("config: first_group is %d, expected shard_rank * output_groups = %d", config.first_group,
                           config.shard_rank * config.output_groups);
  }
  if (!is_ratio(config.compress_ratio)) {
    return Status::invalid("config: compress_ratio is %d, expected 0, 4 or 128", config.compress_ratio);
  }
  FATHOM_TRY(check_rope("config", config.rope));
  return config.kind() == LayerKind::csa ? check_indexer(config, config.rope.rope_dim, {}) : Status();
}

float LayerConfig::softmax_scale() const noexcept {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

Result<LayerConfig> LayerConfig::shard(int rank, int world) const noexcept {
  return guarded("config", [&]() -> Result<LayerConfig> {
    FATHOM_TRY(check_config(*this));
    if (shard_world != 1) {
      return Status::invalid("config: shard: the layer already is shard %d of %d, expected a whole layer", shard_rank,
                             shard_world);
    }
    if (world < 1 || output_groups % world != 0) {
      return Status::invalid("config: shard: world is %d, expected a divisor of output_groups = %d", world,
                             output_groups);
    }
    FATHOM_TRY(check_integer("config: shard", "rank", rank, 0, world - 1));
    LayerConfig result = *this;
    result.num_heads = num_heads / world;
    result.output_groups = output_groups / world;
    result.first_head = rank * result.num_heads;
    result.first_group = rank * result.output_groups;
    result.shard_rank = rank;
    result.shard_world = world;
    return result;
  });
}

Status check_config(const ModelConfig& config) noexcept { return check_config(config, {}); }

Status check_config(const ModelConfig& config, const FieldNames& names) noexcept {
  FATHOM_TRY(check_integer("config", names.of("num_layers"), config.num_layers, 1, kMaxLayers));
  FATHOM_TRY(check_sizes(config, config.num_heads, config.output_groups, config.rope_dim, names));
  const auto entries = static_cast<std::int64_t>(config.compress_ratios.size());
  if (entries < config.num_layers || entries > kMaxLayers) {
    return Status::invalid(
        "config: %s has %lld entries, expected one for each of %s = %d (MTP layers may follow), at most %lld together",
        names.of("compress_ratios"), static_cast<long long>(entries), names.of("num_layers"), config.num_layers,
        static_cast<long long>(kMaxLayers));
  }
  bool has_csa = false;
  for (int i = 0; i < config.num_attention_layers(); ++i) {
    const int ratio = config.compress_ratios[static_cast<std::size_t>(i)];
    if (!is_ratio(ratio)) return Status::invalid("config: compress_ratios[%d] is %d, expected 0, 4 or 128", i, ratio);
    if (i >= config.num_layers && ratio != 0) {
      return Status::invalid(
          "config: compress_ratios[%d] is %d, expected 0: past %s = %d stand MTP layers, which have a window only", i,
          ratio, names.of("num_layers"), config.num_layers);
    }
    has_csa |= ratio == 4;
  }
  FieldNames by_layer = names;
  by_layer.set("rope theta", names.of("rope_theta"));
  FATHOM_TRY(check_rope("config", rope_of(config, 0), by_layer));
  by_layer.set("rope theta", names.of("compress_rope_theta"));
  FATHOM_TRY(check_rope("config", rope_of(config, 4), by_layer));
  return has_csa ? check_indexer(config, config.rope_dim, names) : Status();
}

Result<LayerConfig> ModelConfig::layer(int index) const noexcept {
  return guarded("config", [&]() -> Result<LayerConfig> {
    FATHOM_TRY(check_config(*this));
    FATHOM_TRY(check_integer("config", "layer", index, 0, num_attention_layers() - 1));
    const int ratio = compress_ratios[static_cast<std::size_t>(index)];
    LayerConfig layer;
    layer.name = index < num_layers ? "layers." + std::to_string(index) + ".attn"
                                    : "mtp." + std::to_string(index - num_layers) + ".attn";
    layer.layer_index = index;
    layer.hidden_size = hidden_size;
    layer.num_heads = num_heads;
    layer.head_dim = head_dim;
    layer.q_rank = q_rank;
    layer.output_groups = output_groups;
    layer.output_rank = output_rank;
    layer.window = window;
    layer.compress_ratio = ratio;
    if (ratio == 4) {
      layer.index_heads = index_heads;
      layer.index_dim = index_dim;
      layer.index_topk = index_topk;
    }
    layer.norm_eps = norm_eps;
    layer.max_positions = max_positions;
    layer.rope = rope_of(*this, ratio);
    return layer;
  });
}

Result<ModelConfig> preset_config(std::string_view name) noexcept {
  return guarded("config", [&]() -> Result<ModelConfig> {
    ModelConfig config;
    config.name = name;
    int first_ratios = 0;
    if (name == "v4-flash") {
      config.hidden_size = 4096;
      config.num_layers = 43;
      config.num_heads = 64;
      config.q_rank = 1024;
      config.output_groups = 8;
      config.index_topk = 512;
      first_ratios = 0;
    } else if (name == "v4-pro") {
      config.hidden_size = 7168;
      config.num_layers = 61;
      config.num_heads = 128;
      config.q_rank = 1536;
      config.output_groups = 16;
      config.index_topk = 1024;
      first_ratios = 128;
    } else {
      return Status::invalid("config: the preset \"%.*s\" is not known, expected v4-flash or v4-pro",
                             static_cast<int>(std::min<std::size_t>(name.size(), 64)), name.data());
    }
    config.output_rank = 1024;
    config.compress_ratios.assign(2, first_ratios);
    for (int i = 2; i < config.num_layers; ++i) config.compress_ratios.push_back(i % 2 == 0 ? 4 : 128);
    config.compress_ratios.push_back(0);  // the MTP layer
    return config;
  });
}

}  // namespace fathom
