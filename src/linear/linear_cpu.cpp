// linear on the CPU: x is packed once for a tile of tokens; each thread then takes a strip of weight rows at a time, widens
// a block of K of it where the first cache holds it, and meets all tokens of the tile with it. Weights are read once, from
// where they are stored; widened they never leave the core. What is done with vectors is a LinearKernel's (linear_cpu.h).
#include "linear/linear_cpu.h"

#include "core/parallel.h"
#include "core/scratch.h"
#include "linear/linear_impl.h"
#include "simd/numbers.h"

namespace fathom {
namespace {

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// How a tile's outputs are dealt to threads: ranges of rows, and of tokens where there are few rows.
struct Parts {
  std::int64_t rows = 1, tokens = 1;
};
constexpr std::int64_t kLeastTokens = 64, kWantedRows = 256, kRowMultiple = 16, kTokenMultiple = 32;

Parts parts_of(std::int64_t out_width, std::int64_t tokens, int threads) {
  Parts parts{threads, 1};
  while (parts.rows % 2 == 0 && out_width < parts.rows * kWantedRows && tokens >= 2 * parts.tokens * kLeastTokens) {
    parts.rows /= 2, parts.tokens *= 2;
  }
  return parts;
}
/// Begin of range `part`, a multiple of `multiple`.
constexpr std::int64_t begin_of(std::int64_t count, std::int64_t part, std::int64_t parts, std::int64_t multiple) {
  return part == parts ? count : count / multiple * part / parts * multiple;
}

struct Pieces {
  float* rows;         ///< [threads, kPackTokens, kPackStride]: x on its way
  std::byte* x;        ///< [groups, blocks of K, padded tokens, block]
  std::byte* weights;  ///< [threads, strip, block]
  float* sums;         ///< [threads, strip, tokens, sums_per_output]
  float* out;          ///< [threads, tokens, strip]
  std::int64_t x_bytes_per_token, weights_bytes, sums_count, out_count;
};

Pieces lay_out(const LinearProblem& problem, const LinearKernel& kernel, const Device& device, Scratch& scratch) {
  const std::int64_t threads = device.num_threads();
  const std::int64_t most = std::max(1, std::min(problem.num_tokens, kernel.token_tile)), padded = kernel.padded_tokens(most);
  // Fewer tokens than the tile may take more rows at a time.
  const std::int64_t strip = std::max(kernel.strip_rows(1), kernel.strip_rows(most));
  const std::int64_t width = round_up(problem.in_dim, kernel.pad), block = std::min<std::int64_t>(width, kernel.block);
  Pieces pieces;
  pieces.x_bytes_per_token = width * kernel.element_bytes;
  pieces.weights_bytes = round_up(strip * block * kernel.element_bytes, kWorkspaceAlignment);
  pieces.sums_count = round_up(strip * padded * kernel.sums_per_output, kWorkspaceAlignment / 4);
  pieces.out_count = round_up(strip * padded, kWorkspaceAlignment / 4);
  pieces.rows = scratch.take<float>(threads * kPackTokens * kPackStride);
  pieces.x = scratch.take<std::byte>(padded * problem.groups * pieces.x_bytes_per_token);
  pieces.weights = scratch.take<std::byte>(threads * pieces.weights_bytes);
  pieces.sums = scratch.take<float>(threads * pieces.sums_count);
  pieces.out = scratch.take<float>(threads * pieces.out_count);
  return pieces;
}

/// One run's constants.
struct Run {
  const LinearProblem& problem;
  const LinearArgs& args;
  const LinearKernel& kernel;
  const Pieces& pieces;
  WeightRows weights;
  std::int64_t width;       ///< of a group of x, padded
  std::int64_t first, tile;  ///< tokens in hand

  std::byte* x_block(std::int64_t group, std::int64_t k) const {
    return pieces.x + (group * width + k) * kernel.element_bytes * kernel.padded_tokens(tile);
  }
  int block_at(std::int64_t k) const { return static_cast<int>(std::min<std::int64_t>(kernel.block, problem.in_dim - k)); }
};

/// Block `k` of group `g`, for kPackTokens tokens from `t` on.
void pack_block(const Run& run, std::int64_t t, std::int64_t g, std::int64_t k, float* rows) {
  const int count = run.block_at(k), num = static_cast<int>(std::min<std::int64_t>(kPackTokens, run.tile - t));
  for (int i = 0; i < num; ++i) {
    float* row = rows + std::int64_t{i} * kPackStride;
    simd::load_values(run.args.x, (run.first + t + i) * run.args.x.strides[0] + g * run.problem.in_dim + k, count, row);
    if (run.problem.activation_quant != ActivationQuant::none) simd::round_q8(row, count);
  }
  run.kernel.pack(rows, num, count, t, run.tile, run.x_block(g, k));
}

/// x of the tile, packed. Few elements are not worth another thread.
void pack_tile(const Run& run, const Device& device) {
  constexpr std::int64_t kLeastElements = 4096;
  const std::int64_t blocks = (run.problem.in_dim + run.kernel.block - 1) / run.kernel.block, per_chunk = run.problem.groups * blocks;
  const std::int64_t chunks = (run.tile + kPackTokens - 1) / kPackTokens;
  const std::int64_t elements = std::min<std::int64_t>(run.tile, kPackTokens) * std::min<std::int64_t>(run.problem.in_dim, run.kernel.block);
  parallel_for(device, chunks * per_chunk, (kLeastElements + elements - 1) / elements, [&](std::int64_t begin, std::int64_t end, int part) {
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t in_chunk = item % per_chunk;
      pack_block(run, item / per_chunk * kPackTokens, in_chunk / blocks, in_chunk % blocks * run.kernel.block,
                 run.pieces.rows + part * kPackTokens * kPackStride);
    }
  });
}

/// All outputs of rows [begin, end) for tokens [first, last) of the tile.
void multiply_part(const Run& run, std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last, std::int64_t part) {
  const LinearKernel& kernel = run.kernel;
  const std::int64_t in_dim = run.problem.in_dim, out_dim = run.problem.out_dim, strip = kernel.strip_rows(run.tile);
  std::byte* weights = run.pieces.weights + part * run.pieces.weights_bytes;
  float* sums = run.pieces.sums + part * run.pieces.sums_count;
  float* out = run.pieces.out + part * run.pieces.out_count;
  const float unit = run.weights.dtype == DType::e4m3 ? kernel.code_unit : 1.0f;
  for (std::int64_t n = begin; n < end;) {
    const std::int64_t group = n / out_dim;
    const int rows = static_cast<int>(std::min({strip, end - n, (group + 1) * out_dim - n}));
    const int padded = static_cast<int>(round_up(rows, kernel.row_multiple));
    for (std::int64_t k = 0; k < in_dim; k += kernel.block) {
      const int count = run.block_at(k);
      const std::int64_t block_bytes = bytes_of(run.weights.dtype, count);
      const bool is_last = k + count == in_dim;
      const std::int64_t ahead = is_last ? rows * run.weights.row_bytes - bytes_of(run.weights.dtype, k) : block_bytes;
      const WeightBlock here{n, k, rows, count, ahead};
      if (run.tile == 1 && kernel.stream != nullptr && kernel.stream(run.weights, here, weights, run.x_block(group, k), k == 0, sums)) continue;
      kernel.widen(run.weights, here, weights);
      kernel.multiply(weights, run.x_block(group, k), padded, static_cast<int>(round_up(count, kernel.pad)), first, last, run.tile, k == 0, sums);
    }
    kernel.finish(sums, rows, first, last, run.tile, unit, out);
    for (std::int64_t t = first; t < last; ++t) {
      simd::store_values(run.args.out, (run.first + t) * run.args.out.strides[0] + n, rows, out + (t - first) * rows);
    }
    n += rows;
  }
}

Result<Prepared> prepare(const LinearProblem& problem, const Device& device, const LinearKernel& kernel) {
  Scratch scratch;
  lay_out(problem, kernel, device, scratch);
  return Prepared{{.scratch = scratch.used()}, std::shared_ptr<const void>(std::shared_ptr<const void>(), &kernel)};
}

Status run_with(const LinearProblem& problem, const LinearArgs& args, const RunContext& context, const LinearKernel& kernel) {
  Scratch scratch(context.workspace.scratch);
  const Device& device = context.device;
  const Pieces pieces = lay_out(problem, kernel, device, scratch);
  Run run{problem, args, kernel, pieces, {}, round_up(problem.in_dim, kernel.pad), 0, 0};
  run.weights = {static_cast<const std::byte*>(args.weight.data), bytes_of(args.weight.dtype, args.weight.strides[0]), args.weight.dtype};
  if (run.weights.dtype == DType::e4m3) {
    run.weights.scales = static_cast<const std::uint8_t*>(args.weight_scale.data);
    run.weights.scale_stride = args.weight_scale.strides[0];
  }
  const std::int64_t num_tokens = args.x.shape[0], out_width = std::int64_t{problem.groups} * problem.out_dim;
  for (; run.first < num_tokens; run.first += run.tile) {
    run.tile = std::min<std::int64_t>(kernel.token_tile, num_tokens - run.first);
    pack_tile(run, device);
    const Parts parts = parts_of(out_width, run.tile, device.num_threads());
    parallel_for(device, parts.rows * parts.tokens, 1, [&](std::int64_t begin, std::int64_t end, int slot) {
      kernel.begin(run.tile);
      for (std::int64_t part = begin; part < end; ++part) {
        const std::int64_t row_part = part / parts.tokens, token_part = part % parts.tokens;
        multiply_part(run, begin_of(out_width, row_part, parts.rows, kRowMultiple), begin_of(out_width, row_part + 1, parts.rows, kRowMultiple),
                      begin_of(run.tile, token_part, parts.tokens, kTokenMultiple),
                      begin_of(run.tile, token_part + 1, parts.tokens, kTokenMultiple), slot);
      }
      kernel.end();
    });
  }
  return {};
}

}  // namespace

// What a plan was made with is what it runs with.
Result<Prepared> prepare_linear_cpu(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, linear_vectors());
}
Status linear_cpu(const LinearProblem& problem, const LinearArgs& args, const RunContext& context) {
  return run_with(problem, args, context, *static_cast<const LinearKernel*>(context.state));
}

#if defined(__x86_64__)
Result<Prepared> prepare_linear_avx2(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, linear_vectors_avx2());
}
Result<Prepared> prepare_linear_avx512(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, linear_vectors_avx512());
}
Result<Prepared> prepare_linear_avx512bf16(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, linear_avx512bf16());
}
Result<Prepared> prepare_linear_amx(const LinearProblem& problem, const Device& device, const PlanOptions&) {
  return prepare(problem, device, linear_amx());
}

Reason refuses_linear_bf16(const LinearProblem& problem, const Device&) {
  if (problem.weight_dtype == DType::f32) return "weights are f32, and it multiplies bf16";
  if (problem.x_dtype == DType::f32 && problem.activation_quant == ActivationQuant::none) return "x is f32 and not quantised, and it multiplies bf16";
  return {};
}
#endif

}  // namespace fathom
