// Checkpoints: safetensors files, and the weights of attention layers found in them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/config.h"
#include "fathom/layer.h"

namespace fathom FATHOM_PUBLIC {

/// One tensor of a file. `dtype` is the format's own name ("F32", "F8_E4M3", ...); `data` lies in memory owned by the
/// Checkpoint.
struct FileTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;
};

/// A safetensors file, or a folder of them (model.safetensors.index.json, or every *.safetensors of the folder), read
/// into memory tensor by tensor. Reading is strict: see docs/guide/checkpoints.md for what is refused.
class Checkpoint {
 public:
  /// Opens a file or a folder and checks every header; tensors are read when asked for. Statuses of this and of the
  /// calls below start with `what`, for files that are no checkpoint.
  static Result<Checkpoint> open(const std::string& path, std::string_view what = "checkpoint") noexcept;

  /// Names of all tensors, sorted.
  const std::vector<std::string>& names() const noexcept;
  bool has(std::string_view name) const noexcept;
  /// Reads a tensor; the data stay valid as long as any copy of this Checkpoint lives.
  Result<FileTensor> tensor(std::string_view name) const noexcept;
  /// A tensor's type and shape without its data.
  Result<FileTensor> describe(std::string_view name) const noexcept;
  /// Reads bytes [offset, offset + bytes) of a tensor's data into the caller's memory; nothing is kept.
  Status read(std::string_view name, std::int64_t offset, void* out, std::int64_t bytes) const noexcept;
  /// A value of the `__metadata__` map, or empty. Of several files, the first that has the key counts.
  const std::string& metadata(std::string_view key) const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// A tensor as a view: F32, BF16, F8_E4M3, F8_E8M0, F4 (as e2m1x2), I32, I64, U8; others are unsupported.
Result<TensorView> tensor_view(const FileTensor& tensor) noexcept;

/// The weights of one layer, found under native or Hugging Face names, with either spelling of the scales, and checked
/// against the configuration. A shard's rows and columns are cut out. Each projection keeps the type it is stored in;
/// f16 becomes f32, and the compressors' projections share one type. Views point into `storage`.
struct LoadedLayer {
  LayerWeights weights;
  std::vector<std::shared_ptr<const void>> storage;

  /// Sets the problem's weight dtypes to those of the loaded weights; those of weights the layer lacks follow the others.
  void describe(LayerProblem& problem) const noexcept;
};
Result<LoadedLayer> load_layer(const Checkpoint& checkpoint, const LayerConfig& config) noexcept;
/// Whether the checkpoint has any tensor of the layer, under any name. Exports often leave their MTP layers out.
Result<bool> has_layer(const Checkpoint& checkpoint, const LayerConfig& config) noexcept;

/// Writes a safetensors file: collect views, then write once. What Checkpoint::open would refuse is refused here: one
/// tensor or text as it is added, limits of the whole file by write.
class TensorWriter {
 public:
  /// Copies the view's elements. Names must differ.
  Status add(std::string_view name, const TensorView& tensor) noexcept;
  /// Sets a value of the `__metadata__` map, in place of an earlier one.
  Status set_metadata(std::string_view key, std::string_view value) noexcept;
  /// Writes to a temporary file beside `path` and renames it, so that a failed write leaves no half file.
  Status write(const std::string& path) const noexcept;

 private:
  struct Item {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::vector<Item> items_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace fathom
