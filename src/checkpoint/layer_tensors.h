// Which tensors a layer has, under which names, and with which shapes (spec 8).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fathom/checkpoint.h"

namespace fathom {

/// What dtypes a tensor may be loaded as.
enum class WeightFamily : std::uint8_t {
  projection,  ///< f32, bf16 or e4m3 with scales, each for itself
  compressor,  ///< f32 or bf16; all alike, the indexer's weights_proj included
  single,      ///< f32 or bf16, each for itself
  sink,        ///< f32
};

/// Rows and columns that a shard keeps. A vector is one row.
struct Cut {
  std::int64_t first_row = 0, rows = 0;
  std::int64_t first_column = 0, columns = 0;
};

/// One tensor of the layer as the checkpoint stores it.
struct LayerTensor {
  TensorView LayerWeights::*view = nullptr;
  TensorView LayerWeights::*scale_view = nullptr;  ///< projections
  WeightFamily family = WeightFamily::single;
  int rank = 2;
  std::int64_t rows = 1, columns = 0;  ///< as stored, of the unsharded layer
  Cut cut;
  std::string name;
  std::string dtype;       ///< the file's: "F32", "BF16", "F16" or "F8_E4M3"
  std::string scale_name;  ///< empty unless E4M3
};

/// Finds every tensor the layer needs and checks names, dtypes and shapes; reads no data.
Result<std::vector<LayerTensor>> find_layer_tensors(const Checkpoint& checkpoint, const LayerConfig& config);

/// Extent of a scale grid: one scale for each 128 rows or columns begun.
constexpr std::int64_t num_tiles(std::int64_t extent) noexcept { return (extent + 127) / 128; }

}  // namespace fathom
