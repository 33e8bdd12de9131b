// linear on Hopper: its kernels, their launch, and the choice between them and the ones for every device.
#include "core/scratch.h"
#include "linear/linear_impl.h"
#include "linear/linear_kernel.cuh"
#include "linear/linear_sm90_kernel.cuh"
#include "linear/linear_tiled.h"

namespace fathom {
namespace {

using namespace linear_sm90_kernel;

using Kernel = void (*)(Sm90Launch);
struct Variant {
  LinearSm90Tile tile;
  LinearSm90X x;
  Kernel kernel;
};
template <bool kIsE4m3, int kParts, int kTokens, LinearSm90X kX>
constexpr Variant variant() {
  return {{kIsE4m3, kParts, kTokens}, kX, sm90_kernel<kIsE4m3, kParts, kTokens, kX>};
}
constexpr Variant kVariants[] = {
    variant<false, 1, 32, LinearSm90X::natural>(),  variant<false, 1, 64, LinearSm90X::natural>(), variant<false, 1, 128, LinearSm90X::natural>(),
    variant<false, 2, 128, LinearSm90X::natural>(), variant<true, 1, 32, LinearSm90X::scaled>(),   variant<true, 1, 64, LinearSm90X::scaled>(),
    variant<true, 1, 128, LinearSm90X::natural>(),  variant<true, 2, 128, LinearSm90X::natural>(), variant<true, 1, 128, LinearSm90X::paired>(),
    variant<true, 2, 128, LinearSm90X::paired>()};

Kernel kernel_of(const LinearSm90Tile& tile, LinearSm90X x) {
  for (const Variant& variant : kVariants) {
    if (variant.tile == tile && variant.x == x) return variant.kernel;
  }
  return nullptr;
}

constexpr int kScaleThreads = 256;

/// x as f16, paired, each 128 elements of a token divided by a power of two: its Q8 codes where it is quantised, otherwise so that
/// what f16 cannot hold is 2^-40 of the largest element and less. Tokens up to `padded_tokens` get a scale of zero.
__global__ void __launch_bounds__(kScaleThreads) scale_kernel(const __grid_constant__ LinearProblem problem, const __grid_constant__ TensorView x,
                                                              std::uint32_t* out, float* scales, const int blocks_per_row, const int padded_tokens) {
  using namespace linear_kernel;
  let_next_launch_begin();
  wait_for_launch_before();
  const std::int64_t block = (std::int64_t{blockIdx.x} * kScaleThreads + threadIdx.x) / kLanesPerBlock;
  const std::int64_t token = block / blocks_per_row;
  const int in_row = static_cast<int>(block % blocks_per_row), blocks_per_group = blocks_per_row / problem.groups;
  const int group = in_row / blocks_per_group, lane_of_block = threadIdx.x % kLanesPerBlock;
  const int k = in_row % blocks_per_group * kQuantBlock + lane_of_block * kPerLane;
  const bool is_token = token < x.shape[0];
  const std::int64_t column = std::int64_t{group} * problem.in_dim;
  Lane16 lane;
  lane.clear();
  if (is_token) lane.load(x, token * x.strides[0] + column, k, problem.in_dim);
  const float scale = problem.activation_quant == ActivationQuant::e4m3_128 ? exp2_of(quantise_to_f16(lane)) : scale_to_f16(lane);
  if (token < padded_tokens && lane_of_block == 0) scales[std::int64_t{in_row} * padded_tokens + token] = is_token ? scale : 0.0f;
  if (!is_token || k >= problem.in_dim) return;  // in_dim is a multiple of 16
  auto* row = reinterpret_cast<uint4*>(out + (token * problem.groups * problem.in_dim + column + k) / 2);
  row[0] = lane.alternate(0), row[1] = lane.alternate(1);
}

/// What planning settles.
struct Settled {
  std::shared_ptr<const void> for_every_device;  ///< of linear_sm80, which takes what this kernel cannot read
  tensor_copy::EncodeTiled encode = nullptr;
  bool begins_early = false;
};

Status run_for_every_device(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  const auto& settled = *static_cast<const Settled*>(context.state);
  return linear_sm80(problem, args, {context.device, context.workspace, context.stream, settled.for_every_device.get()});
}

/// Stride of a view's rows in elements; a single row's says nothing, but the copy engine wants one.
std::int64_t row_stride(const TensorView& tensor) {
  return tensor.shape[0] > 1 ? tensor.strides[0] : (tensor.shape[1] + 15) / 16 * 16;
}

bool describe(const LinearProblem& problem, const LinearArgs& args, const TensorView& x, const LinearSm90Tile& tile, tensor_copy::EncodeTiled encode,
              Sm90Launch& launched) {
  constexpr auto kBf16 = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const std::int64_t stride = row_stride(args.weight);
  const auto width = [&](std::int64_t elements) { return problem.groups > 1 ? elements : (elements + 15) / 16 * 16; };
  const tensor_copy::Matrix weight{args.weight.data, tile.is_e4m3 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : kBf16, tile.is_e4m3 ? 1 : 2, problem.in_dim,
                                   {problem.out_dim, stride, tile.rows()}, {problem.groups, stride * problem.out_dim, 1}};
  const tensor_copy::Matrix activations{x.data, kBf16, 2, problem.in_dim, {problem.groups, width(problem.in_dim), 1}, {x.shape[0], row_stride(x), tile.tokens}};
  return tensor_copy::describe(encode, weight, launched.weight) && tensor_copy::describe(encode, activations, launched.x);
}

Status launch_tiles(const RunContext& context, Kernel kernel, const LinearSm90Policy& policy, const Sm90Launch& launched) {
  const DeviceGuard guard(context.device.index());
  FATHOM_TRY(guard.status());
  cudaLaunchAttribute attributes[2] = {};
  int count = 0;
  if (launched.begins_early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (policy.splits > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(policy.splits), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(policy.blocks);
  config.blockDim = dim3(LinearSm90Tile::kThreads);
  config.dynamicSmemBytes = policy.tile.shared_bytes();
  config.stream = stream_of(context.stream);
  config.attrs = attributes;
  config.numAttrs = count;
  return cuda_status("linear", cudaLaunchKernelEx(&config, kernel, launched));
}

/// x of another kind, and its scales, for up to `num_tokens` tokens.
struct Pieces {
  std::byte* x;
  float* scales;
};
Pieces lay_out(const LinearProblem& problem, std::int64_t num_tokens, Scratch& scratch) {
  const std::int64_t blocks = std::int64_t{problem.groups} * ((problem.in_dim + 127) / 128);
  const std::int64_t most_padded = (num_tokens + 63) / 64 * 64;
  const bool is_e4m3 = problem.weight_dtype == DType::e4m3;
  const std::int64_t elements = is_e4m3 || quantises(problem) ? num_tokens * problem.groups * problem.in_dim : 0;
  return {scratch.take<std::byte>(2 * elements), scratch.take<float>(is_e4m3 ? blocks * most_padded : 0)};
}

bool is_aligned(const TensorView& tensor) {
  const std::int64_t row = tensor.shape[0] > 1 ? bytes_of(tensor.dtype, tensor.strides[0]) : 0;
  return reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 && row % 16 == 0;
}

}  // namespace

Reason refuses_linear_sm90(const LinearProblem& problem, const Device& device) {
  if (device.limits().compute_capability != 90) return "it needs compute capability 9.0";
  if (device.limits().shared_bytes_per_block < 227 * 1024) return "a block needs 227 KB of shared memory";
  return refuses_linear_sm80(problem, device);
}

Result<Prepared> prepare_linear_sm90(const LinearProblem& problem, const Device& device, const PlanOptions& options) {
  FATHOM_ASSIGN(Prepared prepared, prepare_linear_sm80(problem, device, options));
  auto settled = std::make_shared<Settled>();
  settled->for_every_device = std::move(prepared.state);
  settled->encode = tensor_copy::find_encoder();
  if (settled->encode == nullptr) return Status::unsupported("linear: the driver cannot describe tensors to the copy engine; cuda:sm80 does without");
  const bool is_e4m3 = problem.weight_dtype == DType::e4m3;
  for (const Variant& variant : kVariants) {
    if (variant.tile.is_e4m3 != is_e4m3) continue;
    // Two blocks share a multiprocessor only where all of its memory is theirs.
    const DeviceGuard guard(device.index());
    FATHOM_TRY(guard.status());
    FATHOM_CUDA_TRY("linear", cudaFuncSetAttribute(variant.kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
    FATHOM_TRY(allow_shared_bytes("linear", device, variant.kernel, variant.tile.shared_bytes()));
  }
  FATHOM_ASSIGN(settled->begins_early, can_quantise_early(device));
  Scratch scratch;
  lay_out(problem, problem.num_tokens, scratch);
  prepared.workspace.scratch = std::max(prepared.workspace.scratch, scratch.used());
  prepared.state = std::move(settled);
  return prepared;
}

Status linear_sm90(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  const auto& settled = *static_cast<const Settled*>(context.state);
  const std::int64_t num_tokens = args.x.shape[0];
  if (num_tokens == 0) return {};
  if (!is_aligned(args.x) || !is_aligned(args.weight)) return run_for_every_device(problem, args, context);
  const LinearSm90Policy policy = linear_sm90_policy(problem, num_tokens, context.device.limits());
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, num_tokens, scratch);
  const LinearSm90X order = linear_sm90_x(problem, policy.tile);
  const std::int64_t width = std::int64_t{problem.groups} * problem.in_dim;
  const bool is_made = quantises(problem) || order == LinearSm90X::scaled;
  const TensorView x = is_made ? view(pieces.x, DType::bf16, {num_tokens, width}, DeviceKind::cuda) : args.x;
  Sm90Launch launched{};
  if (!describe(problem, args, x, policy.tile, settled.encode, launched)) return run_for_every_device(problem, args, context);
  launched.weight_scale = args.weight_scale;
  launched.out = args.out;
  launched.tiles = linear_sm90_tiles(problem, policy);
  launched.in_dim = problem.in_dim, launched.out_dim = problem.out_dim, launched.num_tokens = static_cast<std::int32_t>(num_tokens);
  launched.begins_early = settled.begins_early;
  const auto out_row = bytes_of(args.out.dtype, args.out.strides[0]), group_row = bytes_of(args.out.dtype, problem.out_dim);
  launched.stores_words = reinterpret_cast<std::uintptr_t>(args.out.data) % 16 == 0 && out_row % 16 == 0 && group_row % 16 == 0;
  if (order == LinearSm90X::scaled) {
    launched.x_scales = pieces.scales;
    const int blocks_per_row = problem.groups * ((problem.in_dim + 127) / 128), padded = policy.token_tiles * policy.tile.tokens;
    const unsigned blocks = blocks_for(std::int64_t{padded} * blocks_per_row, kScaleThreads / linear_kernel::kLanesPerBlock);
    FATHOM_TRY(launch_early(settled.begins_early, "linear", context, scale_kernel, dim3(blocks), dim3(kScaleThreads), 0, problem, args.x,
                            reinterpret_cast<std::uint32_t*>(pieces.x), pieces.scales, blocks_per_row, padded));
  } else if (is_made) {
    FATHOM_TRY(launch_quantise(problem, args.x, context, pieces.x, settled.begins_early, order == LinearSm90X::paired));
  }
  return launch_tiles(context, kernel_of(policy.tile, order), policy, launched);
}

Status linear_hopper(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  const bool is_small = is_small_for_sm90(args.x.shape[0]);
  return is_small ? run_for_every_device(problem, args, context) : linear_sm90(problem, args, context);
}

}  // namespace fathom
