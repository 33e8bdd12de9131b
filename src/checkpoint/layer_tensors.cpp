// The table of a layer's tensors, and the search for them under every prefix and spelling.
#include "checkpoint/layer_tensors.h"

#include <algorithm>

namespace fathom {
namespace {

enum class Naming : std::uint8_t { native, hugging_face };

struct Prefix {
  std::string text;  ///< with the dot
  Naming naming;
};

/// Where the layer's tensors may stand, native names first.
std::vector<Prefix> possible_prefixes(const LayerConfig& config) {
  const std::size_t dot = config.name.rfind('.');
  const std::string layer = config.name.substr(0, dot);  // "layers.3" or "mtp.0"
  std::vector<std::string> layers = {layer};
  // Hugging Face exports number MTP layers after the decoder's.
  if (layer.starts_with("mtp.") && config.layer_index >= 0)
    layers.push_back("layers." + std::to_string(config.layer_index));
  std::vector<Prefix> prefixes;
  for (const std::string& name : layers) {
    for (const char* model : {"", "model."}) {
      prefixes.push_back({model + name + ".attn.", Naming::native});
      prefixes.push_back({model + name + ".self_attn.", Naming::hugging_face});
    }
  }
  return prefixes;
}

bool has_prefix(const Checkpoint& checkpoint, const std::string& prefix) {
  const auto& names = checkpoint.names();
  const auto first = std::lower_bound(names.begin(), names.end(), prefix);
  return first != names.end() && first->starts_with(prefix);
}

Result<Prefix> find_prefix(const Checkpoint& checkpoint, const LayerConfig& config) {
  const Prefix* found = nullptr;
  const std::vector<Prefix> prefixes = possible_prefixes(config);
  for (const Prefix& prefix : prefixes) {
    if (!has_prefix(checkpoint, prefix.text)) continue;
    if (found != nullptr) {
      return Status::invalid("checkpoint: layer %s stands under %s* and under %s*, expected one of them",
                             config.name.c_str(), found->text.c_str(), prefix.text.c_str());
    }
    found = &prefix;
  }
  if (found != nullptr) return *found;
  std::string looked;
  for (const Prefix& prefix : prefixes) looked += (looked.empty() ? "" : ", ") + prefix.text + "*";
  return Status::invalid("checkpoint: layer %s has no tensors; looked for %s", config.name.c_str(), looked.c_str());
}

struct Names {
  const char* native;
  const char* hugging_face;
  const char* hugging_face_older = nullptr;
};

/// The tensors of a layer of this configuration, not yet looked up. Names lack the prefix.
std::vector<std::pair<LayerTensor, Names>> wanted_tensors(const LayerConfig& config) {
  std::vector<std::pair<LayerTensor, Names>> wanted;
  const auto add = [&](TensorView LayerWeights::*view, WeightFamily family, std::int64_t rows, std::int64_t columns,
                       Names names) {
    LayerTensor tensor;
    tensor.view = view;
    tensor.family = family;
    tensor.rows = rows;
    tensor.columns = columns;
    tensor.cut = {0, rows, 0, columns};
    wanted.emplace_back(tensor, names);
    return &wanted.back().first;
  };
  const auto projection = [&](TensorView LayerWeights::*view, TensorView LayerWeights::*scale, std::int64_t rows,
                              std::int64_t columns, Names names) {
    LayerTensor* tensor = add(view, WeightFamily::projection, rows, columns, names);
    tensor->scale_view = scale;
    return &tensor->cut;
  };
  const auto vector = [&](TensorView LayerWeights::*view, WeightFamily family, std::int64_t size, Names names) {
    LayerTensor* tensor = add(view, family, 1, size, names);
    tensor->rank = 1;
    return &tensor->cut;
  };
  using W = LayerWeights;
  const std::int64_t hidden = config.hidden_size, head_dim = config.head_dim, world = config.shard_world;
  const std::int64_t heads = config.num_heads, groups = config.output_groups, rank = config.output_rank;

  projection(&W::wq_a, &W::wq_a_scale, config.q_rank, hidden, {"wq_a.weight", "q_a_proj.weight"});
  vector(&W::q_norm, WeightFamily::single, config.q_rank, {"q_norm.weight", "q_a_norm.weight"});
  Cut* cut =
      projection(&W::wq_b, &W::wq_b_scale, heads * world * head_dim, config.q_rank, {"wq_b.weight", "q_b_proj.weight"});
  cut->first_row = config.first_head * head_dim, cut->rows = heads * head_dim;
  projection(&W::wkv, &W::wkv_scale, head_dim, hidden, {"wkv.weight", "kv_proj.weight"});
  vector(&W::kv_norm, WeightFamily::single, head_dim, {"kv_norm.weight", "kv_norm.weight"});
  cut = vector(&W::attn_sink, WeightFamily::sink, heads * world, {"attn_sink", "sinks"});
  cut->first_column = config.first_head, cut->columns = heads;
  cut = projection(&W::wo_a, &W::wo_a_scale, groups * world * rank, heads / groups * head_dim,
                   {"wo_a.weight", "o_a_proj.weight"});
  cut->first_row = config.first_group * rank, cut->rows = groups * rank;
  cut = projection(&W::wo_b, &W::wo_b_scale, hidden, groups * world * rank, {"wo_b.weight", "o_b_proj.weight"});
  cut->first_column = config.first_group * rank, cut->columns = groups * rank;
  if (config.kind() == LayerKind::window) return wanted;

  const std::int64_t ratio = config.compress_ratio, halves = config.overlap() ? 2 : 1;
  add(&W::compress_wkv, WeightFamily::compressor, halves * head_dim, hidden,
      {"compressor.wkv.weight", "compressor.kv_proj.weight"});
  add(&W::compress_wgate, WeightFamily::compressor, halves * head_dim, hidden,
      {"compressor.wgate.weight", "compressor.gate_proj.weight"});
  add(&W::compress_ape, WeightFamily::single, ratio, halves * head_dim, {"compressor.ape", "compressor.position_bias"});
  vector(&W::compress_norm, WeightFamily::single, head_dim, {"compressor.norm.weight", "compressor.kv_norm.weight"});
  if (config.kind() == LayerKind::hca) return wanted;

  const std::int64_t index_dim = config.index_dim;
  projection(&W::index_wq_b, &W::index_wq_b_scale, config.index_heads * index_dim, config.q_rank,
             {"indexer.wq_b.weight", "compressor.indexer.q_b_proj.weight"});
  add(&W::index_weights_proj, WeightFamily::compressor, config.index_heads, hidden,
      {"indexer.weights_proj.weight", "compressor.indexer.scorer.weights_proj.weight",
       "compressor.indexer.weights_proj.weight"});
  add(&W::index_wkv, WeightFamily::compressor, halves * index_dim, hidden,
      {"indexer.compressor.wkv.weight", "compressor.indexer.kv_proj.weight"});
  add(&W::index_wgate, WeightFamily::compressor, halves * index_dim, hidden,
      {"indexer.compressor.wgate.weight", "compressor.indexer.gate_proj.weight"});
  add(&W::index_ape, WeightFamily::single, ratio, halves * index_dim,
      {"indexer.compressor.ape", "compressor.indexer.position_bias"});
  vector(&W::index_norm, WeightFamily::single, index_dim,
         {"indexer.compressor.norm.weight", "compressor.indexer.kv_norm.weight"});
  return wanted;
}

/// A layer that carries more than its kind needs was made for another ratio: computing without it would be wrong.
Status check_kind(const Checkpoint& checkpoint, const LayerConfig& config, const Prefix& prefix) {
  const bool native = prefix.naming == Naming::native;
  const std::string compressor = prefix.text + "compressor.";
  const std::string indexer = prefix.text + (native ? "indexer." : "compressor.indexer.");
  if (config.kind() == LayerKind::window && has_prefix(checkpoint, compressor)) {
    return Status::invalid("checkpoint: %s* is there, but compress_ratio of layer %s is 0, which has no compressor",
                           compressor.c_str(), config.name.c_str());
  }
  if (config.kind() != LayerKind::csa && has_prefix(checkpoint, indexer)) {
    return Status::invalid("checkpoint: %s* is there, but compress_ratio of layer %s is %d, which has no indexer",
                           indexer.c_str(), config.name.c_str(), config.compress_ratio);
  }
  return {};
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

Status check_shape(const FileTensor& found, const std::vector<std::int64_t>& expected) {
  if (found.shape == expected) return {};
  return Status::invalid("checkpoint: %s has shape %s, expected %s", found.name.c_str(),
                         shape_text(found.shape).c_str(), shape_text(expected).c_str());
}

/// The one of `names` that the checkpoint has; empty if none.
Result<std::string> only_one(const Checkpoint& checkpoint, const std::vector<std::string>& names) {
  std::string found;
  for (const std::string& name : names) {
    if (!checkpoint.has(name)) continue;
    if (!found.empty())
      return Status::invalid("checkpoint: %s and %s are both there, expected one of them", found.c_str(), name.c_str());
    found = name;
  }
  return found;
}

Status find_scale(const Checkpoint& checkpoint, LayerTensor* tensor) {
  constexpr std::string_view kWeight = ".weight";
  if (!tensor->name.ends_with(kWeight)) return {};
  const std::string stem = tensor->name.substr(0, tensor->name.size() - kWeight.size());
  FATHOM_ASSIGN(tensor->scale_name,
                only_one(checkpoint, {stem + ".scale", stem + ".weight_scale_inv", stem + ".scale_inv"}));
  const bool quantised = tensor->dtype == "F8_E4M3";
  if (tensor->scale_name.empty()) {
    if (!quantised) return {};
    return Status::invalid(
        "checkpoint: %s is F8_E4M3 without scales; looked for %s.scale, .weight_scale_inv and .scale_inv",
        tensor->name.c_str(), stem.c_str());
  }
  if (!quantised) {
    return Status::invalid("checkpoint: %s is there, but %s is %s, which takes no scales", tensor->scale_name.c_str(),
                           tensor->name.c_str(), tensor->dtype.c_str());
  }
  FATHOM_ASSIGN(const FileTensor scale, checkpoint.describe(tensor->scale_name));
  if (scale.dtype != "F8_E8M0" && scale.dtype != "F32" && scale.dtype != "BF16") {
    return Status::invalid("checkpoint: %s has dtype %s, expected F8_E8M0, F32 or BF16", scale.name.c_str(),
                           scale.dtype.c_str());
  }
  return check_shape(scale, {num_tiles(tensor->rows), num_tiles(tensor->columns)});
}

Status find_tensor(const Checkpoint& checkpoint, const Prefix& prefix, const Names& names, LayerTensor* tensor) {
  std::vector<std::string> possible;
  if (prefix.naming == Naming::native) {
    possible = {prefix.text + names.native};
  } else {
    possible = {prefix.text + names.hugging_face};
    if (names.hugging_face_older != nullptr) possible.push_back(prefix.text + names.hugging_face_older);
  }
  FATHOM_ASSIGN(tensor->name, only_one(checkpoint, possible));
  if (tensor->name.empty()) {
    return Status::invalid("checkpoint: the tensor %s is missing%s%s", possible.front().c_str(),
                           possible.size() > 1 ? "; looked too for " : "",
                           possible.size() > 1 ? possible.back().c_str() : "");
  }
  FATHOM_ASSIGN(const FileTensor found, checkpoint.describe(tensor->name));
  tensor->dtype = found.dtype;
  const bool may_be_e4m3 = tensor->family != WeightFamily::single && tensor->family != WeightFamily::sink;
  const bool is_float = found.dtype == "F32" || found.dtype == "BF16" || found.dtype == "F16";
  if (!is_float && !(may_be_e4m3 && found.dtype == "F8_E4M3")) {
    return Status::invalid("checkpoint: %s has dtype %s, expected F32, BF16%s", found.name.c_str(), found.dtype.c_str(),
                           may_be_e4m3 ? ", F16 or F8_E4M3" : " or F16");
  }
  if (tensor->rank == 1) {
    FATHOM_TRY(check_shape(found, {tensor->columns}));
  } else {
    FATHOM_TRY(check_shape(found, {tensor->rows, tensor->columns}));
  }
  return find_scale(checkpoint, tensor);
}

}  // namespace

Result<bool> has_layer(const Checkpoint& checkpoint, const LayerConfig& config) noexcept {
  return guarded("checkpoint", [&]() -> Result<bool> {
    const std::vector<Prefix> prefixes = possible_prefixes(config);
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](const Prefix& prefix) { return has_prefix(checkpoint, prefix.text); });
  });
}

Result<std::vector<LayerTensor>> find_layer_tensors(const Checkpoint& checkpoint, const LayerConfig& config) {
  FATHOM_ASSIGN(const Prefix prefix, find_prefix(checkpoint, config));
  FATHOM_TRY(check_kind(checkpoint, config, prefix));
  std::vector<LayerTensor> tensors;
  for (auto& [tensor, names] : wanted_tensors(config)) {
    FATHOM_TRY(find_tensor(checkpoint, prefix, names, &tensor));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace fathom
