// What is read from files: safetensors and config.json.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>

#include "config/config_checks.h"
#include "fathom/checkpoint.h"
#include "fathom/config.h"
#include "fathom/layer.h"
#include "fuzz/targets.h"

namespace fathom::fuzz {
namespace {

/// The input as a file that exists in memory only.
class MemoryFile {
 public:
  explicit MemoryFile(Input input) : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    require(descriptor_ >= 0, "no memory file");
    const auto written = input.empty() ? 0 : ::write(descriptor_, input.data(), input.size());
    require(written == static_cast<ssize_t>(input.size()), "the memory file is not written");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

LayerConfig tiny_layer(int ratio) {
  LayerConfig layer;
  layer.name = "layers.0.attn";
  layer.hidden_size = 2;
  layer.num_heads = 1;
  layer.head_dim = 2;
  layer.rope.rope_dim = 2;
  layer.q_rank = 1;
  layer.output_groups = 1;
  layer.output_rank = 1;
  layer.compress_ratio = ratio;
  layer.index_heads = 1;
  layer.index_dim = 2;
  layer.index_topk = 1;
  return layer;
}

}  // namespace

void safetensors(Input input) {
  const MemoryFile file(input);
  const auto opened = Checkpoint::open(file.path());
  if (!opened.ok()) return require(opened.status().text()[0] != '\0', "a refusal without a word");
  const Checkpoint& checkpoint = opened.value();
  std::int64_t bytes = 0;
  volatile unsigned sum = 0;
  for (const std::string& name : checkpoint.names()) {
    require(checkpoint.has(name), "a name that is not there");
    const auto tensor = checkpoint.tensor(name);
    require(tensor.ok(), "a checked tensor is not read");
    require(tensor->bytes >= 0 && tensor->bytes <= static_cast<std::int64_t>(input.size()),
            "a tensor larger than its file");
    // Every byte can be read; the sum keeps the reads from being left out.
    for (std::int64_t i = 0; i < tensor->bytes; ++i) sum = sum + static_cast<unsigned>(tensor->data[i]);
    bytes += tensor->bytes;
    if (const auto view = tensor_view(tensor.value()); view.ok()) {
      require(bytes_of(view->dtype, view->numel()) == tensor->bytes, "a view that is not its tensor");
    }
    char first = 0;
    require(checkpoint.read(name, 0, &first, tensor->bytes > 0 ? 1 : 0).ok(), "the first byte is not read");
    require(!checkpoint.read(name, tensor->bytes, &first, 1).ok(), "a byte past the tensor is read");
  }
  require(bytes + 8 <= static_cast<std::int64_t>(input.size()), "tensors larger than their file");
  for (const int ratio : {0, 4, 128}) {
    const auto loaded = load_layer(checkpoint, tiny_layer(ratio));
    require(!loaded.ok() || loaded->weights.wq_a.numel() == 2, "a layer of another shape");
  }
}

void config(Input input) {
  const auto parsed = parse_model_config({reinterpret_cast<const char*>(input.data()), input.size()});
  if (!parsed.ok()) return require(parsed.status().text()[0] != '\0', "a refusal without a word");
  require(check_config(parsed.value()).ok(), "a config that was read fails its own check");
  for (int i = 0; i < parsed->num_attention_layers(); ++i) {
    const auto layer = parsed->layer(i);
    require(layer.ok(), "a layer of a right config is refused");
    require(check_config(layer.value()).ok(), "a layer fails its own check");
    float frequencies[kMaxHeadDim / 2];
    require(rope_frequencies(layer->rope, frequencies).ok(), "a right rotation is refused");
    for (int k = 0; k < layer->rope.rope_dim / 2; ++k)
      require(std::isfinite(frequencies[k]), "a frequency that is no number");
    for (const Numerics numerics : {Numerics::exact, Numerics::served}) {
      const auto problem = layer_problem(layer.value(), numerics);
      if (problem.ok())
        require(check_problem(LayerProblem::spec(), "layer", &problem.value()).ok(), "an impossible problem");
    }
  }
}

}  // namespace fathom::fuzz
