// linear on the CPU: tokens in tiles, widened once; each thread owns a range of outputs, widens a few weight rows at a
// time and meets every token of the tile with them. An output is one fixed-order sum, whatever the tile.
#include "cache/number_codecs.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "linear/linear_impl.h"
#include "simd/words.h"

namespace fathom {
namespace {

constexpr std::int64_t kTokenTile = 256;  ///< tokens that share one pass over the weights
constexpr std::int64_t kWeightRows = 8;   ///< weight rows widened at a time, per thread
constexpr int kQuantBlock = 128;

struct Pieces {
  float* x;        ///< [kTokenTile or num_tokens, groups * in_dim]
  float* weights;  ///< [threads, kWeightRows, in_dim]
  float* out;      ///< [threads, kTokenTile, kWeightRows]
};

Pieces lay_out(const LinearProblem& problem, const Device& device, Scratch& scratch) {
  const std::int64_t tile = std::min<std::int64_t>(problem.num_tokens, kTokenTile);
  Pieces pieces;
  pieces.x = scratch.take<float>(tile * problem.groups * problem.in_dim);
  pieces.weights = scratch.take<float>(device.num_threads() * kWeightRows * problem.in_dim);
  pieces.out = scratch.take<float>(device.num_threads() * tile * kWeightRows);
  return pieces;
}

/// Q8 and back, in place: what the model sees of a quantised activation.
void fake_quantise(float* row, std::int64_t count) {
  std::uint8_t codes[kQuantBlock];
  for (std::int64_t k = 0; k < count; k += kQuantBlock) {
    const int block = static_cast<int>(std::min<std::int64_t>(kQuantBlock, count - k));
    const float scale = decode_ue8m0(quantise_q8(row + k, block, codes));
    dequantise_e4m3(codes, block, scale, row + k);
  }
}

/// Row n of the weight as f32, tile scales applied.
void widen_weight(const LinearArgs& args, std::int64_t n, std::int64_t in_dim, float* out) {
  if (args.weight.dtype != DType::e4m3) return load_row(args.weight, n * args.weight.strides[0], in_dim, out);
  const std::uint8_t* codes = args.weight.row<std::uint8_t>(n);
  const std::uint8_t* scales = args.weight_scale.row<std::uint8_t>(n / kQuantBlock);
  for (std::int64_t k = 0; k < in_dim; k += kQuantBlock) {
    const int block = static_cast<int>(std::min<std::int64_t>(kQuantBlock, in_dim - k));
    dequantise_e4m3(codes + k, block, decode_ue8m0(scales[k / kQuantBlock]), out + k);
  }
}

}  // namespace

Result<Prepared> prepare_linear_cpu(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  Scratch scratch;
  lay_out(problem, device, scratch);
  return Prepared{{.scratch = scratch.used()}};
}

Status linear_cpu(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  Scratch scratch(context.workspace.scratch);
  const Pieces pieces = lay_out(problem, context.device, scratch);
  const std::int64_t num_tokens = args.x.shape[0], in_dim = problem.in_dim, out_dim = problem.out_dim;
  const std::int64_t x_width = problem.groups * in_dim, out_width = problem.groups * out_dim;
  const std::int64_t tile_capacity = std::min<std::int64_t>(problem.num_tokens, kTokenTile);
  for (std::int64_t first = 0; first < num_tokens; first += kTokenTile) {
    const std::int64_t tile = std::min(kTokenTile, num_tokens - first);
    parallel_for(context.device, tile, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t t = begin; t < end; ++t) {
        float* row = pieces.x + t * x_width;
        load_row(args.x, (first + t) * args.x.strides[0], x_width, row);
        if (problem.activation_quant == ActivationQuant::none) continue;
        for (std::int64_t g = 0; g < problem.groups; ++g) fake_quantise(row + g * in_dim, in_dim);
      }
    });
    parallel_for(context.device, out_width, kWeightRows, [&](std::int64_t begin, std::int64_t end, int part) {
      float* weights = pieces.weights + part * kWeightRows * in_dim;
      float* out = pieces.out + part * tile_capacity * kWeightRows;
      for (std::int64_t n = begin; n < end;) {
        const std::int64_t group = n / out_dim;
        const std::int64_t rows = std::min({kWeightRows, end - n, (group + 1) * out_dim - n});
        for (std::int64_t i = 0; i < rows; ++i) widen_weight(args, n + i, in_dim, weights + i * in_dim);
        simd::dot_rows(pieces.x + group * in_dim, x_width, static_cast<int>(tile), weights, in_dim, static_cast<int>(rows),
                       in_dim, out, rows);
        for (std::int64_t t = 0; t < tile; ++t) store_row(args.out, (first + t) * args.out.strides[0] + n, rows, out + t * rows);
        n += rows;
      }
    });
  }
  return {};
}

}  // namespace fathom
