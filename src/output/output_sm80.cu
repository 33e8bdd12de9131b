// output on CUDA with bf16 heads: rotated back 16 bytes a lane, then two products through `linear`.
#include "device/mma.cuh"
#include "output/output_kernel.cuh"

namespace fathom {
namespace {

using namespace output_kernel;

constexpr int kWord = 8;  ///< bf16 in 16 bytes

/// A lane for each 16 bytes of a head, heads and tokens in order; a padding token's heads are zero.
__global__ void __launch_bounds__(kThreads) rotate_words_kernel(const __grid_constant__ OutputProblem problem,
                                                                const __grid_constant__ TensorView from,
                                                                const __grid_constant__ TensorView rope_table,
                                                                const __grid_constant__ TensorView positions, bf16* to) {
  const int words = problem.head_dim / kWord;
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, unit = at / words;
  if (unit >= from.shape[0] * problem.num_heads) return;
  const int column = static_cast<int>(at % words) * kWord;
  const std::int64_t t = unit / problem.num_heads, h = unit % problem.num_heads, position = positions.at<const std::int32_t>(t);
  uint4 word = make_uint4(0, 0, 0, 0);
  if (is_token(rope_table, position)) {
    const bf16* row = static_cast<const bf16*>(from.data) + t * from.strides[0] + h * from.strides[1];
    word = *reinterpret_cast<const uint4*>(row + column);
    const int rotated = column - (problem.head_dim - problem.rope_dim), half = problem.rope_dim / 2;
    if (rotated >= 0 && problem.attn_form == OutForm::plain) {
      std::uint32_t pairs[4] = {word.x, word.y, word.z, word.w};
      rotate_pairs(pairs, rope_row(rope_table, position) + rotated / 2, half, -1.f);
      word = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
  reinterpret_cast<uint4*>(to)[at] = word;
}

bool is_aligned(const TensorView& tensor) {
  bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0;
  for (int i = 0; i < 2; ++i) aligned = aligned && (tensor.shape[i] <= 1 || tensor.strides[i] % kWord == 0);
  return aligned;
}

}  // namespace

Reason refuses_output_sm80(const OutputProblem& problem, const Device&) {
  if (problem.numerics != Numerics::served) return "takes bf16 activations (numerics=served)";
  if (problem.head_dim % kWord != 0 || problem.rope_dim % kWord != 0) return "head_dim and rope_dim must be multiples of 8";
  return {};
}

Result<Prepared> prepare_output_sm80(const OutputProblem& problem, const Device& device, const PlanOptions& options) {
  return output_kernel::prepare(problem, device, options);
}

Status output_sm80(const OutputProblem& problem, const OutputArgs& args, const RunContext& context) {
  return output_kernel::run(problem, args, context, [&](const OutputArgs& part, const TensorView& heads) {
    if (!is_aligned(part.attn_out)) return rotate_elements(problem, part, heads, context);
    const unsigned blocks = blocks_for(part.attn_out.shape[0] * problem.num_heads * (problem.head_dim / kWord), kThreads);
    return launch("output", context, rotate_words_kernel, dim3(blocks), dim3(kThreads), 0, problem, part.attn_out, part.rope_table, part.positions,
                  static_cast<bf16*>(heads.data));
  });
}

}  // namespace fathom
