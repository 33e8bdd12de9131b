// Decode: two sequences of different lengths advance together, one token each step, through one CSA layer.
//   decode_step tests/golden/tiny
// The layer runs in served numerics: bf16 activations, FP8 rows. Inputs are made up; what matters is the loop.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "fathom/fathom.h"

using namespace fathom;

namespace {

constexpr int kSteps = 4;

struct Free {
  void operator()(void* block) const { std::free(block); }
};

Status run(const std::string& folder) {
  FATHOM_ASSIGN(const ModelConfig model, read_model_config(folder + "/config.json"));
  FATHOM_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder + "/model.safetensors"));
  FATHOM_ASSIGN(const LayerConfig config, model.layer(1));
  FATHOM_ASSIGN(const LoadedLayer loaded, load_layer(checkpoint, config));
  FATHOM_ASSIGN(const Device device, Device::cpu());

  // Capacities: at most 48 tokens and 2 sequences in one step. Steps may bring fewer.
  const std::int64_t prompts[] = {40, 8};
  FATHOM_ASSIGN(LayerProblem problem, layer_problem(config, Numerics::served));
  problem.num_tokens = 48;
  problem.num_seqs = 2;
  loaded.describe(problem);
  FATHOM_ASSIGN(const LayerPlan plan, plan_layer(problem, device));
  const WorkspaceSize size = plan.workspace_size();
  const std::unique_ptr<void, Free> block(std::aligned_alloc(kWorkspaceAlignment, size.total() + kWorkspaceAlignment));
  const Workspace workspace = carve_workspace(block.get(), size);
  FATHOM_TRY(init_workspace(plan, workspace));

  FATHOM_ASSIGN(const PagePoolOptions options, pool_options_for(problem, 2, 64));
  FATHOM_ASSIGN(PagePool pool, PagePool::create(problem, options));
  FATHOM_ASSIGN(const int first, pool.add_sequence());
  FATHOM_ASSIGN(const int second, pool.add_sequence());
  const int sequences[] = {first, second};

  std::vector<float> rope(64 * config.rope_dim());
  std::vector<bf16> x(problem.num_tokens * config.hidden_size);
  std::vector<bf16> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = to_bf16(std::sin(0.37f * static_cast<float>(i)));

  LayerArgs args;
  args.rope_table = view(rope.data(), DType::f32, {64, config.rope_dim()});
  FATHOM_TRY(fill_rope_table(config.rope, 0, args.rope_table));
  args.weights = loaded.weights;
  args.caches = pool.caches(0);

  // Step 0 prefills both prompts at once; then one token for each sequence.
  for (int step = 0; step <= kSteps; ++step) {
    const std::int64_t ones[] = {1, 1};
    const auto& counts = step == 0 ? prompts : ones;
    const std::int64_t tokens = counts[0] + counts[1];
    args.x = view(x.data(), DType::bf16, {tokens, config.hidden_size});
    args.out = view(out.data(), DType::bf16, {tokens, config.hidden_size});
    FATHOM_ASSIGN(args.batch, pool.begin_step(sequences, counts));
    FATHOM_TRY(layer(plan, args, workspace));
    FATHOM_TRY(pool.commit());

    double norm = 0;
    for (std::int64_t i = 0; i < tokens * config.hidden_size; ++i) norm += to_f32(out[i]) * to_f32(out[i]);
    FATHOM_ASSIGN(const std::int64_t longer, pool.length(first));
    FATHOM_ASSIGN(const std::int64_t shorter, pool.length(second));
    std::printf("step %d: %2lld tokens, lengths %lld and %lld, |out| = %.3f\n", step, static_cast<long long>(tokens),
                static_cast<long long>(longer), static_cast<long long>(shorter), std::sqrt(norm));
    if (!std::isfinite(norm) || norm == 0) return Status::make(StatusCode::device_error, "the output is not finite");
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: decode_step FOLDER\n"), 2;
  const Status status = run(argv[1]);
  if (!status.ok()) return std::fprintf(stderr, "decode_step: %s\n", status.text()), 1;
  return 0;
}
