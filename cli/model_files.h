// Files the program reads and writes: a model's folder, input tensors, text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/checkpoint.h"

namespace fathom::cli {

struct Model {
  ModelConfig config;
  Checkpoint checkpoint;
};

/// Opens a folder that holds config.json and the weights: model.safetensors.index.json with its shards, else
/// model.safetensors, else every *.safetensors of the folder.
Result<Model> open_model(const std::string& folder);

/// A matrix of hidden states, widened to f32.
struct HiddenStates {
  DType dtype = DType::f32;  ///< as stored: f32 or bf16
  std::int64_t num_tokens = 0;
  std::vector<float> values;  ///< [num_tokens, hidden_size]
};

/// Reads tensor `name`, which must be f32 or bf16 [T, hidden_size].
Result<HiddenStates> read_hidden(const Checkpoint& file, std::string_view name, int hidden_size);

/// Any f32, bf16 or i32 tensor of `file`, widened.
Result<std::vector<float>> read_floats(const Checkpoint& file, std::string_view name, std::vector<std::int64_t>* shape);
Result<std::vector<std::int32_t>> read_integers(const Checkpoint& file, std::string_view name,
                                                std::vector<std::int64_t>* shape);

/// Writes `text` to `path`, replacing what was there.
Status write_text(const std::string& path, std::string_view text);

}  // namespace fathom::cli
