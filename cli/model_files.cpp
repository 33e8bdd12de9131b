// Opening model folders, reading tensors from them with clear refusals, writing text.
#include "cli/model_files.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

namespace fathom::cli {
namespace {

std::vector<float> widened(const TensorView& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = load_f32(tensor, static_cast<std::int64_t>(i));
  return values;
}

}  // namespace

Result<Model> open_model(const std::string& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    return Status::invalid("model: \"%s\" is not a folder", folder.c_str());
  }
  FATHOM_ASSIGN(ModelConfig config, read_model_config(folder + "/config.json"));
  // A folder may hold other tensors beside its model (the golden folders do), so the usual file name goes first.
  const bool has_index = std::filesystem::exists(folder + "/model.safetensors.index.json", ignored);
  const std::string single = folder + "/model.safetensors";
  const bool take_single = !has_index && std::filesystem::exists(single, ignored);
  FATHOM_ASSIGN(Checkpoint checkpoint, Checkpoint::open(take_single ? single : folder));
  return Model{std::move(config), std::move(checkpoint)};
}

Result<HiddenStates> read_hidden(const Checkpoint& file, std::string_view name, int hidden_size) {
  FATHOM_ASSIGN(const FileTensor described, file.describe(name));
  if (described.dtype != "F32" && described.dtype != "BF16") {
    return Status::unsupported("input: %s is %s, expected F32 or BF16", described.name.c_str(),
                               described.dtype.c_str());
  }
  if (described.shape.size() != 2 || described.shape[1] != hidden_size) {
    return Status::invalid("input: %s has shape %s, expected [T, %d]", described.name.c_str(),
                           fmt::format("[{}]", fmt::join(described.shape, ", ")).c_str(), hidden_size);
  }
  FATHOM_ASSIGN(const FileTensor stored, file.tensor(name));
  FATHOM_ASSIGN(const TensorView tensor, tensor_view(stored));
  return HiddenStates{tensor.dtype, tensor.shape[0], widened(tensor)};
}

Result<std::vector<float>> read_floats(const Checkpoint& file, std::string_view name,
                                       std::vector<std::int64_t>* shape) {
  FATHOM_ASSIGN(const FileTensor stored, file.tensor(name));
  if (stored.dtype != "F32" && stored.dtype != "BF16") {
    return Status::unsupported("%s is %s, expected F32 or BF16", stored.name.c_str(), stored.dtype.c_str());
  }
  FATHOM_ASSIGN(const TensorView tensor, tensor_view(stored));
  *shape = stored.shape;
  return widened(tensor);
}

Result<std::vector<std::int32_t>> read_integers(const Checkpoint& file, std::string_view name,
                                                std::vector<std::int64_t>* shape) {
  FATHOM_ASSIGN(const FileTensor stored, file.tensor(name));
  if (stored.dtype != "I32") {
    return Status::unsupported("%s is %s, expected I32", stored.name.c_str(), stored.dtype.c_str());
  }
  FATHOM_ASSIGN(const TensorView tensor, tensor_view(stored));
  *shape = stored.shape;
  const auto* first = static_cast<const std::int32_t*>(tensor.data);
  return std::vector<std::int32_t>(first, first + tensor.numel());
}

Status write_text(const std::string& path, std::string_view text) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return Status::invalid("cannot write \"%s\"", path.c_str());
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  return written && closed ? Status() : Status::device_error("writing \"%s\" failed", path.c_str());
}

}  // namespace fathom::cli
