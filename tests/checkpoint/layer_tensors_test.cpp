// Names, shapes and dtypes of a layer's tensors: every spelling that is read and every mismatch that is refused.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "checkpoint/layer_file.h"
#include "checkpoint/layer_tensors.h"

namespace fathom {
namespace {

const std::string kPrefix = "layers.3.attn.";

/// The same tensors under other names: `rename` takes the name without the prefix.
StoredTensors renamed(const StoredTensors& tensors, const std::string& prefix,
                      const std::function<std::string(std::string)>& rename) {
  StoredTensors result;
  for (const auto& [name, tensor] : tensors) result[prefix + rename(name.substr(kPrefix.size()))] = tensor;
  return result;
}
std::string same_name(std::string name) { return name; }
std::string hugging_face_name(std::string name) { return hugging_face_names().at(name); }

TEST(LayerTensors, EachKindHasItsTensors) {
  const TemporaryFolder folder;
  for (const auto& [ratio, count] : {std::pair{0, 8}, std::pair{128, 12}, std::pair{4, 18}}) {
    const LayerConfig config = small_layer(ratio);
    const auto checkpoint = Checkpoint::open(folder.write("x.safetensors", file_of(native_tensors(config, "BF16"))));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().text();
    const auto tensors = find_layer_tensors(checkpoint.value(), config);
    ASSERT_TRUE(tensors.ok()) << tensors.status().text();
    std::set<std::string> names;
    for (const LayerTensor& tensor : tensors.value()) names.insert(tensor.name);
    EXPECT_EQ(names.size(), static_cast<std::size_t>(count));
    EXPECT_EQ(names.size(), checkpoint.value().names().size());  // none of the file's tensors is overlooked
  }
}

TEST(LayerTensors, EverySpellingIsFound) {
  const TemporaryFolder folder;
  const LayerConfig config = small_layer(4);
  const StoredTensors native = native_tensors(config, "F8_E4M3");
  const auto older = [](std::string name) {
    const std::string now = hugging_face_name(name);
    const std::size_t scorer = now.find("scorer.");
    return scorer == std::string::npos ? now : std::string(now).erase(scorer, 7);
  };
  const auto native_scales = [](const char* scale) {
    return [scale](std::string name) {
      const std::size_t at = name.find(".scale");
      return at == std::string::npos ? name : name.substr(0, at) + scale;
    };
  };
  const auto hugging_face_scale = [](std::string name) {
    const bool is_scale = name.ends_with(".scale");
    return is_scale ? hugging_face_name(name.substr(0, name.size() - 6) + ".weight")
                          .replace(hugging_face_name(name).rfind(".weight"), 17, ".scale")
                    : hugging_face_name(name);
  };
  const struct {
    const char* prefix;
    std::function<std::string(std::string)> rename;
  } kSpellings[] = {
      {"layers.3.attn.", same_name},
      {"model.layers.3.attn.", same_name},
      {"layers.3.attn.", native_scales(".weight_scale_inv")},
      {"layers.3.attn.", native_scales(".scale_inv")},
      {"model.layers.3.self_attn.", hugging_face_name},
      {"layers.3.self_attn.", hugging_face_name},
      {"model.layers.3.self_attn.", older},
      {"model.layers.3.self_attn.", hugging_face_scale},
  };
  for (const auto& spelling : kSpellings) {
    const StoredTensors tensors = renamed(native, spelling.prefix, spelling.rename);
    ASSERT_EQ(tensors.size(), native.size());
    const auto layer = load(folder, tensors, config);
    EXPECT_TRUE(layer.ok()) << spelling.prefix << ": " << layer.status().text();
  }
}

TEST(LayerTensors, MtpLayersAreFoundUnderTheirNumberToo) {
  const TemporaryFolder folder;
  LayerConfig config = small_layer(0);
  const StoredTensors native = native_tensors(config, "BF16");
  config.name = "mtp.0.attn";
  config.layer_index = 43;
  for (const char* prefix : {"mtp.0.attn.", "model.mtp.0.attn.", "model.layers.43.attn.", "layers.43.attn."}) {
    const auto layer = load(folder, renamed(native, prefix, same_name), config);
    EXPECT_TRUE(layer.ok()) << prefix << ": " << layer.status().text();
  }
  for (const char* prefix : {"mtp.0.self_attn.", "model.layers.43.self_attn."}) {
    const auto layer = load(folder, renamed(native, prefix, hugging_face_name), config);
    EXPECT_TRUE(layer.ok()) << prefix << ": " << layer.status().text();
  }
  EXPECT_FALSE(load(folder, renamed(native, "layers.0.attn.", same_name), config).ok());
  config.layer_index = -1;  // a layer that was not made by ModelConfig::layer
  EXPECT_FALSE(load(folder, renamed(native, "layers.43.attn.", same_name), config).ok());
}

TEST(LayerTensors, NumbersAreNotPrefixesOfEachOther) {
  const TemporaryFolder folder;
  const LayerConfig config = small_layer(0);
  StoredTensors tensors = renamed(native_tensors(config, "BF16"), "layers.33.attn.", same_name);
  EXPECT_NE(std::string(load(folder, tensors, config).status().text())
                .find("layer layers.3.attn has no tensors; looked for layers.3.attn.*, "),
            std::string::npos);
}

struct BadLayerFile {
  const char* expected;
  int ratio;
  const char* projection;
  std::function<void(StoredTensors&)> spoil;
};

TEST(LayerTensors, MismatchesAreRefusedByName) {
  const TemporaryFolder folder;
  const auto erase = [](const char* name) {
    return [name](StoredTensors& t) { ASSERT_EQ(t.erase(kPrefix + name), 1u); };
  };
  const auto replace = [](const char* name, const char* dtype, std::vector<std::int64_t> shape) {
    return [=](StoredTensors& t) { t[kPrefix + name] = random_tensor(dtype, shape, 99); };
  };
  const BadLayerFile kCases[] = {
      {"the tensor layers.3.attn.wq_a.weight is missing", 0, "BF16", erase("wq_a.weight")},
      {"the tensor layers.3.attn.attn_sink is missing", 0, "BF16", erase("attn_sink")},
      {"the tensor layers.3.attn.compressor.ape is missing", 128, "BF16", erase("compressor.ape")},
      {"the tensor layers.3.attn.indexer.weights_proj.weight is missing", 4, "BF16",
       erase("indexer.weights_proj.weight")},
      {"wq_a.weight has shape [96, 159], expected [96, 160]", 0, "BF16", replace("wq_a.weight", "BF16", {96, 159})},
      {"wq_a.weight has shape [160, 96], expected [96, 160]", 0, "BF16", replace("wq_a.weight", "BF16", {160, 96})},
      {"wq_b.weight has shape [49152], expected [512, 96]", 0, "BF16", replace("wq_b.weight", "BF16", {512 * 96})},
      {"q_norm.weight has shape [1, 96], expected [96]", 0, "BF16", replace("q_norm.weight", "BF16", {1, 96})},
      {"kv_norm.weight has shape [], expected [128]", 0, "BF16", replace("kv_norm.weight", "F32", {})},
      {"attn_sink has shape [5], expected [4]", 0, "BF16", replace("attn_sink", "F32", {5})},
      {"wo_a.weight has shape [256, 512], expected [256, 256]", 0, "BF16", replace("wo_a.weight", "BF16", {256, 512})},
      {"wo_b.weight has shape [0, 256], expected [160, 256]", 0, "BF16", replace("wo_b.weight", "BF16", {0, 256})},
      {"compressor.wkv.weight has shape [128, 160], expected [256, 160]", 4, "BF16",
       replace("compressor.wkv.weight", "BF16", {128, 160})},
      {"compressor.wkv.weight has shape [256, 160], expected [128, 160]", 128, "BF16",
       replace("compressor.wkv.weight", "BF16", {256, 160})},
      {"compressor.ape has shape [4, 128], expected [128, 128]", 128, "BF16",
       replace("compressor.ape", "F32", {4, 128})},
      {"indexer.wq_b.weight has shape [64, 96], expected [128, 96]", 4, "BF16",
       replace("indexer.wq_b.weight", "BF16", {64, 96})},
      {"wq_a.weight has dtype I8, expected F32, BF16, F16 or F8_E4M3", 0, "BF16",
       replace("wq_a.weight", "I8", {96, 160})},
      {"wq_a.weight has dtype F8_E5M2", 0, "BF16", replace("wq_a.weight", "F8_E5M2", {96, 160})},
      {"q_norm.weight has dtype F8_E4M3, expected F32, BF16 or F16", 0, "BF16",
       replace("q_norm.weight", "F8_E4M3", {96})},
      {"attn_sink has dtype U8, expected F32, BF16 or F16", 0, "BF16", replace("attn_sink", "U8", {4})},
      {"indexer.weights_proj.weight is F8_E4M3 without scales", 4, "BF16",
       replace("indexer.weights_proj.weight", "F8_E4M3", {2, 160})},
      {"wkv.weight is F8_E4M3 without scales; looked for layers.3.attn.wkv.scale", 0, "F8_E4M3", erase("wkv.scale")},
      {"wkv.scale is there, but layers.3.attn.wkv.weight is BF16, which takes no scales", 0, "F8_E4M3",
       replace("wkv.weight", "BF16", {128, 160})},
      {"wkv.scale has shape [1, 1], expected [1, 2]", 0, "F8_E4M3", replace("wkv.scale", "F8_E8M0", {1, 1})},
      {"wkv.scale has shape [4, 5], expected [1, 2]", 0, "F8_E4M3",
       replace("wkv.scale", "F8_E8M0", {4, 5})},  // V4.1's tiles of 32
      {"wkv.scale has shape [2], expected [1, 2]", 0, "F8_E4M3", replace("wkv.scale", "F8_E8M0", {2})},
      {"wkv.scale has dtype U8, expected F8_E8M0, F32 or BF16", 0, "F8_E4M3", replace("wkv.scale", "U8", {1, 2})},
      {"wkv.scale and layers.3.attn.wkv.weight_scale_inv are both there", 0, "F8_E4M3",
       replace("wkv.weight_scale_inv", "F32", {1, 2})},
      {"layers.3.attn.compressor.* is there, but compress_ratio of layer layers.3.attn is 0", 0, "BF16",
       replace("compressor.ape", "F32", {4, 256})},
      {"layers.3.attn.indexer.* is there, but compress_ratio of layer layers.3.attn is 128", 128, "BF16",
       replace("indexer.wq_b.weight", "BF16", {128, 96})},
      {"stands under layers.3.attn.* and under model.layers.3.self_attn.*", 0, "BF16",
       [](StoredTensors& t) { t["model.layers.3.self_attn.sinks"] = random_tensor("F32", {4}, 1); }},
  };
  for (const BadLayerFile& bad : kCases) {
    const LayerConfig config = small_layer(bad.ratio);
    StoredTensors tensors = native_tensors(config, bad.projection);
    ASSERT_TRUE(load(folder, tensors, config).ok());
    bad.spoil(tensors);
    const auto layer = load(folder, tensors, config);
    ASSERT_FALSE(layer.ok()) << bad.expected;
    EXPECT_EQ(layer.status().code(), StatusCode::invalid_argument);
    EXPECT_NE(std::string(layer.status().text()).find(bad.expected), std::string::npos)
        << layer.status().text() << "\nexpected: " << bad.expected;
  }
}

TEST(LayerTensors, BothSpellingsOfOneTensorAreRefused) {
  const TemporaryFolder folder;
  const LayerConfig config = small_layer(4);
  StoredTensors tensors = renamed(native_tensors(config, "BF16"), "model.layers.3.self_attn.", hugging_face_name);
  tensors["model.layers.3.self_attn.compressor.indexer.weights_proj.weight"] = random_tensor("BF16", {2, 160}, 1);
  EXPECT_NE(std::string(load(folder, tensors, config).status().text()).find("are both there, expected one of them"),
            std::string::npos);
}

TEST(LayerTensors, AnImpossibleConfigIsRefusedFirst) {
  const TemporaryFolder folder;
  LayerConfig config = small_layer(0);
  const StoredTensors tensors = native_tensors(config, "BF16");
  config.num_heads = 0;
  EXPECT_NE(std::string(load(folder, tensors, config).status().text()).find("num_heads is 0"), std::string::npos);
  EXPECT_NE(std::string(load_layer(Checkpoint(), small_layer(0)).status().text()).find("has no tensors"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom
