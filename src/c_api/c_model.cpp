// The C interface of configurations, checkpoints and the weights of a layer.
#include <string>
#include <string_view>
#include <vector>

#include "c_api/handover.h"
#include "c_api/layer_args.h"
#include "fathom/checkpoint.h"
#include "fathom/config.h"

using fathom::LayerConfig;
using fathom::LayerProblem;
using fathom::ModelConfig;
using fathom::Numerics;
using fathom::Result;
using fathom::Status;
using fathom::c_api::copy_text;
using fathom::c_api::is_null;
using fathom::c_api::reported;

struct fathom_config {
  ModelConfig config;
};
struct fathom_checkpoint {
  fathom::Checkpoint checkpoint;
};
struct fathom_weights {
  LayerConfig config;
  fathom::LoadedLayer loaded;
};

namespace {

Result<Numerics> numerics_called(const char* function, const char* name) noexcept {
  if (name == nullptr) return is_null(function, "numerics");
  const std::string_view word = name;
  if (word == "exact") return Numerics::exact;
  if (word == "served") return Numerics::served;
  return Status::invalid("%s: numerics is \"%.40s\", expected \"exact\" or \"served\"", function, name);
}

/// Hands out what `read` makes of `source`.
template <class Read>
Status make_config(const char* function, const char* argument, const char* source, fathom_config** config,
                   Read&& read) {
  if (source == nullptr) return is_null(function, argument);
  if (config == nullptr) return is_null(function, "config");
  FATHOM_ASSIGN(ModelConfig made, read(source));
  *config = new fathom_config{std::move(made)};
  return {};
}

Result<LayerConfig> layer_of(const char* function, const fathom_config* config, std::int32_t layer) noexcept {
  if (config == nullptr) return is_null(function, "config");
  return config->config.layer(layer);
}

Status load_weights(const fathom_checkpoint* checkpoint, const fathom_config* config, std::int32_t layer,
                    std::int32_t rank, std::int32_t world, fathom_weights** weights) {
  constexpr const char* kFunction = "fathom_weights_load";
  if (checkpoint == nullptr) return is_null(kFunction, "checkpoint");
  if (weights == nullptr) return is_null(kFunction, "weights");
  FATHOM_ASSIGN(const LayerConfig whole, layer_of(kFunction, config, layer));
  FATHOM_ASSIGN(LayerConfig own, whole.shard(rank, world));
  FATHOM_ASSIGN(fathom::LoadedLayer loaded, fathom::load_layer(checkpoint->checkpoint, own));
  *weights = new fathom_weights{std::move(own), std::move(loaded)};
  return {};
}

}  // namespace

fathom_code fathom_config_read(const char* path, fathom_config** config, fathom_status* status) {
  constexpr const char* kFunction = "fathom_config_read";
  return reported(kFunction, status, [&] {
    return make_config(kFunction, "path", path, config,
                       [](const char* from) { return fathom::read_model_config(from); });
  });
}
fathom_code fathom_config_parse(const char* json, fathom_config** config, fathom_status* status) {
  constexpr const char* kFunction = "fathom_config_parse";
  return reported(kFunction, status, [&] {
    return make_config(kFunction, "json", json, config,
                       [](const char* from) { return fathom::parse_model_config(from); });
  });
}
fathom_code fathom_config_preset(const char* name, fathom_config** config, fathom_status* status) {
  constexpr const char* kFunction = "fathom_config_preset";
  return reported(kFunction, status, [&] {
    return make_config(kFunction, "name", name, config, [](const char* from) { return fathom::preset_config(from); });
  });
}
void fathom_config_destroy(fathom_config* config) { delete config; }

int32_t fathom_config_num_layers(const fathom_config* config) {
  return config == nullptr ? 0 : config->config.num_attention_layers();
}

fathom_code fathom_config_layer_problem(const fathom_config* config, int32_t layer, const char* numerics, char* buffer,
                                        int64_t capacity, int64_t* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_config_layer_problem";
  return reported(kFunction, status, [&]() -> Status {
    FATHOM_ASSIGN(const LayerConfig own, layer_of(kFunction, config, layer));
    FATHOM_ASSIGN(const Numerics meant, numerics_called(kFunction, numerics));
    FATHOM_ASSIGN(const LayerProblem problem, fathom::layer_problem(own, meant));
    return copy_text(kFunction, fathom::problem_text(LayerProblem::spec(), &problem), buffer, capacity, size);
  });
}

fathom_code fathom_config_layer_rope(const fathom_config* config, int32_t layer, fathom_rope* rope,
                                     fathom_status* status) {
  constexpr const char* kFunction = "fathom_config_layer_rope";
  return reported(kFunction, status, [&]() -> Status {
    if (rope == nullptr) return is_null(kFunction, "rope");
    FATHOM_ASSIGN(const LayerConfig own, layer_of(kFunction, config, layer));
    *rope = {own.rope.rope_dim,  own.rope.theta,     own.rope.factor,
             own.rope.beta_fast, own.rope.beta_slow, own.rope.original_length};
    return {};
  });
}

fathom_code fathom_checkpoint_open(const char* path, fathom_checkpoint** checkpoint, fathom_status* status) {
  constexpr const char* kFunction = "fathom_checkpoint_open";
  return reported(kFunction, status, [&]() -> Status {
    if (path == nullptr) return is_null(kFunction, "path");
    if (checkpoint == nullptr) return is_null(kFunction, "checkpoint");
    FATHOM_ASSIGN(fathom::Checkpoint opened, fathom::Checkpoint::open(path));
    *checkpoint = new fathom_checkpoint{std::move(opened)};
    return {};
  });
}
void fathom_checkpoint_destroy(fathom_checkpoint* checkpoint) { delete checkpoint; }

int64_t fathom_checkpoint_num_tensors(const fathom_checkpoint* checkpoint) {
  return checkpoint == nullptr ? 0 : static_cast<int64_t>(checkpoint->checkpoint.names().size());
}
const char* fathom_checkpoint_name(const fathom_checkpoint* checkpoint, int64_t index) {
  if (index < 0 || index >= fathom_checkpoint_num_tensors(checkpoint)) return nullptr;
  return checkpoint->checkpoint.names()[static_cast<std::size_t>(index)].c_str();
}

fathom_code fathom_checkpoint_tensor(const fathom_checkpoint* checkpoint, const char* name, fathom_tensor* tensor,
                                     fathom_status* status) {
  constexpr const char* kFunction = "fathom_checkpoint_tensor";
  return reported(kFunction, status, [&]() -> Status {
    if (checkpoint == nullptr) return is_null(kFunction, "checkpoint");
    if (name == nullptr) return is_null(kFunction, "name");
    if (tensor == nullptr) return is_null(kFunction, "tensor");
    FATHOM_ASSIGN(const fathom::FileTensor file, checkpoint->checkpoint.tensor(name));
    FATHOM_ASSIGN(const fathom::TensorView found, fathom::tensor_view(file));
    *tensor = std::bit_cast<fathom_tensor>(found);
    return {};
  });
}

fathom_code fathom_weights_load(const fathom_checkpoint* checkpoint, const fathom_config* config, int32_t layer,
                                int32_t rank, int32_t world, fathom_weights** weights, fathom_status* status) {
  return reported("fathom_weights_load", status,
                  [&] { return load_weights(checkpoint, config, layer, rank, world, weights); });
}
void fathom_weights_destroy(fathom_weights* weights) { delete weights; }

fathom_code fathom_weights_problem(const fathom_weights* weights, const char* numerics, char* buffer, int64_t capacity,
                                   int64_t* size, fathom_status* status) {
  constexpr const char* kFunction = "fathom_weights_problem";
  return reported(kFunction, status, [&]() -> Status {
    if (weights == nullptr) return is_null(kFunction, "weights");
    FATHOM_ASSIGN(const Numerics meant, numerics_called(kFunction, numerics));
    FATHOM_ASSIGN(LayerProblem problem, fathom::layer_problem(weights->config, meant));
    weights->loaded.describe(problem);
    return copy_text(kFunction, fathom::problem_text(LayerProblem::spec(), &problem), buffer, capacity, size);
  });
}

fathom_code fathom_weights_place(const fathom_weights* weights, fathom_tensor* args, int32_t count,
                                 fathom_status* status) {
  constexpr const char* kFunction = "fathom_weights_place";
  return reported(kFunction, status, [&]() -> Status {
    if (weights == nullptr) return is_null(kFunction, "weights");
    return fathom::c_api::place(kFunction, weights->loaded.weights, offsetof(fathom::LayerArgs, weights), args, count);
  });
}
