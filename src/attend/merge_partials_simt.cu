// merge_partials on CUDA: one warp for a (token, head), a lane for every 32nd element, parts in order.
#include "attend/merge_partials_impl.h"
#include "device/launch.h"
#include "device/rows.cuh"

namespace fathom {
namespace {

constexpr int kWarpsPerBlock = 8;

__device__ float part_lse(const MergePartialsArgs& args, int p, std::int64_t t, int h) {
  const float lse = args.partial_lse.row<float>(p, t)[h];
  return lse == kInfinity ? -kInfinity : lse;  // FlashMLA's word for a part that saw nothing
}

__global__ void __launch_bounds__(32 * kWarpsPerBlock) merge_kernel(const __grid_constant__ MergePartialsProblem problem,
                                                                    const __grid_constant__ MergePartialsArgs args) {
  const std::int64_t unit = std::int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / 32;
  if (unit >= args.out.shape[0] * problem.num_heads) return;
  const std::int64_t t = unit / problem.num_heads;
  const int h = static_cast<int>(unit % problem.num_heads), lane = threadIdx.x % 32;
  float most = -kInfinity, total = 0;
  bool seen = false;  // a part whose lse is NaN saw something, and poisons what it is merged with
  for (int p = 0; p < problem.num_partials; ++p) {
    most = fmaxf(most, part_lse(args, p, t, h));
    seen |= part_lse(args, p, t, h) != -kInfinity;
  }
  for (int p = 0; p < problem.num_partials; ++p) {
    const float lse = part_lse(args, p, t, h);
    if (lse != -kInfinity) total += expf(lse - most);
  }
  const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
  const float denominator = total + expf(sink - most);
  const bool empty = !seen || denominator == kInfinity;
  const std::int64_t from = t * args.partial_out.strides[1] + h * args.partial_out.strides[2];
  const std::int64_t to = t * args.out.strides[0] + h * args.out.strides[1];
  for (int c = lane; c < problem.value_dim; c += 32) {
    float sum = 0;
    for (int p = 0; p < problem.num_partials; ++p) {
      const float lse = part_lse(args, p, t, h);
      if (lse == -kInfinity) continue;  // whatever its values are, NaN included
      sum = fmaf(expf(lse - most), load_element(args.partial_out, p * args.partial_out.strides[0] + from + c), sum);
    }
    store_element(args.out, to + c, empty ? 0.0f : sum / denominator);
  }
  if (lane == 0 && !args.lse.is_absent()) args.lse.row<float>(t)[h] = seen ? most + logf(total) : -kInfinity;
}

}  // namespace

Status merge_partials_simt(const MergePartialsProblem& problem, const MergePartialsArgs& args, const RunContext& context) {
  const std::int64_t units = args.out.shape[0] * problem.num_heads;
  return launch("merge_partials", context, merge_kernel, dim3(blocks_for(units, kWarpsPerBlock)), dim3(32 * kWarpsPerBlock), 0, problem, args);
}

}  // namespace fathom
