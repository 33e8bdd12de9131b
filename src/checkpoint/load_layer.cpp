// Reads one layer's weights. Every conversion is exact: f16 and mixed compressors widen, E4M3 with power-of-two scales
// becomes bf16 or f32 without loss where it cannot stay, and nothing is ever narrowed.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "cache/number_codecs.h"
#include "checkpoint/aligned_bytes.h"
#include "checkpoint/layer_tensors.h"

namespace fathom {
namespace {

/// Scales of one E4M3 tensor as UE8M0 bytes, [num_tiles(rows), num_tiles(columns)].
struct Scales {
  std::vector<std::uint8_t> codes;
  std::int64_t columns = 0;
};

DType stored_dtype(const std::string& name) noexcept {
  if (name == "BF16") return DType::bf16;
  return name == "F8_E4M3" ? DType::e4m3 : DType::f32;  // f16 has no DType: it is widened to f32 as it is read
}

float half_to_f32(std::uint16_t half) noexcept {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

/// UE8M0 code of an exact power of two that has one.
bool encode_scale(float scale, std::uint8_t* code) noexcept {
  int exponent = 0;
  if (!std::isfinite(scale) || std::frexp(scale, &exponent) != 0.5f || exponent < -126 || exponent > 128) return false;
  *code = static_cast<std::uint8_t>(exponent + 126);
  return true;
}

Result<Scales> read_scales(const Checkpoint& checkpoint, const LayerTensor& tensor) {
  Scales scales;
  if (tensor.scale_name.empty()) return scales;
  FATHOM_ASSIGN(const FileTensor stored, checkpoint.describe(tensor.scale_name));
  scales.columns = num_tiles(tensor.columns);
  const std::int64_t count = num_tiles(tensor.rows) * scales.columns;
  scales.codes.resize(static_cast<std::size_t>(count));
  std::vector<std::byte> raw(static_cast<std::size_t>(stored.bytes));
  FATHOM_TRY(checkpoint.read(tensor.scale_name, 0, raw.data(), stored.bytes));
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint8_t& code = scales.codes[static_cast<std::size_t>(i)];
    float value = 0;
    bool known = true;
    if (stored.dtype == "F8_E8M0") {
      code = static_cast<std::uint8_t>(raw[static_cast<std::size_t>(i)]);
      value = decode_ue8m0(code);
      known = code != kUe8m0Nan;
    } else {
      const TensorView view_of_raw = view(raw.data(), stored_dtype(stored.dtype), {count});
      value = load_f32(view_of_raw, i);
      known = encode_scale(value, &code);
    }
    if (!known) {
      return Status::invalid("checkpoint: %s holds %.9g at [%lld, %lld], expected a power of two from 2^-127 to 2^127",
                             tensor.scale_name.c_str(), static_cast<double>(value),
                             static_cast<long long>(i / scales.columns), static_cast<long long>(i % scales.columns));
    }
  }
  return scales;
}

/// True if every shard's cut falls between tiles, so that the kept tiles keep their scales. Rank 0's always begins at
/// one; it decides as the others do, so that all ranks compute with one dtype.
bool cut_between_tiles(const LayerTensor& tensor) noexcept {
  const Cut& cut = tensor.cut;
  return (cut.rows == tensor.rows || cut.rows % 128 == 0) && (cut.columns == tensor.columns || cut.columns % 128 == 0);
}

/// The smallest step of E4M3 is 2^-9; times such a scale it is at least bf16's smallest, 2^-133, and so every product
/// of a code and a scale is a bf16.
bool scales_fit_bf16(const Scales& scales) noexcept {
  constexpr std::uint8_t kLeast = 127 - 124;
  return std::all_of(scales.codes.begin(), scales.codes.end(), [](std::uint8_t code) { return code >= kLeast; });
}

/// The dtype that represents the tensor exactly: its own where that can be computed with.
DType loaded_dtype(const LayerTensor& tensor, const Scales& scales) noexcept {
  const DType stored = stored_dtype(tensor.dtype);
  if (tensor.family == WeightFamily::sink) return DType::f32;
  if (stored != DType::e4m3 || (tensor.family == WeightFamily::projection && cut_between_tiles(tensor))) return stored;
  return scales_fit_bf16(scales) ? DType::bf16 : DType::f32;
}

/// Widens one stored row, columns [first, first + count), to f32.
void widen_row(const LayerTensor& tensor, const Scales& scales, const std::byte* row, std::int64_t row_number,
               float* values) {
  const std::int64_t first = tensor.cut.first_column, count = tensor.cut.columns;
  if (tensor.dtype == "F8_E4M3") {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(row);
    const std::uint8_t* tile_scales = scales.codes.data() + row_number / 128 * scales.columns;
    for (std::int64_t i = 0; i < count; ++i) {
      values[i] = kE4m3Values[codes[first + i]] * decode_ue8m0(tile_scales[(first + i) / 128]);
    }
  } else if (tensor.dtype == "F16") {
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint16_t half;
      std::memcpy(&half, row + 2 * (first + i), 2);
      values[i] = half_to_f32(half);
    }
  } else {
    const TensorView stored = view(row, stored_dtype(tensor.dtype), {tensor.columns});
    for (std::int64_t i = 0; i < count; ++i) values[i] = load_f32(stored, first + i);
  }
}

/// An E4M3 code of 2^7 or more under a scale near 2^127 has no f32; such a checkpoint is damaged.
Status check_widened(const LayerTensor& tensor, const float* values, std::int64_t row_number) {
  if (tensor.dtype != "F8_E4M3") return {};
  for (std::int64_t i = 0; i < tensor.cut.columns; ++i) {
    if (!std::isinf(values[i])) continue;
    return Status::invalid("checkpoint: %s overflows f32 at [%lld, %lld] when its scale in %s is applied",
                           tensor.name.c_str(), static_cast<long long>(row_number),
                           static_cast<long long>(tensor.cut.first_column + i), tensor.scale_name.c_str());
  }
  return {};
}

/// Reads the kept rows and columns as `dtype`, which represents them exactly.
Status read_kept(const Checkpoint& checkpoint, const LayerTensor& tensor, const Scales& scales, DType dtype,
                 std::byte* out) {
  const Cut& cut = tensor.cut;
  const std::int64_t element = tensor.dtype == "F16" ? 2 : bits_of(stored_dtype(tensor.dtype)) / 8;
  const std::int64_t row_bytes = tensor.columns * element, out_row_bytes = bytes_of(dtype, cut.columns);
  const bool as_stored = tensor.dtype != "F16" && dtype == stored_dtype(tensor.dtype);
  if (as_stored && cut.columns == tensor.columns) {
    return checkpoint.read(tensor.name, cut.first_row * row_bytes, out, cut.rows * row_bytes);
  }
  constexpr std::int64_t kBufferBytes = std::int64_t{4} << 20;
  const std::int64_t rows_at_once = std::clamp<std::int64_t>(kBufferBytes / row_bytes, 1, cut.rows);
  const AlignedBytes buffer = aligned_bytes(rows_at_once * row_bytes);
  std::vector<float> values(static_cast<std::size_t>(cut.columns));
  for (std::int64_t row = 0; row < cut.rows; ++row, out += out_row_bytes) {
    const std::int64_t in_buffer = row % rows_at_once;
    if (in_buffer == 0) {
      const std::int64_t rows = std::min(rows_at_once, cut.rows - row);
      FATHOM_TRY(checkpoint.read(tensor.name, (cut.first_row + row) * row_bytes, buffer.get(), rows * row_bytes));
    }
    const std::byte* stored = buffer.get() + in_buffer * row_bytes;
    if (as_stored) {
      std::memcpy(out, stored + cut.first_column * element, static_cast<std::size_t>(out_row_bytes));
      continue;
    }
    widen_row(tensor, scales, stored, cut.first_row + row, values.data());
    FATHOM_TRY(check_widened(tensor, values.data(), cut.first_row + row));
    if (dtype == DType::f32) {
      std::memcpy(out, values.data(), static_cast<std::size_t>(out_row_bytes));
    } else {
      auto* to = reinterpret_cast<bf16*>(out);
      std::transform(values.begin(), values.end(), to, [](float value) { return to_bf16(value); });
    }
  }
  return {};
}

/// Memory that lives as long as the loaded layer.
std::byte* keep(LoadedLayer* layer, std::int64_t bytes) {
  std::shared_ptr<std::byte[]> memory = aligned_bytes(bytes);
  layer->storage.push_back(memory);
  return memory.get();
}

/// The scales of the kept tiles.
TensorView keep_scales(LoadedLayer* layer, const LayerTensor& tensor, const Scales& scales) {
  const Cut& cut = tensor.cut;
  const std::int64_t rows = num_tiles(cut.rows), columns = num_tiles(cut.columns);
  std::byte* out = keep(layer, rows * columns);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t from = (cut.first_row / 128 + row) * scales.columns + cut.first_column / 128;
    std::memcpy(out + row * columns, scales.codes.data() + from, static_cast<std::size_t>(columns));
  }
  return view(out, DType::ue8m0, {rows, columns});
}

}  // namespace

void LoadedLayer::describe(LayerProblem& problem) const noexcept {
  problem.wq_a_dtype = weights.wq_a.dtype;
  problem.wq_b_dtype = weights.wq_b.dtype;
  problem.wkv_dtype = weights.wkv.dtype;
  problem.wo_a_dtype = weights.wo_a.dtype;
  problem.wo_b_dtype = weights.wo_b.dtype;
  problem.index_wq_b_dtype = weights.index_wq_b.is_absent() ? weights.wq_b.dtype : weights.index_wq_b.dtype;
  problem.compress_weight_dtype = weights.compress_wkv.is_absent() ? DType::bf16 : weights.compress_wkv.dtype;
}

Result<LoadedLayer> load_layer(const Checkpoint& checkpoint, const LayerConfig& config) noexcept {
  return guarded("checkpoint", [&]() -> Result<LoadedLayer> {
    FATHOM_TRY(check_config(config));
    FATHOM_ASSIGN(const std::vector<LayerTensor> tensors, find_layer_tensors(checkpoint, config));
    std::vector<Scales> scales;
    for (const LayerTensor& tensor : tensors) {
      FATHOM_ASSIGN(Scales of_tensor, read_scales(checkpoint, tensor));
      scales.push_back(std::move(of_tensor));
    }
    std::vector<DType> dtypes;
    DType compressors = DType::bf16;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      dtypes.push_back(loaded_dtype(tensors[i], scales[i]));
      if (tensors[i].family == WeightFamily::compressor && dtypes[i] == DType::f32) compressors = DType::f32;
    }
    LoadedLayer layer;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const LayerTensor& tensor = tensors[i];
      const Cut& cut = tensor.cut;
      const DType dtype = tensor.family == WeightFamily::compressor ? compressors : dtypes[i];
      std::byte* memory = keep(&layer, cut.rows * bytes_of(dtype, cut.columns));
      FATHOM_TRY(read_kept(checkpoint, tensor, scales[i], dtype, memory));
      layer.weights.*tensor.view =
          tensor.rank == 1 ? view(memory, dtype, {cut.columns}) : view(memory, dtype, {cut.rows, cut.columns});
      if (dtype == DType::e4m3) layer.weights.*tensor.scale_view = keep_scales(&layer, tensor, scales[i]);
    }
    return layer;
  });
}

}  // namespace fathom
