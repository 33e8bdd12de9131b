// linear on Hopper: its kernels, their launch, and the choice between them and the ones for every device.
#include "core/scratch.h"
#include "linear/linear_impl.h"
#include "linear/linear_sm90_kernel.cuh"
#include "linear/linear_tiled.h"

namespace fathom {
namespace {

using namespace linear_sm90_kernel;

using Kernel = void (*)(Sm90Launch);
struct Variant {
  LinearSm90Tile tile;
  bool is_paired;
  Kernel kernel;
};
template <bool kIsE4m3, int kParts, int kTokens, bool kIsPaired>
constexpr Variant variant() {
  return {{kIsE4m3, kParts, kTokens}, kIsPaired, sm90_kernel<kIsE4m3, kParts, kTokens, kIsPaired>};
}
#define FATHOM_SM90_TILES(is_e4m3, is_paired)                                                                                  \
  variant<is_e4m3, 2, 128, is_paired>(), variant<is_e4m3, 1, 128, is_paired>(), variant<is_e4m3, 1, 64, is_paired>(),          \
      variant<is_e4m3, 1, 32, is_paired>()
constexpr Variant kVariants[] = {FATHOM_SM90_TILES(false, false), FATHOM_SM90_TILES(true, false), FATHOM_SM90_TILES(true, true)};
#undef FATHOM_SM90_TILES

Kernel kernel_of(const LinearSm90Tile& tile, bool is_paired) {
  for (const Variant& variant : kVariants) {
    if (variant.tile == tile && variant.is_paired == is_paired) return variant.kernel;
  }
  return nullptr;
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

std::int64_t quantised_bytes(const LinearProblem& problem) {
  return quantises(problem) ? bytes_of(DType::bf16, std::int64_t{problem.num_tokens} * problem.groups * problem.in_dim) : 0;
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
  prepared.workspace.scratch = std::max(prepared.workspace.scratch, quantised_bytes(problem));
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
  TensorView x = args.x;
  const bool is_paired = linear_sm90_pairs_x(problem);
  if (quantises(problem)) {
    const std::int64_t width = std::int64_t{problem.groups} * problem.in_dim;
    x = view(scratch.take<std::byte>(quantised_bytes(problem)), DType::bf16, {num_tokens, width}, DeviceKind::cuda);
  }
  Sm90Launch launched{};
  if (!describe(problem, args, x, policy.tile, settled.encode, launched)) return run_for_every_device(problem, args, context);
  launched.weight_scale = args.weight_scale;
  launched.out = args.out;
  launched.tiles = linear_sm90_tiles(problem, policy);
  launched.in_dim = problem.in_dim, launched.out_dim = problem.out_dim, launched.num_tokens = static_cast<std::int32_t>(num_tokens);
  launched.begins_early = settled.begins_early;
  const auto out_row = bytes_of(args.out.dtype, args.out.strides[0]), group_row = bytes_of(args.out.dtype, problem.out_dim);
  launched.stores_words = reinterpret_cast<std::uintptr_t>(args.out.data) % 16 == 0 && out_row % 16 == 0 && group_row % 16 == 0;
  if (quantises(problem)) {
    FATHOM_TRY(launch_quantise(problem, args.x, context, static_cast<std::byte*>(x.data), settled.begins_early, is_paired));
  }
  return launch_tiles(context, kernel_of(policy.tile, is_paired), policy, launched);
}

Status linear_hopper(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  const bool is_small = is_small_for_sm90(args.x.shape[0]);
  return is_small ? run_for_every_device(problem, args, context) : linear_sm90(problem, args, context);
}

}  // namespace fathom
