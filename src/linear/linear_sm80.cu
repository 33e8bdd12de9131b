// linear on tensor cores, sm_80 and later: the skinny kernel for up to eight tokens, the panel kernel for up to 64, the tiled one for
// more (linear_tiled_sm80.cu).
#include "core/scratch.h"
#include "device/early_launch.cuh"
#include "linear/linear_impl.h"
#include "linear/linear_panel_kernel.cuh"
#include "linear/linear_skinny_kernel.cuh"
#include "linear/linear_tiled.h"

namespace fathom {
namespace {

using namespace linear_kernel;

using Kernel = void (*)(SkinnyLaunch);
struct Variant {
  LinearForm form;
  SkinnyTile tile;
  Kernel kernel;
};
template <LinearForm kForm, int kWarpsK>
constexpr Variant variant() {
  return {kForm, {kWarpsK}, skinny_kernel<kForm, kWarpsK>};
}
#define FATHOM_SKINNY_TILES(form) variant<LinearForm::form, 8>(), variant<LinearForm::form, 4>()
constexpr Variant kVariants[] = {FATHOM_SKINNY_TILES(codes), FATHOM_SKINNY_TILES(mixed), FATHOM_SKINNY_TILES(plain)};
#undef FATHOM_SKINNY_TILES

Kernel kernel_of(LinearForm form, const SkinnyTile& tile) {
  for (const Variant& variant : kVariants) {
    if (variant.form == form && variant.tile == tile) return variant.kernel;
  }
  return nullptr;
}

using PanelKernel = void (*)(PanelLaunch);
struct PanelVariant {
  bool is_e4m3;
  PanelTile tile;
  PanelKernel kernel;
};
template <bool kIsE4m3, int kWarps, int kRowTiles, int kTokenTiles>
constexpr PanelVariant panel_variant() {
  return {kIsE4m3, {kWarps, kRowTiles, kTokenTiles}, panel_kernel<kIsE4m3, kWarps, kRowTiles, kTokenTiles>};
}
#define FATHOM_PANEL_TILES(is_e4m3, warps) \
  panel_variant<is_e4m3, warps, 1, 2>(), panel_variant<is_e4m3, warps, 1, 4>(), panel_variant<is_e4m3, warps, 1, 8>()
constexpr PanelVariant kPanelVariants[] = {FATHOM_PANEL_TILES(true, 8), FATHOM_PANEL_TILES(true, 16),
                                           FATHOM_PANEL_TILES(false, 8), FATHOM_PANEL_TILES(false, 16),
                                           panel_variant<true, 8, 2, 4>()};
#undef FATHOM_PANEL_TILES

PanelKernel panel_kernel_of(bool is_e4m3, const PanelTile& tile) {
  for (const PanelVariant& variant : kPanelVariants) {
    if (variant.is_e4m3 == is_e4m3 && variant.tile == tile) return variant.kernel;
  }
  return nullptr;
}
bool is_e4m3(const LinearProblem& problem) { return problem.weight_dtype == DType::e4m3; }

/// What planning settles.
struct Settled {
  bool begins_early = false;  ///< the kernels on this device were compiled to wait for the launch before
};

struct Pieces {
  float* partials;
  std::byte* tiled;
};
/// The counters and partial sums that any number of tokens up to the plan's may take.
struct Shares {
  std::int64_t floats = 0, counters = 0;
};
Shares largest_shares(const LinearProblem& problem, const DeviceLimits& limits) {
  Shares shares;
  for (const std::int64_t tokens : {4, 8}) {
    const SkinnyPolicy policy = skinny_policy(problem, std::min<std::int64_t>(tokens, problem.num_tokens), limits);
    shares.floats = std::max(shares.floats, policy.scratch_floats());
    shares.counters = std::max<std::int64_t>(shares.counters, policy.splits > 1 ? policy.items() : 0);
  }
  if (problem.num_tokens <= kMostSkinnyTokens) return shares;
  // A tile's parts of K do not depend on how many tokens it has; the most tokens that are left to the panel kernel have
  // the most tiles.
  std::int64_t most = std::min<std::int64_t>(64, problem.num_tokens);
  while (most < problem.num_tokens && !takes_tiles(problem, most + 1, limits)) most = std::min<std::int64_t>(most + 64, problem.num_tokens);
  for (const std::int64_t tokens : {std::int64_t{16}, std::int64_t{32}, most}) {
    const PanelPolicy policy = panel_policy(problem, std::min(tokens, most), limits);
    if (policy.splits == 1) continue;
    shares.floats = std::max(shares.floats, policy.tiles(problem.groups) * policy.splits * policy.tile.sums());
    shares.counters = std::max(shares.counters, policy.tiles(problem.groups));
  }
  return shares;
}
Pieces lay_out(const LinearProblem& problem, const DeviceLimits& limits, Scratch& scratch) {
  const std::int64_t floats = largest_shares(problem, limits).floats;
  return {scratch.take<float>(floats), scratch.take<std::byte>(tiled_scratch_bytes(problem))};
}

bool is_aligned(const TensorView& tensor) {
  const std::int64_t row = tensor.shape[0] > 1 ? bytes_of(tensor.dtype, tensor.strides[0]) : 0;
  return reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 && row % 16 == 0;
}

Status launch_skinny(const LinearProblem& problem, const LinearArgs& args, const RunContext& context, float* partials) {
  const DeviceLimits& limits = context.device.limits();
  const LinearForm form = form_of(problem);
  const SkinnyPolicy policy = skinny_policy(problem, args.x.shape[0], limits);
  SkinnyLaunch launched{};
  launched.problem = problem;
  launched.args = args;
  launched.items = skinny_items(problem, policy);
  launched.partials = reinterpret_cast<float4*>(partials);
  launched.counters = static_cast<std::int32_t*>(context.workspace.counters.data);
  launched.begins_early = static_cast<const Settled*>(context.state)->begins_early;
  const Kernel kernel = kernel_of(form, policy.tile);
  return launch_early(launched.begins_early, "linear", context, kernel, dim3(policy.blocks), dim3(SkinnyTile::kThreads),
                      policy.tile.shared_bytes(form), launched);
}

Status launch_panels(const LinearProblem& problem, const LinearArgs& args, const RunContext& context, float* partials) {
  const PanelPolicy policy = panel_policy(problem, args.x.shape[0], context.device.limits());
  PanelLaunch launched{};
  launched.problem = problem;
  launched.args = args;
  launched.work = panel_work(problem, policy);
  launched.panel_blocks = policy.panel_blocks;
  launched.partials = reinterpret_cast<float4*>(partials);
  launched.counters = static_cast<std::int32_t*>(context.workspace.counters.data);
  launched.begins_early = static_cast<const Settled*>(context.state)->begins_early;
  return launch_early(launched.begins_early, "linear", context, panel_kernel_of(is_e4m3(problem), policy.tile), dim3(policy.blocks),
                      dim3(policy.tile.threads()), policy.shared_bytes(), launched);
}

}  // namespace

Reason refuses_linear_sm80(const LinearProblem& problem, const Device&) {
  if (problem.weight_dtype == DType::f32) return "weights are f32, which tensor cores would round";
  if (problem.x_dtype == DType::f32 && problem.activation_quant == ActivationQuant::none) return "x is f32 and not quantised";
  if (bytes_of(problem.weight_dtype, problem.in_dim) % 16 != 0) return "a row of weights is no multiple of 16 bytes";
  if (problem.groups > 1 && problem.weight_dtype == DType::e4m3 && problem.out_dim % 16 != 0) {
    return "out_dim is no multiple of 16, so that groups begin inside a tile";
  }
  return {};
}

Result<Prepared> prepare_linear_sm80(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  auto settled = std::make_shared<Settled>();
  const LinearForm form = form_of(problem);
  for (const Variant& variant : kVariants) {
    if (variant.form != form || variant.tile.shared_bytes(form) > device.limits().shared_bytes_per_block) continue;
    FATHOM_TRY(allow_shared_bytes("linear", device, variant.kernel, variant.tile.shared_bytes(form)));
  }
  for (const PanelVariant& variant : kPanelVariants) {
    const DeviceLimits& limits = device.limits();
    if (variant.is_e4m3 != is_e4m3(problem) || variant.tile.most_blocks(limits) < 1) continue;
    FATHOM_TRY(allow_shared_bytes("linear", device, variant.kernel, variant.tile.shared_bytes(variant.tile.most_blocks(limits))));
  }
  FATHOM_ASSIGN(settled->begins_early, can_begin_early("linear", device, kernel_of(form, SkinnyTile{8})));
  FATHOM_TRY(prepare_tiled(problem, device));
  Scratch scratch;
  lay_out(problem, device.limits(), scratch);
  const std::int64_t counters = largest_shares(problem, device.limits()).counters;
  return Prepared{{.scratch = scratch.used(), .counters = counters * std::int64_t{sizeof(std::int32_t)}}, std::move(settled)};
}

Status linear_sm80(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  // Copies take 16 bytes. A view that begins elsewhere is rare and still right.
  if (!is_aligned(args.x) || !is_aligned(args.weight)) return linear_simt(problem, args, context);
  if (args.x.shape[0] == 0) return {};
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device.limits(), scratch);
  if (takes_tiles(problem, args.x.shape[0], context.device.limits())) return launch_tiled(problem, args, context, pieces.tiled);
  if (args.x.shape[0] > kMostSkinnyTokens) return launch_panels(problem, args, context, pieces.partials);
  return launch_skinny(problem, args, context, pieces.partials);
}

}  // namespace fathom
