// Loaded weights against the stored bytes, decoded here by another road: in double, from the formats' definitions.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "checkpoint/layer_file.h"

namespace fathom {
namespace {

const std::string kPrefix = "layers.3.attn.";

double decode(const std::string& dtype, const char* at) {
  std::uint16_t half = 0;
  if (dtype == "F16" || dtype == "BF16") std::memcpy(&half, at, 2);
  const auto byte = static_cast<std::uint8_t>(*at);
  if (dtype == "F32") {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  if (dtype == "BF16") return to_f32(bf16{half});
  if (dtype == "F8_E8M0") return std::ldexp(1.0, byte - 127);
  const int exponent_bits = dtype == "F16" ? 5 : 4, mantissa_bits = dtype == "F16" ? 10 : 3,
            bias = dtype == "F16" ? 15 : 7;
  const int bits = dtype == "F16" ? half : byte;
  const int mantissa = bits & ((1 << mantissa_bits) - 1), exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const bool negative = bits >> (mantissa_bits + exponent_bits) & 1;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return negative ? -magnitude : magnitude;
}

int bytes_of_element(const std::string& dtype) {
  return dtype == "F32" ? 4 : dtype == "F16" || dtype == "BF16" ? 2 : 1;
}

/// What the file says at [row, column], scales applied.
double stored_value(const StoredTensors& tensors, const std::string& name, std::int64_t row, std::int64_t column) {
  const StoredTensor& tensor = tensors.at(kPrefix + name);
  const std::int64_t columns = tensor.shape.back();
  double value = decode(tensor.dtype, tensor.bytes.data() + (row * columns + column) * bytes_of_element(tensor.dtype));
  if (tensor.dtype == "F8_E4M3") {
    const StoredTensor& scale = tensors.at(kPrefix + name.substr(0, name.size() - 7) + ".scale");
    const std::int64_t tile = row / 128 * scale.shape[1] + column / 128;
    value *= decode(scale.dtype, scale.bytes.data() + tile * bytes_of_element(scale.dtype));
  }
  return value;
}

/// What a loaded weight says at [row, column], scales applied.
double loaded_value(const TensorView& view, const TensorView& scale, std::int64_t row, std::int64_t column) {
  const std::int64_t at = row * (view.rank > 1 ? view.strides[0] : 0) + column;
  if (view.dtype != DType::e4m3) return load_f32(view, at);
  const char code = static_cast<const char*>(view.data)[at];
  const char tile = static_cast<const char*>(scale.data)[row / 128 * scale.strides[0] + column / 128];
  return decode("F8_E4M3", &code) * decode("F8_E8M0", &tile);
}

/// Every element of the loaded view is the stored one, `first_row` and `first_column` further in the file.
void expect_equal(const StoredTensors& tensors, const std::string& name, const TensorView& view,
                  const TensorView& scale = {}, std::int64_t first_row = 0, std::int64_t first_column = 0) {
  ASSERT_FALSE(view.is_absent()) << name;
  EXPECT_EQ(scale.is_absent(), view.dtype != DType::e4m3) << name;
  const std::int64_t rows = view.rank > 1 ? view.shape[0] : 1, columns = view.shape[view.rank - 1];
  EXPECT_EQ(view.strides[view.rank - 1], 1);
  int wrong = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      wrong +=
          loaded_value(view, scale, row, column) != stored_value(tensors, name, first_row + row, first_column + column);
    }
  }
  EXPECT_EQ(wrong, 0) << name;
}

void expect_whole_layer(const StoredTensors& tensors, const LoadedLayer& layer, const LayerConfig& config) {
  const LayerWeights& w = layer.weights;
  const std::int64_t dim = config.head_dim, rank = config.output_rank;
  expect_equal(tensors, "wq_a.weight", w.wq_a, w.wq_a_scale);
  expect_equal(tensors, "q_norm.weight", w.q_norm);
  expect_equal(tensors, "wq_b.weight", w.wq_b, w.wq_b_scale, config.first_head * dim);
  expect_equal(tensors, "wkv.weight", w.wkv, w.wkv_scale);
  expect_equal(tensors, "kv_norm.weight", w.kv_norm);
  expect_equal(tensors, "attn_sink", w.attn_sink, {}, 0, config.first_head);
  expect_equal(tensors, "wo_a.weight", w.wo_a, w.wo_a_scale, config.first_group * rank);
  expect_equal(tensors, "wo_b.weight", w.wo_b, w.wo_b_scale, 0, config.first_group * rank);
  EXPECT_EQ(w.wq_b.shape[0], config.num_heads * dim);
  EXPECT_EQ(w.attn_sink.shape[0], config.num_heads);
  EXPECT_EQ(w.wo_a.shape[0], config.output_groups * rank);
  EXPECT_EQ(w.wo_b.shape[1], config.output_groups * rank);
  EXPECT_EQ(w.attn_sink.dtype, DType::f32);
  EXPECT_EQ(w.compress_wkv.is_absent(), config.compress_ratio == 0);
  EXPECT_EQ(w.index_wq_b.is_absent(), config.compress_ratio != 4);
  if (config.compress_ratio == 0) return;
  expect_equal(tensors, "compressor.wkv.weight", w.compress_wkv);
  expect_equal(tensors, "compressor.wgate.weight", w.compress_wgate);
  expect_equal(tensors, "compressor.ape", w.compress_ape);
  expect_equal(tensors, "compressor.norm.weight", w.compress_norm);
  EXPECT_EQ(w.compress_wkv.dtype, w.compress_wgate.dtype);
  if (config.compress_ratio != 4) return;
  expect_equal(tensors, "indexer.wq_b.weight", w.index_wq_b, w.index_wq_b_scale);
  expect_equal(tensors, "indexer.weights_proj.weight", w.index_weights_proj);
  expect_equal(tensors, "indexer.compressor.wkv.weight", w.index_wkv);
  expect_equal(tensors, "indexer.compressor.wgate.weight", w.index_wgate);
  expect_equal(tensors, "indexer.compressor.ape", w.index_ape);
  expect_equal(tensors, "indexer.compressor.norm.weight", w.index_norm);
  for (const TensorView* view : {&w.index_wkv, &w.index_wgate, &w.index_weights_proj}) EXPECT_EQ(view->dtype, w.compress_wkv.dtype);
}

/// Loads, compares everything, and returns the layer.
LoadedLayer checked(const StoredTensors& tensors, const LayerConfig& config) {
  const TemporaryFolder folder;
  auto layer = load(folder, tensors, config);
  EXPECT_TRUE(layer.ok()) << layer.status().text();
  if (!layer.ok()) return {};
  expect_whole_layer(tensors, layer.value(), config);  // the file is open still, the Checkpoint is gone
  return layer.value();
}

/// The dtypes as a layer problem's text names them.
std::string dtypes_of(const LoadedLayer& layer) {
  LayerProblem problem;
  layer.describe(problem);
  return to_text(problem);
}

TEST(LoadLayer, EveryKindInEveryStoredDType) {
  for (const int ratio : {0, 4, 128}) {
    const LayerConfig config = small_layer(ratio);
    EXPECT_EQ(dtypes_of(checked(native_tensors(config, "BF16"), config)), "");
    EXPECT_EQ(dtypes_of(checked(native_tensors(config, "F32"), config)), "weight_dtype=f32");
    EXPECT_EQ(dtypes_of(checked(native_tensors(config, "F16"), config)), "weight_dtype=f32");
    const LoadedLayer quantised = checked(native_tensors(config, "F8_E4M3"), config);
    EXPECT_EQ(dtypes_of(quantised), "weight_dtype=e4m3");
    EXPECT_EQ(quantised.weights.wq_b_scale.dtype, DType::ue8m0);
    EXPECT_EQ(quantised.weights.wq_b_scale.shape[0], 4);
    EXPECT_EQ(quantised.weights.wq_b_scale.shape[1], 1);
    EXPECT_EQ(quantised.weights.wkv_scale.shape[1], 2);
  }
}

TEST(LoadLayer, EveryProjectionKeepsItsDType) {
  const LayerConfig config = small_layer(4);
  for (const char* name : {"wq_a", "wq_b", "wkv", "wo_a", "wo_b", "indexer.wq_b"}) {
    const std::string weight = kPrefix + name + ".weight", scale = kPrefix + name + ".scale";
    const std::string field = name == std::string("indexer.wq_b") ? "index_wq_b" : name;
    for (const auto& [stored, loaded] : {std::pair("BF16", "bf16"), {"F32", "f32"}, {"F16", "f32"}}) {
      StoredTensors tensors = native_tensors(config, "F8_E4M3");
      tensors[weight] = random_tensor(stored, tensors[weight].shape, 7);
      tensors.erase(scale);
      EXPECT_EQ(dtypes_of(checked(tensors, config)), "weight_dtype=e4m3 " + field + "_dtype=" + loaded);
    }
    StoredTensors tensors = native_tensors(config, "BF16");
    const StoredTensors quantised = native_tensors(config, "F8_E4M3");
    tensors[weight] = quantised.at(weight);
    tensors[scale] = quantised.at(scale);
    EXPECT_EQ(dtypes_of(checked(tensors, config)), field + "_dtype=e4m3");
  }
}

TEST(LoadLayer, ScalesTooSmallForBf16WidenToF32) {
  const LayerConfig config = small_layer(128);
  StoredTensors tensors = native_tensors(config, "BF16");
  tensors[kPrefix + "compressor.wkv.weight"] = random_tensor("F8_E4M3", {128, 160}, 7);  // compressors are widened
  tensors[kPrefix + "compressor.wkv.scale"] = random_tensor("F8_E8M0", {1, 2}, 8);
  std::string& scale = tensors[kPrefix + "compressor.wkv.scale"].bytes;
  scale[0] = 3;  // 2^-124: E4M3's smallest step becomes bf16's smallest value
  EXPECT_EQ(dtypes_of(checked(tensors, config)), "");
  scale[0] = 2;
  EXPECT_EQ(dtypes_of(checked(tensors, config)), "compress_weight_dtype=f32");
  scale[0] = 0;  // 2^-127 itself is no normal f32
  EXPECT_EQ(dtypes_of(checked(tensors, config)), "compress_weight_dtype=f32");
}

TEST(LoadLayer, CompressorsShareADTypeAndAreNeverE4m3) {
  const LayerConfig config = small_layer(4);
  StoredTensors tensors = native_tensors(config, "F8_E4M3");
  tensors[kPrefix + "indexer.compressor.wkv.weight"] = random_tensor("F32", {128, 160}, 7);
  EXPECT_EQ(dtypes_of(checked(tensors, config)), "weight_dtype=e4m3 compress_weight_dtype=f32");
  tensors = native_tensors(config, "F8_E4M3");
  for (const char* name : {"compressor.wkv", "compressor.wgate"}) {
    tensors[kPrefix + name + ".weight"] = random_tensor("F8_E4M3", {256, 160}, 7);
    tensors[kPrefix + name + ".scale"] = random_tensor("F8_E8M0", {2, 2}, 8);
  }
  EXPECT_EQ(dtypes_of(checked(tensors, config)), "weight_dtype=e4m3");
}

TEST(LoadLayer, NormsKeepTheirDTypeAndSinksBecomeF32) {
  const LayerConfig config = small_layer(4);
  StoredTensors tensors = native_tensors(config, "BF16");
  tensors[kPrefix + "q_norm.weight"] = random_tensor("F16", {96}, 7);
  tensors[kPrefix + "attn_sink"] = random_tensor("BF16", {4}, 7);
  tensors[kPrefix + "compressor.ape"] = random_tensor("BF16", {4, 256}, 7);
  tensors[kPrefix + "indexer.weights_proj.weight"] = random_tensor("F16", {2, 160}, 7);
  const LoadedLayer layer = checked(tensors, config);
  EXPECT_EQ(layer.weights.q_norm.dtype, DType::f32);
  EXPECT_EQ(layer.weights.kv_norm.dtype, DType::f32);
  EXPECT_EQ(layer.weights.compress_norm.dtype, DType::bf16);
  EXPECT_EQ(layer.weights.compress_ape.dtype, DType::bf16);
  EXPECT_EQ(layer.weights.index_weights_proj.dtype, DType::f32);
}

TEST(LoadLayer, EveryHalfIsWidenedExactly) {
  LayerConfig config = small_layer(0);
  config.hidden_size = 65536 / 128;  // wkv holds every half once
  StoredTensors tensors = native_tensors(config, "BF16");
  std::string& halves = tensors[kPrefix + "wkv.weight"].bytes;
  tensors[kPrefix + "wkv.weight"].dtype = "F16";
  for (int i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    std::memcpy(halves.data() + 2 * i, &half, 2);
  }
  const TemporaryFolder folder;
  const auto layer = load(folder, tensors, config);
  ASSERT_TRUE(layer.ok()) << layer.status().text();
  for (int i = 0; i < 65536; ++i) {
    const float value = load_f32(layer.value().weights.wkv, i);
    if ((i & 0x7c00) != 0x7c00) {
      ASSERT_EQ(value, decode("F16", halves.data() + 2 * i)) << i;
    } else if ((i & 0x3ff) == 0) {
      ASSERT_EQ(value, i == 0x7c00 ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity());
    } else {
      ASSERT_TRUE(std::isnan(value)) << i;
    }
    ASSERT_EQ(std::signbit(value), i >= 0x8000);
  }
}

TEST(LoadLayer, ScalesMayBePowersOfTwoInF32OrBf16) {
  const LayerConfig config = small_layer(0);
  StoredTensors tensors = native_tensors(config, "F8_E4M3");
  const float powers[] = {0x1p-127f, 0x1p60f};
  tensors[kPrefix + "wkv.scale"] = {"F32", {1, 2}, std::string(reinterpret_cast<const char*>(powers), 8)};
  const bf16 halves[] = {to_bf16(0.25f), to_bf16(4.0f)};
  tensors[kPrefix + "wq_a.scale"] = {"BF16", {1, 2}, std::string(reinterpret_cast<const char*>(halves), 4)};
  const LoadedLayer layer = checked(tensors, config);
  EXPECT_EQ(dtypes_of(layer), "weight_dtype=e4m3");
  const auto* codes = static_cast<const std::uint8_t*>(layer.weights.wkv_scale.data);
  EXPECT_EQ(codes[0], 0);
  EXPECT_EQ(codes[1], 187);
}

TEST(LoadLayer, OtherScalesAreRefusedByPlaceAndValue) {
  const TemporaryFolder folder;
  const LayerConfig config = small_layer(0);
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::pair<float, const char*> kBad[] = {
      {0.3f, "0.3"},     {0.0f, "0"},  {-1.0f, "-1"},      {3.0f, "3"},
      {infinity, "inf"}, {nan, "nan"}, {0x1p-128f, "2.9"}, {0x1.000002p0f, "1.0000001"}};
  for (const auto& [value, text] : kBad) {
    StoredTensors tensors = native_tensors(config, "F8_E4M3");
    const float scales[] = {1.0f, value};
    tensors[kPrefix + "wkv.scale"] = {"F32", {1, 2}, std::string(reinterpret_cast<const char*>(scales), 8)};
    const auto layer = load(folder, tensors, config);
    ASSERT_FALSE(layer.ok()) << text;
    const std::string message = layer.status().text();
    EXPECT_NE(message.find(std::string("wkv.scale holds ") + text), std::string::npos) << message;
    EXPECT_NE(message.find("at [0, 1], expected a power of two"), std::string::npos) << message;
  }
  StoredTensors tensors = native_tensors(config, "F8_E4M3");
  tensors[kPrefix + "wkv.scale"].bytes[0] = '\xff';
  EXPECT_NE(std::string(load(folder, tensors, config).status().text()).find("wkv.scale holds nan at [0, 0]"),
            std::string::npos);
}

TEST(LoadLayer, AProductThatOverflowsIsRefused) {
  const TemporaryFolder folder;
  const LayerConfig config = small_layer(128);
  StoredTensors tensors = native_tensors(config, "BF16");
  StoredTensor& weight = tensors[kPrefix + "compressor.wkv.weight"];
  weight = random_tensor("F8_E4M3", {128, 160}, 7);
  weight.bytes.assign(128 * 160, '\x38');
  weight.bytes[2 * 160 + 130] = '\x7e';
  tensors[kPrefix + "compressor.wkv.scale"] = {"F8_E8M0", {1, 2}, "\x7f\xfe"};
  EXPECT_NE(std::string(load(folder, tensors, config).status().text()).find("wkv.weight overflows f32 at [2, 130]"),
            std::string::npos);
}

TEST(LoadLayer, ShardsAreCutsOfTheWhole) {
  for (const char* projection : {"BF16", "F16", "F8_E4M3"}) {
    for (const int ratio : {0, 4}) {
      const LayerConfig whole = small_layer(ratio);
      const StoredTensors tensors = native_tensors(whole, projection);
      for (int rank = 0; rank < 2; ++rank) {
        const LoadedLayer layer = checked(tensors, whole.shard(rank, 2).value());
        const std::string stored = projection;
        EXPECT_EQ(dtypes_of(layer), stored == "F8_E4M3" ? "weight_dtype=e4m3" : stored == "F16" ? "weight_dtype=f32" : "");
      }
    }
  }
}

TEST(LoadLayer, ACutThroughTilesDequantises) {
  const LayerConfig whole = small_layer(4, 64);
  const StoredTensors tensors = native_tensors(whole, "F8_E4M3");
  EXPECT_EQ(dtypes_of(checked(tensors, whole)), "weight_dtype=e4m3");
  // Rank 0's cut begins at a tile; it widens as the others' does all the same.
  for (const int rank : {0, 1}) {
    EXPECT_EQ(dtypes_of(checked(tensors, whole.shard(rank, 2).value())), "weight_dtype=e4m3 wo_a_dtype=bf16 wo_b_dtype=bf16");
  }
}

TEST(LoadLayer, GoldenTinyLoadsWithEveryShapeRight) {
  const auto config = read_model_config(FATHOM_GOLDEN_DIR "/tiny/config.json");
  const auto checkpoint = Checkpoint::open(FATHOM_GOLDEN_DIR "/tiny");
  ASSERT_TRUE(config.ok() && checkpoint.ok()) << checkpoint.status().text();
  const auto shape = [](const TensorView& view) {
    return std::vector<std::int64_t>(view.shape.begin(), view.shape.begin() + view.rank);
  };
  using Shape = std::vector<std::int64_t>;
  for (int i = 0; i < 3; ++i) {
    const LayerConfig layer_config = config.value().layer(i).value();
    const auto layer = load_layer(checkpoint.value(), layer_config);
    ASSERT_TRUE(layer.ok()) << layer.status().text();
    const LayerWeights& w = layer.value().weights;
    EXPECT_EQ(dtypes_of(layer.value()), "");
    EXPECT_EQ(shape(w.wq_a), (Shape{64, 128}));
    EXPECT_EQ(shape(w.q_norm), (Shape{64}));
    EXPECT_EQ(shape(w.wq_b), (Shape{2048, 64}));
    EXPECT_EQ(shape(w.wkv), (Shape{512, 128}));
    EXPECT_EQ(shape(w.kv_norm), (Shape{512}));
    EXPECT_EQ(shape(w.attn_sink), (Shape{4}));
    EXPECT_EQ(shape(w.wo_a), (Shape{64, 1024}));
    EXPECT_EQ(shape(w.wo_b), (Shape{128, 64}));
    EXPECT_EQ(shape(w.compress_wkv), i == 0 ? Shape{} : i == 1 ? Shape({1024, 128}) : Shape({512, 128}));
    EXPECT_EQ(shape(w.compress_wgate), shape(w.compress_wkv));
    EXPECT_EQ(shape(w.compress_ape), i == 0 ? Shape{} : i == 1 ? Shape({4, 1024}) : Shape({128, 512}));
    EXPECT_EQ(shape(w.index_wq_b), i == 1 ? Shape({2048, 64}) : Shape{});
    EXPECT_EQ(shape(w.index_weights_proj), i == 1 ? Shape({16, 128}) : Shape{});
    EXPECT_EQ(shape(w.index_wkv), i == 1 ? Shape({256, 128}) : Shape{});
    EXPECT_EQ(shape(w.index_ape), i == 1 ? Shape({4, 256}) : Shape{});
    EXPECT_EQ(shape(w.index_norm), i == 1 ? Shape({128}) : Shape{});
    const FileTensor stored = checkpoint.value().tensor(layer_config.name + ".wq_b.weight").value();
    EXPECT_EQ(std::memcmp(stored.data, w.wq_b.data, static_cast<std::size_t>(stored.bytes)), 0);
  }
}

/// Every view of two layers, byte for byte.
void expect_same_bytes(const LoadedLayer& a, const LoadedLayer& b) {
  const auto* left = reinterpret_cast<const TensorView*>(&a.weights);
  const auto* right = reinterpret_cast<const TensorView*>(&b.weights);
  for (std::size_t i = 0; i < sizeof(LayerWeights) / sizeof(TensorView); ++i) {
    ASSERT_EQ(left[i].rank, right[i].rank) << i;
    ASSERT_EQ(left[i].shape, right[i].shape) << i;
    ASSERT_EQ(left[i].dtype, right[i].dtype) << i;
    if (left[i].is_absent()) continue;
    EXPECT_EQ(
        std::memcmp(left[i].data, right[i].data, static_cast<std::size_t>(bytes_of(left[i].dtype, left[i].numel()))), 0)
        << i;
  }
}

TEST(LoadLayer, GoldenFp8UnderHuggingFaceNamesIsTheSame) {
  const auto config = read_model_config(FATHOM_GOLDEN_DIR "/tiny_fp8/config.json");
  const auto native = Checkpoint::open(FATHOM_GOLDEN_DIR "/tiny_fp8");
  ASSERT_TRUE(config.ok() && native.ok()) << native.status().text();
  TensorWriter writer;
  for (const std::string& name : native.value().names()) {
    const std::size_t leaf = name.find(".attn.") + 6;
    const std::string renamed =
        "model." + name.substr(0, leaf - 6) + ".self_attn." + hugging_face_names().at(name.substr(leaf));
    ASSERT_TRUE(writer.add(renamed, tensor_view(native.value().tensor(name).value()).value()).ok());
  }
  const TemporaryFolder folder;
  ASSERT_TRUE(writer.write(folder.path("model.safetensors")).ok());
  const auto exported = Checkpoint::open(folder.path());
  ASSERT_TRUE(exported.ok()) << exported.status().text();
  for (int i = 0; i < 2; ++i) {
    const LayerConfig layer_config = config.value().layer(i).value();
    const auto a = load_layer(native.value(), layer_config), b = load_layer(exported.value(), layer_config);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status().text() << b.status().text();
    EXPECT_EQ(dtypes_of(a.value()), "weight_dtype=e4m3");
    EXPECT_EQ(a.value().weights.wq_b_scale.shape[0], 16);
    EXPECT_EQ(a.value().weights.wo_a_scale.shape[1], 8);
    EXPECT_EQ(a.value().weights.index_wq_b.is_absent(), i == 1);
    expect_same_bytes(a.value(), b.value());
  }
}

TEST(HasLayer, LooksUnderEveryName) {
  const TemporaryFolder folder;
  LayerConfig mtp = small_layer(0);
  mtp.name = "mtp.0.attn";
  mtp.layer_index = 5;
  const auto stands = [&](const char* prefix) {
    const auto file = Checkpoint::open(folder.write("a.safetensors", file_of({{std::string(prefix) + "x", random_tensor("F32", {1}, 1)}})));
    return has_layer(file.value(), mtp).value();
  };
  for (const char* prefix : {"mtp.0.attn.", "model.mtp.0.attn.", "mtp.0.self_attn.", "layers.5.attn.", "model.layers.5.self_attn."}) {
    EXPECT_TRUE(stands(prefix)) << prefix;
  }
  for (const char* prefix : {"mtp.1.attn.", "layers.4.attn.", "layers.5.", "mtp.0.mlp."}) EXPECT_FALSE(stands(prefix)) << prefix;
}

TEST(LoadLayer, ALayerSpreadOverShardsIsTheSame) {
  const LayerConfig config = small_layer(4);
  const StoredTensors tensors = native_tensors(config, "F8_E4M3");
  const TemporaryFolder folder;
  StoredTensors halves[2];
  std::string map;
  int number = 0;
  for (const auto& [name, tensor] : tensors) {
    const int half = number++ % 2;
    halves[half][name] = tensor;
    map += (map.empty() ? "\"" : ",\"") + name + "\":\"model-" + std::to_string(half) + ".safetensors\"";
  }
  folder.write("model-0.safetensors", file_of(halves[0]));
  folder.write("model-1.safetensors", file_of(halves[1]));
  folder.write("model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":{" + map + "}}");
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().text();
  const auto layer = load_layer(checkpoint.value(), config);
  ASSERT_TRUE(layer.ok()) << layer.status().text();
  expect_same_bytes(layer.value(), checked(tensors, config));
}

}  // namespace
}  // namespace fathom
