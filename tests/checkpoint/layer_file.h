// A small layer's checkpoint made of random tensors, as a map that tests spoil before it is written.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_files.h"
#include "fathom/checkpoint.h"

namespace fathom {

struct StoredTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};
using StoredTensors = std::map<std::string, StoredTensor>;

inline std::string file_of(const StoredTensors& tensors) {
  std::string header = "{", data;
  for (const auto& [name, tensor] : tensors) {
    std::string shape = "[";
    for (const std::int64_t extent : tensor.shape) shape += (shape.size() > 1 ? "," : "") + std::to_string(extent);
    const auto begin = static_cast<std::int64_t>(data.size());
    data += tensor.bytes;
    header += (header.size() > 1 ? "," : "") +
              entry(name, tensor.dtype, shape + "]", begin, static_cast<std::int64_t>(data.size()));
  }
  header += "}";
  return little_endian(header.size()) + header + data;
}

/// Random values of a dtype; finite, and small enough that sums stay so.
inline StoredTensor random_tensor(const std::string& dtype, const std::vector<std::int64_t>& shape,
                                  std::uint64_t seed) {
  StoredTensor tensor{dtype, shape, {}};
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (std::int64_t i = 0; i < count; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const float value = static_cast<float>(static_cast<std::int64_t>(state >> 40)) * 0x1p-23f - 1.0f;
    if (dtype == "F32") {
      tensor.bytes.append(reinterpret_cast<const char*>(&value), 4);
    } else if (dtype == "BF16") {
      const bf16 rounded = to_bf16(value);
      tensor.bytes.append(reinterpret_cast<const char*>(&rounded), 2);
    } else if (dtype == "F16") {
      const auto half = static_cast<std::uint16_t>((state >> 20 & 0x8fffu) | 0x2000u);  // normal halves
      tensor.bytes.append(reinterpret_cast<const char*>(&half), 2);
    } else if (dtype == "F8_E4M3") {
      const auto code = static_cast<std::uint8_t>(state >> 30);
      tensor.bytes += static_cast<char>((code & 0x7f) == 0x7f ? 0x38 : code);
    } else {
      tensor.bytes += static_cast<char>(120 + state % 13);  // UE8M0: 2^-7 .. 2^5
    }
  }
  return tensor;
}

/// Native names without the prefix, with the Hugging Face names of the specification's table.
inline const std::map<std::string, std::string>& hugging_face_names() {
  static const std::map<std::string, std::string> kNames = {
      {"wq_a.weight", "q_a_proj.weight"},
      {"q_norm.weight", "q_a_norm.weight"},
      {"wq_b.weight", "q_b_proj.weight"},
      {"wkv.weight", "kv_proj.weight"},
      {"kv_norm.weight", "kv_norm.weight"},
      {"wo_a.weight", "o_a_proj.weight"},
      {"wo_b.weight", "o_b_proj.weight"},
      {"attn_sink", "sinks"},
      {"compressor.wkv.weight", "compressor.kv_proj.weight"},
      {"compressor.wgate.weight", "compressor.gate_proj.weight"},
      {"compressor.ape", "compressor.position_bias"},
      {"compressor.norm.weight", "compressor.kv_norm.weight"},
      {"indexer.wq_b.weight", "compressor.indexer.q_b_proj.weight"},
      {"indexer.weights_proj.weight", "compressor.indexer.scorer.weights_proj.weight"},
      {"indexer.compressor.wkv.weight", "compressor.indexer.kv_proj.weight"},
      {"indexer.compressor.wgate.weight", "compressor.indexer.gate_proj.weight"},
      {"indexer.compressor.ape", "compressor.indexer.position_bias"},
      {"indexer.compressor.norm.weight", "compressor.indexer.kv_norm.weight"},
      {"wq_a.scale", "q_a_proj.weight_scale_inv"},
      {"wq_b.scale", "q_b_proj.weight_scale_inv"},
      {"wkv.scale", "kv_proj.weight_scale_inv"},
      {"wo_a.scale", "o_a_proj.weight_scale_inv"},
      {"wo_b.scale", "o_b_proj.weight_scale_inv"},
      {"indexer.wq_b.scale", "compressor.indexer.q_b_proj.weight_scale_inv"},
  };
  return kNames;
}

/// A small layer; ranks of 128 cut between tiles, others do not.
inline LayerConfig small_layer(int ratio, int output_rank = 128) {
  LayerConfig config;
  config.name = "layers.3.attn";
  config.layer_index = 3;
  config.hidden_size = 160;
  config.num_heads = 4;
  config.head_dim = 128;
  config.q_rank = 96;
  config.output_groups = 2;
  config.output_rank = output_rank;
  config.compress_ratio = ratio;
  config.index_heads = 2;
  config.index_dim = 64;
  config.index_topk = 16;
  return config;
}

/// Its tensors under native names; projections in `projection`, compressors in bf16.
inline StoredTensors native_tensors(const LayerConfig& config, const std::string& projection,
                                    const std::string& prefix = "layers.3.attn.") {
  StoredTensors tensors;
  std::uint64_t seed = 0;
  const auto add = [&](const std::string& name, const std::string& dtype, const std::vector<std::int64_t>& shape) {
    tensors[prefix + name] = random_tensor(dtype, shape, ++seed);
  };
  const auto project = [&](const std::string& name, std::int64_t rows, std::int64_t columns) {
    add(name + ".weight", projection, {rows, columns});
    if (projection == "F8_E4M3") add(name + ".scale", "F8_E8M0", {(rows + 127) / 128, (columns + 127) / 128});
  };
  const std::int64_t dim = config.head_dim, hidden = config.hidden_size, heads = config.num_heads;
  const std::int64_t groups = config.output_groups, rank = config.output_rank;
  project("wq_a", config.q_rank, hidden);
  add("q_norm.weight", "BF16", {config.q_rank});
  project("wq_b", heads * dim, config.q_rank);
  project("wkv", dim, hidden);
  add("kv_norm.weight", "F32", {dim});
  add("attn_sink", "F32", {heads});
  project("wo_a", groups * rank, heads / groups * dim);
  project("wo_b", hidden, groups * rank);
  if (config.compress_ratio == 0) return tensors;
  const std::int64_t ratio = config.compress_ratio, width = (ratio == 4 ? 2 : 1) * dim,
                     index_width = 2 * config.index_dim;
  add("compressor.wkv.weight", "BF16", {width, hidden});
  add("compressor.wgate.weight", "BF16", {width, hidden});
  add("compressor.ape", "F32", {ratio, width});
  add("compressor.norm.weight", "BF16", {dim});
  if (config.compress_ratio != 4) return tensors;
  project("indexer.wq_b", config.index_heads * config.index_dim, config.q_rank);
  add("indexer.weights_proj.weight", "BF16", {config.index_heads, hidden});
  add("indexer.compressor.wkv.weight", "BF16", {index_width, hidden});
  add("indexer.compressor.wgate.weight", "BF16", {index_width, hidden});
  add("indexer.compressor.ape", "F32", {ratio, index_width});
  add("indexer.compressor.norm.weight", "BF16", {config.index_dim});
  return tensors;
}

/// Writes the tensors and loads the layer.
inline Result<LoadedLayer> load(const TemporaryFolder& folder, const StoredTensors& tensors,
                                const LayerConfig& config) {
  auto checkpoint = Checkpoint::open(folder.write("layer.safetensors", file_of(tensors)));
  if (!checkpoint.ok()) return checkpoint.status();
  return load_layer(checkpoint.value(), config);
}

}  // namespace fathom
