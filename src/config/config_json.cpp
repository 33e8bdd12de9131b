// config.json in the vendor's native form, in the Hugging Face form, and in the flat forms between them. The text is
// flattened into paths ("rope_parameters.compress.factor", "compress_ratios[3]"); one table then says under which names
// a field may stand. Sizes are checked here for their range in C++, by check_config for their sense.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "config/config_checks.h"
#include "config/json_text.h"
#include "config/regular_file.h"

namespace fathom {
namespace {

constexpr std::int64_t kMostFileBytes = std::int64_t{16} << 20;
constexpr std::size_t kMostValues = 32768;  // keys and list entries: a config has some hundreds

/// One value or container of the text. Containers know how many items they hold.
struct Node {
  enum class Kind : std::uint8_t { scalar, list, object } kind = Kind::scalar;
  JsonScalar scalar;
  std::string text;  ///< owns scalar.text
  std::size_t items = 0;

  bool is_null() const { return kind == Kind::scalar && scalar.kind == JsonScalar::Kind::null; }
  bool is_text() const { return kind == Kind::scalar && scalar.kind == JsonScalar::Kind::text; }
};

std::string shown(const Node& node) {
  if (node.kind == Node::Kind::list) return "a list";
  if (node.kind == Node::Kind::object) return "an object";
  JsonScalar scalar = node.scalar;
  scalar.text = node.text;
  return fathom::shown(scalar);
}

using Nodes = std::map<std::string, Node, std::less<>>;

/// Flattens the text; refuses repeated keys, which are repeated paths.
class Flattener : public JsonReceiver {
 public:
  Nodes nodes;

  Status open(bool is_object) override {
    if (levels_.empty()) {
      if (!is_object) return Status::invalid("config: the text is a list, expected an object");
      levels_.push_back({nullptr, {}, {}, true, 0});
      return {};
    }
    Node node;
    node.kind = is_object ? Node::Kind::object : Node::Kind::list;
    FATHOM_ASSIGN(const Nodes::iterator place, add(std::move(node)));
    levels_.push_back({&place->second, place->first + (is_object ? "." : ""), {}, is_object, 0});
    return {};
  }
  Status close() override {
    if (levels_.back().node != nullptr) levels_.back().node->items = levels_.back().items;
    levels_.pop_back();
    return {};
  }
  Status key(std::string_view key) override {
    levels_.back().key = key;
    return {};
  }
  Status value(const JsonScalar& scalar) override {
    if (levels_.empty())
      return Status::invalid("config: the text is %s, expected an object", fathom::shown(scalar).c_str());
    Node node;
    node.scalar = scalar;
    node.text = scalar.text;
    node.scalar.text = {};
    return add(std::move(node)).status();
  }

 private:
  struct Level {
    Node* node;  ///< null for the whole text
    std::string prefix;
    std::string key;
    bool is_object;
    std::size_t items;
  };

  /// Puts `node` where the text stands.
  Result<Nodes::iterator> add(Node node) {
    Level& level = levels_.back();
    // A key like "rope_scaling.type" must not pass for the field of that path.
    const bool is_plain = level.key.find_first_of(".[\"") == std::string::npos;
    std::string path = level.prefix;
    path += !level.is_object ? "[" + std::to_string(level.items) + "]" : is_plain ? level.key : "\"" + level.key + "\"";
    ++level.items;
    constexpr std::size_t kMostPathBytes = 256;
    if (path.size() > kMostPathBytes) return Status::invalid("config: the key %s is too long", in_quotes(path).c_str());
    const auto [place, is_new] = nodes.emplace(std::move(path), std::move(node));
    if (!is_new) return Status::invalid("config: the key %s is given twice", in_quotes(place->first).c_str());
    if (nodes.size() > kMostValues) return Status::invalid("config: the text holds more than %zu values", kMostValues);
    return place;
  }

  std::vector<Level> levels_;
};

using Paths = std::initializer_list<const char*>;

/// Fields by any of their names. The one that a field stood under is kept for later statuses.
class Fields {
 public:
  explicit Fields(const Nodes& nodes) : nodes_(nodes) {}
  FieldNames names;

  const Node* find(std::string_view path) const {
    const auto node = nodes_.find(path);
    return node == nodes_.end() || node->second.is_null() ? nullptr : &node->second;
  }

  Status required(int* out, const char* field, Paths paths) {
    FATHOM_ASSIGN(const bool found, integer(out, field, paths));
    if (found) return {};
    std::string possible;
    for (const char* path : paths) possible += (possible.empty() ? "" : " or ") + std::string(path);
    return Status::invalid("config: %s is missing", possible.c_str());
  }
  template <class Integer>
  Status optional(Integer* out, const char* field, Paths paths) {
    return integer(out, field, paths).status();
  }
  Status optional_real(float* out, const char* field, Paths paths, bool* found = nullptr) {
    const char* first = nullptr;
    for (const char* path : paths) {
      const Node* node = find(path);
      if (node == nullptr) continue;
      const bool is_number = node->kind == Node::Kind::scalar && node->scalar.kind != JsonScalar::Kind::text &&
                             node->scalar.kind != JsonScalar::Kind::boolean;
      constexpr double kMost = std::numeric_limits<float>::max();
      if (!is_number || !(std::abs(node->scalar.number) <= kMost)) {
        return Status::invalid("config: %s is %s, expected a number within f32's range", path, shown(*node).c_str());
      }
      const auto value = static_cast<float>(node->scalar.number);
      FATHOM_TRY(agree(first, path, first != nullptr && *out != value));
      *out = value;
      first = path;
    }
    if (found != nullptr) *found = first != nullptr;
    keep_name(field, first, paths);
    return {};
  }
  /// "yarn" or "default", the kinds of rotation; `out` stays as it is where none of the names stands.
  Status optional_rope_type(std::string* out, Paths paths) const {
    const char* first = nullptr;
    for (const char* path : paths) {
      const Node* node = find(path);
      if (node == nullptr) continue;
      if (!node->is_text() || (node->text != "yarn" && node->text != "default")) {
        return Status::unsupported("config: %s is %s, expected \"yarn\" or \"default\"", path, shown(*node).c_str());
      }
      FATHOM_TRY(agree(first, path, first != nullptr && *out != node->text));
      *out = node->text;
      first = path;
    }
    return {};
  }

 private:
  /// Two names of one field may both stand in a file, but must not contradict each other.
  Status agree(const char* first, const char* second, bool differ) const {
    if (!differ) return {};
    return Status::invalid("config: %s is %s, but %s is %s: they name the same thing", first,
                           shown(*find(first)).c_str(), second, shown(*find(second)).c_str());
  }

  /// `field` is null for what ModelConfig does not keep; `found` where none of the names stands.
  void keep_name(const char* field, const char* found, Paths paths) {
    if (field != nullptr) names.set(field, found != nullptr ? found : *paths.begin());
  }

  template <class Integer>
  Result<bool> integer(Integer* out, const char* field, Paths paths) {
    const char* first = nullptr;
    for (const char* path : paths) {
      const Node* node = find(path);
      if (node == nullptr) continue;
      constexpr auto kMost = std::uint64_t{std::numeric_limits<Integer>::max()};
      if (node->kind != Node::Kind::scalar || node->scalar.kind != JsonScalar::Kind::natural ||
          node->scalar.natural > kMost) {
        return Status::invalid("config: %s is %s, expected an integer from 0 to %llu", path, shown(*node).c_str(),
                               static_cast<unsigned long long>(kMost));
      }
      const auto value = static_cast<Integer>(node->scalar.natural);
      FATHOM_TRY(agree(first, path, first != nullptr && *out != value));
      *out = value;
      first = path;
    }
    keep_name(field, first, paths);
    return first != nullptr;
  }

  const Nodes& nodes_;
};

/// "DeepSeek_V4.1" and "DeepseekV41ForCausalLM" both start with "deepseekv41".
std::string plain_name(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)))
      result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return result;
}

Status refuse_v41(const std::string& because) {
  return Status::unsupported("config: this is DeepSeek-V4.1 (%s), which is not supported, expected DeepSeek-V4",
                             because.c_str());
}

/// DeepSeek-V4.1 shares most names with V4 and means other things by them: ratio 1 is not a window there.
Status check_model_type(const Nodes& nodes) {
  for (const char* group : {"", "text_config."}) {
    const auto node = [&](const std::string& path) {
      const auto found = nodes.find(group + path);
      return found == nodes.end() ? nullptr : &found->second;
    };
    std::vector<std::string> type_paths = {"model_type"};
    if (const Node* list = node("architectures"); list != nullptr) {
      for (std::size_t i = 0; i < list->items; ++i) type_paths.push_back("architectures[" + std::to_string(i) + "]");
    }
    for (const std::string& path : type_paths) {
      const Node* type = node(path);
      if (type == nullptr || !type->is_text()) continue;
      const std::string name = plain_name(type->text);
      if (name.starts_with("deepseekv41")) return refuse_v41(group + path + " is " + shown(*type));
      if (!name.starts_with("deepseekv4")) {
        return Status::unsupported("config: %s%s is %s, expected DeepSeek-V4", group, path.c_str(),
                                   shown(*type).c_str());
      }
    }
    for (const char* path : {"kv_source_layer_ids", "index_source_layer_ids", "candidate_source_layer_id"}) {
      if (node(path) != nullptr) return refuse_v41("it has " + (group + std::string(path)));
    }
    for (const char* path : {"norm_eps", "rms_norm_eps"}) {
      const Node* eps = node(path);
      constexpr double kLargestV41Eps = 1e-15;
      if (eps != nullptr && eps->scalar.kind == JsonScalar::Kind::real && eps->scalar.number > 0 &&
          eps->scalar.number < kLargestV41Eps) {
        return refuse_v41(std::string(group) + path + " is " + shown(*eps));
      }
    }
    const Node* ratios = node("compress_ratios");
    if (ratios == nullptr || ratios->kind != Node::Kind::list) continue;
    std::string first_small;
    bool has_v4_ratio = false;
    for (std::size_t i = 0; i < ratios->items; ++i) {
      const std::string path = "compress_ratios[" + std::to_string(i) + "]";
      const Node* ratio = node(path);
      const std::uint64_t value = ratio->scalar.natural;
      if ((value == 1 || value == 2) && first_small.empty())
        first_small = group + path + " is " + std::to_string(value);
      has_v4_ratio |= value > 2;
    }
    if (!first_small.empty() && !has_v4_ratio) return refuse_v41(first_small);
  }
  return {};
}

/// compress_rates and its older spellings repeat what a ratio is; V4 has one value for each kind.
Status check_compress_rates(Fields& fields) {
  const struct {
    const char* path;
    int ratio;
  } kRates[] = {{"compress_rates.compressed_sparse_attention", 4},
                {"compress_rate_csa", 4},
                {"compress_rates.heavily_compressed_attention", 128},
                {"compress_rate_hca", 128}};
  for (const auto& rate : kRates) {
    int value = rate.ratio;
    FATHOM_TRY(fields.optional(&value, nullptr, {rate.path}));
    if (value != rate.ratio) return Status::invalid("config: %s is %d, expected %d", rate.path, value, rate.ratio);
  }
  return {};
}

/// `list[i]` for every i, or a status naming what stands there instead of a list.
Result<std::vector<const Node*>> list_items(const Nodes& nodes, const std::string& path, const Node& list) {
  if (list.kind != Node::Kind::list)
    return Status::invalid("config: %s is %s, expected a list", path.c_str(), shown(list).c_str());
  if (list.items > static_cast<std::size_t>(kMaxLayers)) {
    return Status::invalid("config: %s has %zu entries, expected at most %lld", path.c_str(), list.items,
                           static_cast<long long>(kMaxLayers));
  }
  std::vector<const Node*> items;
  for (std::size_t i = 0; i < list.items; ++i)
    items.push_back(&nodes.find(path + "[" + std::to_string(i) + "]")->second);
  return items;
}

Status read_ratios(const Nodes& nodes, Fields& fields, ModelConfig* config) {
  const Node* ratios = fields.find("compress_ratios");
  const Node* types = fields.find("layer_types");
  if (ratios == nullptr && types == nullptr)
    return Status::invalid("config: compress_ratios or layer_types is missing");
  if (ratios != nullptr) {
    FATHOM_ASSIGN(const auto items, list_items(nodes, "compress_ratios", *ratios));
    for (std::size_t i = 0; i < items.size(); ++i) {
      const Node& item = *items[i];
      const std::uint64_t value = item.scalar.natural;
      if (item.kind != Node::Kind::scalar || item.scalar.kind != JsonScalar::Kind::natural ||
          (value != 0 && value != 4 && value != 128)) {
        return Status::invalid("config: compress_ratios[%zu] is %s, expected 0, 4 or 128", i, shown(item).c_str());
      }
      config->compress_ratios.push_back(static_cast<int>(value));
    }
  }
  if (types == nullptr) return {};
  int mtp_layers = 0;
  FATHOM_TRY(fields.optional(&mtp_layers, nullptr, {"num_nextn_predict_layers"}));
  if (mtp_layers > kMaxLayers) {
    return Status::invalid("config: num_nextn_predict_layers is %d, expected at most %lld", mtp_layers,
                           static_cast<long long>(kMaxLayers));
  }
  FATHOM_ASSIGN(const auto items, list_items(nodes, "layer_types", *types));
  if (static_cast<std::int64_t>(items.size()) != config->num_layers) {
    return Status::invalid("config: layer_types has %zu entries, expected %s = %d", items.size(),
                           fields.names.of("num_layers"), config->num_layers);
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::string& type = items[i]->text;
    const int ratio = type == "sliding_attention"              ? 0
                      : type == "compressed_sparse_attention"  ? 4
                      : type == "heavily_compressed_attention" ? 128
                                                               : -1;
    if (!items[i]->is_text() || ratio < 0) {
      return Status::invalid(
          "config: layer_types[%zu] is %s, expected sliding_attention, compressed_sparse_attention or "
          "heavily_compressed_attention",
          i, shown(*items[i]).c_str());
    }
    if (ratios == nullptr) {
      config->compress_ratios.push_back(ratio);
    } else if (i < config->compress_ratios.size() && config->compress_ratios[i] != ratio) {
      return Status::invalid("config: layer_types[%zu] is %s, but compress_ratios[%zu] is %d", i,
                             shown(*items[i]).c_str(), i, config->compress_ratios[i]);
    }
  }
  if (ratios != nullptr) return {};
  // layer_types names the decoder's layers alone; MTP layers have a window only.
  config->compress_ratios.resize(items.size() + static_cast<std::size_t>(mtp_layers), 0);
  fields.names.set("compress_ratios", "layer_types with num_nextn_predict_layers");
  return {};
}

Status read_rope(Fields& fields, ModelConfig* config) {
  FATHOM_TRY(fields.optional_real(
      &config->rope_theta, "rope_theta",
      {"rope_theta", "rope_parameters.main.rope_theta", "rope_parameters.rope_theta", "rope_scaling.rope_theta"}));
  FATHOM_TRY(fields.optional_real(&config->compress_rope_theta, "compress_rope_theta",
                                  {"compress_rope_theta", "rope_parameters.compress.rope_theta"}));
  FATHOM_TRY(fields.optional_real(
      &config->rope_factor, "rope factor",
      {"rope_factor", "rope_parameters.compress.factor", "rope_parameters.factor", "rope_scaling.factor"}));
  FATHOM_TRY(fields.optional(
      &config->original_length, "rope original_length",
      {"original_seq_len", "rope_parameters.compress.original_max_position_embeddings",
       "rope_parameters.original_max_position_embeddings", "rope_scaling.original_max_position_embeddings"}));
  FATHOM_TRY(fields.optional_real(
      &config->beta_fast, "beta_fast",
      {"beta_fast", "rope_parameters.compress.beta_fast", "rope_parameters.beta_fast", "rope_scaling.beta_fast"}));
  FATHOM_TRY(fields.optional_real(
      &config->beta_slow, "beta_slow",
      {"beta_slow", "rope_parameters.compress.beta_slow", "rope_parameters.beta_slow", "rope_scaling.beta_slow"}));
  float amplitude = 1.0f;
  FATHOM_TRY(fields.optional_real(&amplitude, "attention_factor",
                                  {"rope_parameters.compress.attention_factor", "rope_parameters.attention_factor",
                                   "rope_scaling.attention_factor"}));
  if (amplitude != 1.0f) {
    return Status::unsupported("config: %s is %.7g, expected 1: the model's rotation keeps amplitudes",
                               fields.names.of("attention_factor"), static_cast<double>(amplitude));
  }
  std::string window_type, compress_type;
  FATHOM_TRY(fields.optional_rope_type(&window_type, {"rope_parameters.main.rope_type", "rope_parameters.main.type"}));
  if (window_type == "yarn") {
    return Status::unsupported(
        "config: the rope_type of rope_parameters.main is \"yarn\", expected \"default\": window layers rotate "
        "plainly");
  }
  FATHOM_TRY(fields.optional_rope_type(
      &compress_type,
      {"rope_parameters.compress.rope_type", "rope_parameters.compress.type", "rope_parameters.rope_type",
       "rope_parameters.type", "rope_scaling.rope_type", "rope_scaling.type"}));
  // The native form switches YaRN off by an original length of 0, the Hugging Face form by its type.
  if (config->original_length == 0 || compress_type == "default") {
    config->rope_factor = 0.0f;
    config->original_length = ModelConfig{}.original_length;
  }
  float share = 0.0f;
  bool has_share = false;
  FATHOM_TRY(
      fields.optional_real(&share, "partial_rotary_factor",
                           {"partial_rotary_factor", "rope_parameters.main.partial_rotary_factor",
                            "rope_parameters.compress.partial_rotary_factor", "rope_parameters.partial_rotary_factor"},
                           &has_share));
  const bool has_dim = fields.find("rope_head_dim") != nullptr || fields.find("qk_rope_head_dim") != nullptr;
  FATHOM_TRY(fields.optional(&config->rope_dim, "rope_dim", {"rope_head_dim", "qk_rope_head_dim"}));
  if (!has_share) return {};
  const double share_dim = static_cast<double>(share) * config->head_dim;
  const auto dim = static_cast<int>(std::clamp(std::round(share_dim), 0.0, 1e6));
  if (std::abs(share_dim - dim) > 1e-3 || (has_dim && dim != config->rope_dim)) {
    return Status::invalid("config: %s is %.7g, which is %.7g of head_dim = %d dims, expected %s",
                           fields.names.of("partial_rotary_factor"), static_cast<double>(share), share_dim,
                           config->head_dim,
                           has_dim ? (fields.names.of("rope_dim") + (" = " + std::to_string(config->rope_dim))).c_str()
                                   : "a whole number");
  }
  if (!has_dim) fields.names.set("rope_dim", fields.names.of("partial_rotary_factor"));
  config->rope_dim = dim;
  return {};
}

Result<ModelConfig> read_fields(const Nodes& nodes) {
  FATHOM_TRY(check_model_type(nodes));
  Fields fields(nodes);
  ModelConfig config;
  if (const Node* type = fields.find("model_type"); type != nullptr && type->is_text()) config.name = type->text;
  FATHOM_TRY(fields.required(&config.hidden_size, "hidden_size", {"dim", "hidden_size"}));
  FATHOM_TRY(fields.required(&config.num_layers, "num_layers", {"n_layers", "num_hidden_layers"}));
  FATHOM_TRY(fields.required(&config.num_heads, "num_heads", {"n_heads", "num_attention_heads"}));
  FATHOM_TRY(fields.required(&config.q_rank, "q_rank", {"q_lora_rank"}));
  FATHOM_TRY(fields.required(&config.output_groups, "output_groups", {"o_groups"}));
  FATHOM_TRY(fields.required(&config.output_rank, "output_rank", {"o_lora_rank"}));
  FATHOM_TRY(fields.optional(&config.head_dim, "head_dim", {"head_dim"}));
  FATHOM_TRY(fields.optional(&config.window, "window", {"window_size", "sliding_window"}));
  FATHOM_TRY(fields.optional(&config.index_heads, "index_heads", {"index_n_heads"}));
  FATHOM_TRY(fields.optional(&config.index_dim, "index_dim", {"index_head_dim"}));
  FATHOM_TRY(fields.optional(&config.index_topk, "index_topk", {"index_topk"}));
  FATHOM_TRY(fields.optional(&config.max_positions, "max_positions", {"max_position_embeddings"}));
  FATHOM_TRY(fields.optional_real(&config.norm_eps, "norm_eps", {"norm_eps", "rms_norm_eps"}));
  int kv_heads = 1;
  FATHOM_TRY(fields.optional(&kv_heads, nullptr, {"num_key_value_heads"}));
  if (kv_heads != 1) return Status::invalid("config: num_key_value_heads is %d, expected 1", kv_heads);
  FATHOM_TRY(read_rope(fields, &config));
  FATHOM_TRY(check_compress_rates(fields));
  FATHOM_TRY(read_ratios(nodes, fields, &config));
  FATHOM_TRY(check_config(config, fields.names));
  return config;
}

Status too_large(std::int64_t bytes) {
  return Status::invalid("config: the text has %lld bytes, expected at most %lld", static_cast<long long>(bytes),
                         static_cast<long long>(kMostFileBytes));
}

}  // namespace

Result<ModelConfig> parse_model_config(std::string_view json) noexcept {
  return guarded("config", [&]() -> Result<ModelConfig> {
    if (json.size() > static_cast<std::size_t>(kMostFileBytes))
      return too_large(static_cast<std::int64_t>(json.size()));
    Flattener flattener;
    FATHOM_TRY(read_json("config: the text", json_source(json), JsonLimits{}, flattener));
    return read_fields(flattener.nodes);
  });
}

Result<ModelConfig> read_model_config(const std::string& path) noexcept {
  return guarded("config", [&]() -> Result<ModelConfig> {
    FATHOM_ASSIGN(const RegularFile file, RegularFile::open("config", path));
    if (file.size() > kMostFileBytes) return too_large(file.size());
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    FATHOM_TRY(file.read_at(0, text.data(), file.size()));
    return parse_model_config(text);
  });
}

}  // namespace fathom
