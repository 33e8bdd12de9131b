// config.json in every form that is read, and everything that is refused.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_files.h"
#include "fathom/config.h"

namespace fathom {
namespace {

/// A correct native text; `edit` replaces the first `from` by `to`.
std::string native(const std::string& from = "", const std::string& to = "") {
  std::string text =
      R"({"dim": 128, "n_heads": 4, "q_lora_rank": 64, "head_dim": 512, "rope_head_dim": 64, "o_groups": 2,
    "o_lora_rank": 32, "window_size": 128, "index_n_heads": 16, "index_head_dim": 128, "index_topk": 48,
    "norm_eps": 1e-06,
    "rope_theta": 10000.0, "compress_rope_theta": 160000.0, "original_seq_len": 65536, "rope_factor": 16.0,
    "beta_fast": 32,
    "beta_slow": 1, "n_layers": 3, "compress_ratios": [0, 4, 128], "n_routed_experts": 8, "scale_fmt": "ue8m0"})";
  if (!from.empty()) {
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
  }
  return text;
}

/// The released checkpoint's form: Hugging Face names, flat rotation, ratios with the MTP layer.
const char* const kFlat =
    R"({"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 128,
  "num_attention_heads": 4, "num_key_value_heads": 1, "num_hidden_layers": 3, "num_nextn_predict_layers": 1,
  "q_lora_rank": 64,
  "head_dim": 512, "qk_rope_head_dim": 64, "o_groups": 2, "o_lora_rank": 32, "sliding_window": 128, "index_n_heads": 16,
  "index_head_dim": 128, "index_topk": 48, "rms_norm_eps": 1e-06, "max_position_embeddings": 1048576,
  "rope_theta": 10000,
  "compress_rope_theta": 160000, "rope_scaling": {"type": "yarn", "factor": 16,
  "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 128, 0],
  "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})";

/// What transformers writes: layer types, rates and nested rotations.
std::string nested(const std::string& from = "", const std::string& to = "") {
  std::string text = R"({"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 128,
  "num_attention_heads": 4, "num_hidden_layers": 3, "q_lora_rank": 64, "head_dim": 512, "o_groups": 2,
  "o_lora_rank": 32, "sliding_window": 128, "index_n_heads": 16, "index_head_dim": 128, "index_topk": 48,
  "rms_norm_eps": 1e-06, "partial_rotary_factor": 0.125, "pad_token_id": null,
  "layer_types": ["sliding_attention", "compressed_sparse_attention",
  "heavily_compressed_attention"],
  "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
  "rope_parameters": {"main": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.125},
  "compress": {"rope_type": "yarn", "rope_theta": 160000.0, "factor": 16, "original_max_position_embeddings": 65536,
  "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.0, "partial_rotary_factor": 0.125}}})";
  if (!from.empty()) {
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
  }
  return text;
}

ModelConfig parsed(const std::string& text) {
  auto config = parse_model_config(text);
  EXPECT_TRUE(config.ok()) << config.status().text();
  return config.ok() ? config.value() : ModelConfig{};
}

void expect_tiny(const ModelConfig& config) {
  EXPECT_EQ(config.hidden_size, 128);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.head_dim, 512);
  EXPECT_EQ(config.rope_dim, 64);
  EXPECT_EQ(config.q_rank, 64);
  EXPECT_EQ(config.output_groups, 2);
  EXPECT_EQ(config.output_rank, 32);
  EXPECT_EQ(config.window, 128);
  EXPECT_EQ(config.index_heads, 16);
  EXPECT_EQ(config.index_dim, 128);
  EXPECT_EQ(config.index_topk, 48);
  EXPECT_EQ(config.norm_eps, 1e-6f);
  EXPECT_EQ(config.rope_theta, 10000.0f);
  EXPECT_EQ(config.compress_rope_theta, 160000.0f);
  EXPECT_EQ(config.original_length, 65536);
  EXPECT_EQ(config.rope_factor, 16.0f);
  EXPECT_EQ(config.beta_fast, 32.0f);
  EXPECT_EQ(config.beta_slow, 1.0f);
  EXPECT_EQ(config.max_positions, 1048576);
  ASSERT_GE(config.compress_ratios.size(), 3u);
  EXPECT_EQ(config.compress_ratios[0], 0);
  EXPECT_EQ(config.compress_ratios[1], 4);
  EXPECT_EQ(config.compress_ratios[2], 128);
}

TEST(ConfigJson, ReadsTheNativeForm) {
  expect_tiny(parsed(native()));
  EXPECT_EQ(parsed(native()).num_attention_layers(), 3);
}
TEST(ConfigJson, ReadsTheFlatForm) {
  const ModelConfig config = parsed(kFlat);
  expect_tiny(config);
  EXPECT_EQ(config.num_attention_layers(), 4);
  EXPECT_EQ(config.layer(3).value().name, "mtp.0.attn");
  EXPECT_EQ(config.name, "deepseek_v4");
}
TEST(ConfigJson, ReadsTheNestedForm) {
  expect_tiny(parsed(nested()));
  EXPECT_EQ(parsed(nested()).num_attention_layers(), 3);
}
TEST(ConfigJson, RefusalsUseTheNamesOfTheText) {
  const auto refusal = [](const std::string& text) { return std::string(parse_model_config(text).status().text()); };
  const auto flat = [](const std::string& from, const std::string& to) {
    std::string text = kFlat;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_EQ(refusal(native("\"dim\": 128", "\"dim\": 0")), "config: dim is 0, expected 1 to 1048576");
  EXPECT_EQ(refusal(flat("\"hidden_size\": 128", "\"hidden_size\": 0")),
            "config: hidden_size is 0, expected 1 to 1048576");
  EXPECT_EQ(refusal(native("\"q_lora_rank\": 64", "\"q_lora_rank\": 0")),
            "config: q_lora_rank is 0, expected 1 to 1048576");
  EXPECT_EQ(refusal(native("\"o_groups\": 2", "\"o_groups\": 3")),
            "config: o_groups is 3, expected a divisor of n_heads = 4");
  EXPECT_EQ(refusal(flat("\"o_groups\": 2", "\"o_groups\": 3")),
            "config: o_groups is 3, expected a divisor of num_attention_heads = 4");
  EXPECT_EQ(refusal(flat("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 2")),
            "config: rms_norm_eps is 2, expected 1e-30 to 1");
  EXPECT_EQ(refusal(flat("\"sliding_window\": 128", "\"sliding_window\": 0")),
            "config: sliding_window is 0, expected 1 to 1048576");
  EXPECT_EQ(refusal(flat("\"max_position_embeddings\": 1048576", "\"max_position_embeddings\": 100")),
            "config: index_topk is 48, expected 1 to 25, the entries of max_position_embeddings = 100 tokens");
  EXPECT_EQ(refusal(nested("\"index_head_dim\": 128", "\"index_head_dim\": 96")),
            "config: index_head_dim is 96, expected a power of two (the Hadamard rotation needs one)");
  EXPECT_EQ(refusal(native("\"compress_rope_theta\": 160000.0", "\"compress_rope_theta\": 0")),
            "config: compress_rope_theta is 0, expected 1.5 to 1e+12");
  EXPECT_EQ(refusal(nested("\"rope_theta\": 160000.0", "\"rope_theta\": 0")),
            "config: rope_parameters.compress.rope_theta is 0, expected 1.5 to 1e+12");
  EXPECT_EQ(refusal(flat("\"factor\": 16", "\"factor\": 0.5")),
            "config: rope_scaling.factor is 0.5, expected 1 to 1000000");
  EXPECT_EQ(refusal(flat("\"beta_slow\": 1", "\"beta_slow\": 32")),
            "config: rope_scaling.beta_slow is 32, expected less than rope_scaling.beta_fast = 32");
  EXPECT_EQ(refusal(flat("[0, 4, 128, 0]", "[0, 4]")).substr(0, 85),
            "config: compress_ratios has 2 entries, expected one for each of num_hidden_layers = 3");
  EXPECT_EQ(refusal(flat("[0, 4, 128, 0]", "[0, 4, 128, 4]")),
            "config: compress_ratios[3] is 4, expected 0: past num_hidden_layers = 3 stand MTP layers, which have a "
            "window only");
}
TEST(ConfigJson, ReadsTheGoldenFiles) {
  const auto tiny = read_model_config(FATHOM_GOLDEN_DIR "/tiny/config.json");
  ASSERT_TRUE(tiny.ok()) << tiny.status().text();
  expect_tiny(tiny.value());
  const auto fp8 = read_model_config(FATHOM_GOLDEN_DIR "/tiny_fp8/config.json");
  ASSERT_TRUE(fp8.ok()) << fp8.status().text();
  EXPECT_EQ(fp8.value().compress_ratios, (std::vector<int>{4, 128}));
  EXPECT_EQ(fp8.value().output_rank, 128);
}

TEST(ConfigJson, AbsentAndNullOptionalKeysTakeTheModelsDefaults) {
  const char* text = R"({"dim": 128, "n_heads": 4, "q_lora_rank": 64, "o_groups": 2, "o_lora_rank": 32, "n_layers": 1,
    "compress_ratios": [4], "head_dim": null, "rope_scaling": null})";
  const ModelConfig config = parsed(text);
  EXPECT_EQ(config.head_dim, 512);
  EXPECT_EQ(config.rope_dim, 64);
  EXPECT_EQ(config.window, 128);
  EXPECT_EQ(config.index_heads, 64);
  EXPECT_EQ(config.index_topk, 512);
  EXPECT_EQ(config.rope_factor, 16.0f);
  EXPECT_EQ(config.compress_rope_theta, 160000.0f);
}

TEST(ConfigJson, YarnCanBeSwitchedOff) {
  const ModelConfig by_length = parsed(native("\"original_seq_len\": 65536", "\"original_seq_len\": 0"));
  EXPECT_EQ(by_length.rope_factor, 0.0f);
  EXPECT_EQ(by_length.layer(1).value().rope.theta, 160000.0f);
  EXPECT_EQ(parsed(nested("\"rope_type\": \"yarn\"", "\"rope_type\": \"default\"")).rope_factor, 0.0f);
}

TEST(ConfigJson, FlatRotationUnderTheNewNameIsRead) {
  std::string text = kFlat;
  text.replace(text.find("rope_scaling"), 12, "rope_parameters");
  text.replace(text.find("\"factor\": 16"), 12, "\"factor\": 8.5");
  EXPECT_EQ(parsed(text).rope_factor, 8.5f);
}

TEST(ConfigJson, WindowThetaInAFlatRotationIsRead) {
  for (const char* group : {"rope_parameters", "rope_scaling"}) {
    std::string text = kFlat;
    text.replace(text.find("rope_scaling"), 12, group);
    text.replace(text.find("\"rope_theta\": 10000,"), 20, "");
    text.replace(text.find("\"factor\": 16"), 12, "\"factor\": 16, \"rope_theta\": 25000");
    const ModelConfig config = parsed(text);
    EXPECT_EQ(config.rope_theta, 25000.0f) << group;
    EXPECT_EQ(config.compress_rope_theta, 160000.0f) << group;
  }
}

TEST(ConfigJson, RotationKindsMayAgree) {
  const char* twice_yarn = "\"rope_type\": \"yarn\", \"type\": \"yarn\"";
  EXPECT_EQ(parsed(nested("\"rope_type\": \"yarn\"", twice_yarn)).rope_factor, 16.0f);
  const char* twice_default = "\"rope_type\": \"default\", \"type\": \"default\"";
  EXPECT_EQ(parsed(nested("\"rope_type\": \"yarn\"", twice_default)).rope_factor, 0.0f);
}

TEST(ConfigJson, MtpLayersFollowLayerTypes) {
  const ModelConfig config = parsed(nested("{", "{\"num_nextn_predict_layers\": 2, "));
  EXPECT_EQ(config.num_layers, 3);
  ASSERT_EQ(config.compress_ratios, (std::vector<int>{0, 4, 128, 0, 0}));
  EXPECT_EQ(config.layer(4).value().name, "mtp.1.attn");
  EXPECT_EQ(parsed(nested("{", "{\"num_nextn_predict_layers\": 0, ")).num_attention_layers(), 3);
}

TEST(ConfigJson, LayerTypesAndRatiosMayAgree) {
  std::string text = kFlat;
  text.insert(
      1, R"("layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],)");
  EXPECT_EQ(parsed(text).num_attention_layers(), 4);
}

TEST(ConfigJson, KeysWithDotsNameNothing) {
  EXPECT_EQ(parsed(native("\"scale_fmt\"", "\"rope_scaling.type\"")).rope_factor, 16.0f);
  EXPECT_EQ(parsed(native("\"scale_fmt\": \"ue8m0\"", "\"compress_ratios[0]\": 128")).compress_ratios[0], 0);
  EXPECT_EQ(parsed(native("\"scale_fmt\": \"ue8m0\"", "\"\": {\"max_position_embeddings\": 7}")).max_positions,
            1048576);
}

struct BadConfig {
  const char* expected;
  std::string text;
};

std::string repeated(const std::string& piece, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += piece;
  return text;
}

TEST(ConfigJson, RefusesImpossibleValuesByName) {
  const BadConfig kCases[] = {
      {"the text is not valid JSON (byte 1)", ""},
      {"not valid JSON", "{"},
      {"not valid JSON", native() + "x"},
      {"not valid JSON", "// comment\n" + native()},
      {"not valid JSON", native("\"dim\": 128,", "\"dim\": 128,,")},
      {"not valid JSON", native("128", "0x80")},
      {"not valid JSON", native("128", "NaN")},
      {"not valid JSON", native("1e-06", "1e999")},
      {"not valid UTF-8", native("ue8m0", "\xff\xfe")},
      {"holds a zero byte", native() + std::string(1, '\0') + "{}"},
      {"the text is a list, expected an object", "[1, 2]"},
      {"the text is 7, expected an object", "7"},
      {"nests more than 16 deep", native("\"ue8m0\"", repeated("[", 20) + repeated("]", 20))},
      {"nests more than 16 deep", native("\"ue8m0\"", repeated("{\"a\":", 100000))},
      {"bytes without structure", native("ue8m0", std::string(2 << 20, 'a'))},
      {"bytes without structure", native("128", std::string(2 << 20, '1'))},
      {"bytes without structure", native("128", std::string(2 << 20, ' '))},
      {"holds more than 32768 values", native("\"ue8m0\"", "[" + repeated("0,", 40000) + "0]")},
      {"is too long", native("scale_fmt", std::string(1000, 'k'))},
      {"has 16777217 bytes, expected at most 16777216", std::string((16 << 20) + 1, ' ')},
      {"the key \"dim\" is given twice", native("{", "{\"dim\": 256, ")},
      {"the key \"dim\" is given twice", native("{", "{\"d\\u0069m\": 128, ")},
      {"the key \"rope_scaling.type\" is given twice",
       native("{", R"({"rope_scaling": {"type": "yarn", "type": "yarn"}, )")},
      {"dim or hidden_size is missing", native("\"dim\"", "\"dimension\"")},
      {"n_layers or num_hidden_layers is missing", native("\"n_layers\"", "\"layers\"")},
      {"n_heads or num_attention_heads is missing", native("\"n_heads\"", "\"heads\"")},
      {"q_lora_rank is missing", native("\"q_lora_rank\"", "\"rank\"")},
      {"o_groups is missing", native("\"o_groups\": 2", "\"o_groups\": null")},
      {"o_lora_rank is missing", native("\"o_lora_rank\"", "\"o\"")},
      {"compress_ratios or layer_types is missing", native("\"compress_ratios\"", "\"ratios\"")},
      {"dim is \"128\", expected an integer", native("\"dim\": 128", "\"dim\": \"128\"")},
      {"dim is -128, expected an integer from 0", native("\"dim\": 128", "\"dim\": -128")},
      {"dim is 128, expected an integer", native("\"dim\": 128", "\"dim\": 128.0")},
      {"dim is 128.5, expected an integer", native("\"dim\": 128", "\"dim\": 128.5")},
      {"dim is true, expected an integer", native("\"dim\": 128", "\"dim\": true")},
      {"dim is a list, expected an integer", native("\"dim\": 128", "\"dim\": [128]")},
      {"dim is an object, expected an integer", native("\"dim\": 128", "\"dim\": {}")},
      {"dim is 2147483648, expected an integer from 0 to 2147483647", native("\"dim\": 128", "\"dim\": 2147483648")},
      {"dim is 1.8446744073709552e+19, expected an integer", native("\"dim\": 128", "\"dim\": 18446744073709551616")},
      {"dim is 0, expected 1 to", native("\"dim\": 128", "\"dim\": 0")},
      {"head_dim is 2147483647", native("\"head_dim\": 512", "\"head_dim\": 2147483647")},
      {"head_dim is 2147483648", native("\"head_dim\": 512", "\"head_dim\": 2147483648")},
      {"n_heads is 1000", native("\"n_heads\": 4", "\"n_heads\": 1000")},
      {"o_groups is 3, expected a divisor", native("\"o_groups\": 2", "\"o_groups\": 3")},
      {"rope_head_dim is 1024", native("\"rope_head_dim\": 64", "\"rope_head_dim\": 1024")},
      {"window_size is 0", native("\"window_size\": 128", "\"window_size\": 0")},
      {"index_topk is 1000000", native("\"index_topk\": 48", "\"index_topk\": 1000000")},
      {"index_topk is 2147483647", native("\"index_topk\": 48", "\"index_topk\": 2147483647")},
      {"dim is 128, but hidden_size is 256: they name the same thing", native("{", "{\"hidden_size\": 256, ")},
      {"rope_theta is 10000, but rope_parameters.main.rope_theta is 20000",
       native("{", "{\"rope_parameters\": {\"main\": {\"rope_theta\": 20000}}, ")},
      {"rope_theta is 10000, but rope_parameters.rope_theta is 20000",
       native("{", "{\"rope_parameters\": {\"rope_theta\": 20000}, ")},
      {"rope_theta is 10000, but rope_scaling.rope_theta is 20000",
       native("{", "{\"rope_scaling\": {\"rope_theta\": 20000}, ")},
      {"rope_scaling.rope_type is \"default\", but rope_scaling.type is \"yarn\": they name the same thing",
       native("{", "{\"rope_scaling\": {\"type\": \"yarn\", \"rope_type\": \"default\"}, ")},
      {"rope_parameters.compress.rope_type is \"yarn\", but rope_scaling.type is \"default\"",
       nested("{", "{\"rope_scaling\": {\"type\": \"default\"}, ")},
      {"rope_parameters.main.rope_type is \"default\", but rope_parameters.main.type is \"yarn\"",
       nested("\"rope_type\": \"default\"", "\"rope_type\": \"default\", \"type\": \"yarn\"")},
      {"num_nextn_predict_layers is 2147483647, expected at most 1024",
       nested("{", "{\"num_nextn_predict_layers\": 2147483647, ")},
      {"layer_types with num_nextn_predict_layers has 1027 entries",
       nested("{", "{\"num_nextn_predict_layers\": 1024, ")},
      {"num_nextn_predict_layers is -1", nested("{", "{\"num_nextn_predict_layers\": -1, ")},
      {"window_size is 1048577, expected 1 to 1048576", native("\"window_size\": 128", "\"window_size\": 1048577")},
      {"rope_theta is \"x\", expected a number", native("\"rope_theta\": 10000.0", "\"rope_theta\": \"x\"")},
      {"rope_theta is 1e+300, expected a number within", native("\"rope_theta\": 10000.0", "\"rope_theta\": 1e300")},
      {"rope_theta is true", native("\"rope_theta\": 10000.0", "\"rope_theta\": true")},
      {"rope_theta is 0", native("\"rope_theta\": 10000.0", "\"rope_theta\": 0")},
      {"rope_factor is -16", native("\"rope_factor\": 16.0", "\"rope_factor\": -16")},
      {"norm_eps is 0", native("1e-06", "0")},
      {"original_seq_len is 65536.5", native("65536", "65536.5")},
      {"compress_ratios[2] is 7, expected 0, 4 or 128", native("[0, 4, 128]", "[0, 4, 7]")},
      {"compress_ratios[0] is 1, expected 0, 4 or 128", native("[0, 4, 128]", "[1, 4, 128]")},
      {"compress_ratios[1] is \"4\"", native("[0, 4, 128]", "[0, \"4\", 128]")},
      {"compress_ratios[1] is 4, expected 0, 4 or 128", native("[0, 4, 128]", "[0, 4.0, 128]")},
      {"compress_ratios[1] is a list", native("[0, 4, 128]", "[0, [4], 128]")},
      {"compress_ratios[1] is null", native("[0, 4, 128]", "[0, null, 128]")},
      {"compress_ratios[1] is -4", native("[0, 4, 128]", "[0, -4, 128]")},
      {"compress_ratios is 4, expected a list", native("[0, 4, 128]", "4")},
      {"compress_ratios is an object, expected a list", native("[0, 4, 128]", "{\"0\": 4}")},
      {"compress_ratios has 2 entries, expected one for each of n_layers = 3", native("[0, 4, 128]", "[0, 4]")},
      {"compress_ratios has 0 entries", native("[0, 4, 128]", "[]")},
      {"compress_ratios has 2001 entries, expected at most 1024",
       native("[0, 4, 128]", "[" + repeated("0,", 2000) + "0]")},
      {"compress_ratios[3] is 4, expected 0: past n_layers = 3", native("[0, 4, 128]", "[0, 4, 128, 4]")},
      {"layer_types[1] is \"full_attention\"", nested("compressed_sparse_attention\",", "full_attention\",")},
      {"layer_types[0] is 0", nested("\"sliding_attention\"", "0")},
      {"layer_types has 2 entries, expected num_hidden_layers = 3", nested("\"sliding_attention\", ", "")},
      {"layer_types is \"sliding_attention\", expected a list",
       native("\"scale_fmt\": \"ue8m0\"", "\"layer_types\": \"sliding_attention\"")},
      {"layer_types[0] is \"heavily_compressed_attention\", but compress_ratios[0] is 0",
       native("\"scale_fmt\": \"ue8m0\"",
              "\"layer_types\": [" + repeated("\"heavily_compressed_attention\", ", 2) + "\"sliding_attention\"]")},
      {"compress_rates.heavily_compressed_attention is 64, expected 128",
       nested("attention\": 128", "attention\": 64")},
      {"compress_rate_csa is 8, expected 4", native("{", "{\"compress_rate_csa\": 8, ")},
      {"num_key_value_heads is 8, expected 1", native("{", "{\"num_key_value_heads\": 8, ")},
      {"partial_rotary_factor is 0.3",
       nested("\"partial_rotary_factor\": 0.125, \"pad", "\"partial_rotary_factor\": 0.3, \"pad")},
      {"partial_rotary_factor is 0.25, but", nested("0.125, \"pad", "0.25, \"pad")},
      {"partial_rotary_factor is 0.25, which is 128 of head_dim = 512 dims, expected rope_head_dim = 64",
       native("{", "{\"partial_rotary_factor\": 0.25, ")},
  };
  for (const BadConfig& bad : kCases) {
    const auto config = parse_model_config(bad.text);
    ASSERT_FALSE(config.ok()) << bad.expected;
    EXPECT_EQ(config.status().code(), StatusCode::invalid_argument) << bad.expected;
    const std::string text = config.status().text();
    EXPECT_TRUE(text.starts_with("config: ")) << text;
    EXPECT_NE(text.find(bad.expected), std::string::npos) << text << "\nexpected: " << bad.expected;
  }
}

TEST(ConfigJson, RefusesOtherModelsAsUnsupported) {
  const BadConfig kCases[] = {
      {"DeepSeek-V4.1 (model_type is \"deepseek_v4_1\")", native("{", "{\"model_type\": \"deepseek_v4_1\", ")},
      {"DeepSeek-V4.1 (model_type is \"DeepSeek-V4.1-Flash\")",
       native("{", "{\"model_type\": \"DeepSeek-V4.1-Flash\", ")},
      {"DeepSeek-V4.1 (architectures[0] is \"DeepseekV41ForCausalLM\")",
       native("{", "{\"architectures\": [\"DeepseekV41ForCausalLM\"], ")},
      {"DeepSeek-V4.1 (text_config.model_type is \"deepseek_v41\")",
       R"({"text_config": {"model_type": "deepseek_v41"}})"},
      {"DeepSeek-V4.1 (compress_ratios[2] is 2)", native("[0, 4, 128]", "[0, 0, 2, 1]")},
      {"DeepSeek-V4.1 (compress_ratios[0] is 1)", native("[0, 4, 128]", "[1, 1, 1]")},
      {"DeepSeek-V4.1 (text_config.compress_ratios[1] is 2)", R"({"text_config": {"compress_ratios": [0, 2]}})"},
      {"DeepSeek-V4.1 (norm_eps is 1e-20)", native("1e-06", "1e-20")},
      {"DeepSeek-V4.1 (it has kv_source_layer_ids)", native("{", "{\"kv_source_layer_ids\": [2, 8, 14, 20], ")},
      {"model_type is \"deepseek_v3\", expected DeepSeek-V4", native("{", "{\"model_type\": \"deepseek_v3\", ")},
      {"architectures[0] is \"LlamaForCausalLM\", expected DeepSeek-V4",
       native("{", "{\"architectures\": [\"LlamaForCausalLM\"], ")},
      {"rope_scaling.type is \"linear\"", native("{", "{\"rope_scaling\": {\"type\": \"linear\"}, ")},
      {"rope_parameters.compress.rope_type is 3", nested("\"rope_type\": \"yarn\"", "\"rope_type\": 3")},
      {"the rope_type of rope_parameters.main is \"yarn\"",
       nested("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"")},
      {"attention_factor is 1.25, expected 1", nested("\"attention_factor\": 1.0", "\"attention_factor\": 1.25")},
  };
  for (const BadConfig& bad : kCases) {
    const auto config = parse_model_config(bad.text);
    ASSERT_FALSE(config.ok()) << bad.expected;
    EXPECT_EQ(config.status().code(), StatusCode::unsupported) << config.status().text();
    EXPECT_NE(std::string(config.status().text()).find(bad.expected), std::string::npos)
        << config.status().text() << "\nexpected: " << bad.expected;
  }
}

TEST(ConfigJson, RefusesPathsThatAreNoFile) {
  const auto refused = [](const std::string& path, const char* expected) {
    const auto config = read_model_config(path);
    ASSERT_FALSE(config.ok()) << path;
    EXPECT_NE(std::string(config.status().text()).find(expected), std::string::npos) << config.status().text();
  };
  refused("/nowhere/config.json", "cannot open /nowhere/config.json: No such file");
  refused("", "cannot open");
  refused("/dev/zero", "is a device");
  refused("/", "is a folder");
  const TemporaryFolder folder;
  const std::string fifo = folder.path("config.json");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  refused(fifo, "is a FIFO");
  ::unlink(fifo.c_str());
  std::ofstream(fifo) << "{}";
  ASSERT_EQ(::truncate(fifo.c_str(), (16 << 20) + 1), 0);
  refused(fifo, "has 16777217 bytes");
}

}  // namespace
}  // namespace fathom
