// Prefill: every token of a prompt through each attention layer of a checkpoint, in one step per layer.
//   prefill tests/golden/tiny
// The golden inputs come with the outputs they should give, so the example ends in a comparison.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "fathom/fathom.h"

using namespace fathom;

namespace {

struct Free {
  void operator()(void* block) const { std::free(block); }
};

/// Runs all `tokens` of `hidden` f32 [tokens, hidden_size] through one layer and returns its output.
Result<std::vector<float>> prefill(const LayerConfig& config, const Checkpoint& checkpoint, const Device& device,
                                   const TensorView& hidden) {
  const std::int64_t tokens = hidden.shape[0];
  FATHOM_ASSIGN(const LoadedLayer loaded, load_layer(checkpoint, config));
  FATHOM_ASSIGN(LayerProblem problem, layer_problem(config, Numerics::exact));
  problem.num_tokens = static_cast<std::int32_t>(tokens);
  loaded.describe(problem);
  problem.out_dtype = DType::f32;

  // Plan once; the same plan serves every step of at most `tokens` tokens.
  FATHOM_ASSIGN(const LayerPlan plan, plan_layer(problem, device));
  const WorkspaceSize size = plan.workspace_size();
  const std::unique_ptr<void, Free> block(std::aligned_alloc(kWorkspaceAlignment, size.total() + kWorkspaceAlignment));
  const Workspace workspace = carve_workspace(block.get(), size);
  FATHOM_TRY(init_workspace(plan, workspace));

  // The pool keeps the caches and knows which slot every token writes. An engine may bring its own.
  FATHOM_ASSIGN(const PagePoolOptions options, pool_options_for(problem, 1, tokens));
  FATHOM_ASSIGN(PagePool pool, PagePool::create(problem, options));
  FATHOM_ASSIGN(const int sequence, pool.add_sequence());

  std::vector<float> rope(tokens * config.rope_dim());
  std::vector<float> out(tokens * config.hidden_size);
  LayerArgs args;
  args.x = hidden;
  args.rope_table = view(rope.data(), DType::f32, {tokens, config.rope_dim()});
  FATHOM_TRY(fill_rope_table(config.rope, 0, args.rope_table));
  args.weights = loaded.weights;
  args.caches = pool.caches(0);
  args.out = view(out.data(), DType::f32, {tokens, config.hidden_size});
  FATHOM_ASSIGN(args.batch, pool.begin_step({{sequence}}, {{tokens}}));
  FATHOM_TRY(layer(plan, args, workspace));
  FATHOM_TRY(pool.commit());
  return out;
}

Status run(const std::string& folder) {
  FATHOM_ASSIGN(const ModelConfig model, read_model_config(folder + "/config.json"));
  FATHOM_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder + "/model.safetensors"));
  FATHOM_ASSIGN(const Checkpoint golden, Checkpoint::open(folder + "/expected_exact.safetensors"));
  FATHOM_ASSIGN(const Device device, Device::cpu());
  for (int i = 0; i < model.num_attention_layers(); ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    FATHOM_ASSIGN(const LayerConfig config, model.layer(i));
    FATHOM_ASSIGN(const FileTensor hidden, golden.tensor(prefix + "hidden"));
    FATHOM_ASSIGN(const FileTensor expected, golden.tensor(prefix + "output"));
    FATHOM_ASSIGN(const TensorView x, tensor_view(hidden));
    FATHOM_ASSIGN(const std::vector<float> out, prefill(config, checkpoint, device, x));

    const auto* want = reinterpret_cast<const float*>(expected.data);
    double error = 0, norm = 0;
    for (std::size_t k = 0; k < out.size(); ++k) {
      error += (out[k] - want[k]) * (out[k] - want[k]);
      norm += want[k] * want[k];
    }
    const double relative = std::sqrt(error / norm);
    std::printf("layer %d (%s): %lld tokens, relative L2 error %.1e\n", i, name_of(config.kind()),
                static_cast<long long>(x.shape[0]), relative);
    if (!(relative <= 1e-5)) return Status::make(StatusCode::device_error, "the output differs from the expected values");
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: prefill FOLDER\n"), 2;
  const Status status = run(argv[1]);
  if (!status.ok()) return std::fprintf(stderr, "prefill: %s\n", status.text()), 1;
  return 0;
}
