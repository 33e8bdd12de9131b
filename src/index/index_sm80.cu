// index on mma.sync, straight from pages of FP8 or FP4 keys.
//
// Keys are the rows of the products, (query token, head) the columns, so that the sum over heads stays inside a thread. A
// warp takes 32 keys at a time: it loads them from the cache into registers, one tile ahead of the products, widens them
// to 16 bits (exact: at most four significant bits, times a power of two) and meets them with every head of every query token
// of the block, which lie in shared memory as they enter the products. No key passes through shared memory, and warps
// wait for each other only when the block turns to other queries.
//
// Work is dealt at run time: every block counts the tiles of all tokens and takes an equal share of them, so that the grid
// does not depend on lengths. A score depends on its key and query alone: sums run in one order wherever a tile lies.
//
// Numbers. E4M3 codes become f16 where the target converts them. Elsewhere they become bf16 by moving bits, 2^120 too small
// (device/mma.cuh); queries are then stored 2^116 too large, and 2^4 is applied to the sum of heads with the key's scale.
// E2M1 codes become bf16 by moving bits, 2^126 too small, and the scales of keys and queries put that right as they are
// multiplied in.
#include "index/index_impl.h"
#include "index/index_score.cuh"

namespace fathom {
namespace {

using namespace index_score;

constexpr std::uint32_t kTwo116 = 0x79807980u, kTwo120 = 0x7b807b80u;  ///< pairs of bf16

template <CacheFormat kFormat, int kTokens, bool kAligned>
__global__ void __launch_bounds__(kThreads, 3) score_kernel(const __grid_constant__ IndexRun run, const __grid_constant__ RankRows rows,
                                                            std::int32_t num_tokens, std::int32_t segment, std::int32_t* bins) {
  constexpr bool kIsE4m3 = kFormat == CacheFormat::index_e4m3_f32, kMovesE4m3 = kIsE4m3 && !mma::kConvertsE4m3;
  extern __shared__ uint4 shared_q[];  // [kTokens][head tiles][4][32 lanes], then the weights and the bins, where there are bins
  __shared__ std::int32_t counted[kTokens];  // entries of each token that are counted
  let_next_launch_begin();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int heads = run.problem.index_heads, head_tiles = padded_index_heads(heads) / 8;
  auto* weights = reinterpret_cast<float*>(shared_q + kTokens * head_tiles * 128);

  std::int32_t* const own_bins = reinterpret_cast<std::int32_t*>(weights + kTokens * head_tiles * 8);
  if (bins != nullptr) {
    for (int i = threadIdx.x; i < kTokens * select::kBins; i += kThreads) own_bins[i] = 0;
  }
  const Counts counts{counted, own_bins, bins};

  // Lane's own key of a tile is key g + 8c.
  const auto place_of = [&](std::int32_t seq, std::int32_t tile, std::int32_t tiles) -> IndexRun::Place {
    if (tile >= tiles) return {-1, 0};
    return run.place(seq, static_cast<std::uint32_t>(tile * kTileKeys + g + 8 * c));
  };
  constexpr int kRowBytes = kIsE4m3 ? kDim : kDim / 2, kScaleBytes = 4;
  const std::int64_t scales_at = run.cache.page_size * kRowBytes;
  const auto page_of = [&](const IndexRun::Place& place) { return run.cache.pages + place.page * run.cache.page_stride; };
  // The scale of lane's own key: bits of an f32, or four UE8M0 bytes.
  const auto scale_of = [&](const IndexRun::Place& place) -> std::uint32_t {
    if (!run.holds(place)) return 0;
    const std::byte* at = page_of(place) + scales_at + place.row * kScaleBytes;
    if constexpr (kAligned) return __ldg(reinterpret_cast<const std::uint32_t*>(at));
    std::uint32_t bytes = 0;
    for (int b = 0; b < 4; ++b) bytes |= static_cast<std::uint32_t>(at[b]) << 8 * b;
    return bytes;
  };
  const auto load_keys = [&](Quarter<kFormat>(&keys)[4], const IndexRun::Place& place) {
    const auto own = !run.holds(place) ? 0 : reinterpret_cast<std::uintptr_t>(page_of(place) + place.row * kRowBytes);
    for (int j = 0; j < 4; ++j) {
      const auto row = __shfl_sync(kAllLanes, own, j, 4);
      load_quarter<kFormat, kAligned>(keys[j], reinterpret_cast<const std::byte*>(row), c);
    }
  };
  const auto load_queries = [&](const TokenRun& tokens) {
    for (int i = threadIdx.x; i < tokens.count * head_tiles * 32; i += kThreads) {
      const int token = i / (head_tiles * 32), h = i / 4 % (head_tiles * 8), quarter = i % 4;
      const std::int64_t t = rows.first + tokens.first + token;
      std::uint32_t pairs[kOwn] = {};
      Quarter<kFormat> raw;
      std::uint32_t scale = 0;
      const std::byte* row = nullptr;
      if (h < heads) {
        const std::int64_t at = t * run.args.q.strides[0] + h * run.args.q.strides[1];
        row = static_cast<const std::byte*>(run.args.q.data) + (kIsE4m3 ? at : at / 2);
        if constexpr (!kIsE4m3) scale = run.args.q_scale.row<const std::uint8_t>(t, h)[quarter];
      }
      load_quarter<kFormat, kAligned>(raw, row, quarter);
      widen(raw, scale, pairs);
      if constexpr (!kIsE4m3) {
        if (is_large(scale)) enlarge(scale, pairs);
      }
      if constexpr (kMovesE4m3) {
        for (std::uint32_t& pair : pairs) pair = mma::multiply_bf16x2(mma::multiply_bf16x2(pair, kTwo120), kTwo116);
      }
      uint4* to = shared_q + (token * head_tiles + h / 8) * 128 + h % 8 * 4 + quarter;
      for (int p = 0; p < 4; ++p) to[32 * p] = uint4{pairs[4 * p], pairs[4 * p + 1], pairs[4 * p + 2], pairs[4 * p + 3]};
    }
    if (bins != nullptr && threadIdx.x < tokens.count) {
      const std::int32_t visible = run.visible(rows.first + tokens.first + threadIdx.x);
      counted[threadIdx.x] = visible > segment ? visible : 0;
    }
    for (int i = threadIdx.x; i < tokens.count * head_tiles * 8; i += kThreads) {
      const int token = i / (head_tiles * 8), h = i % (head_tiles * 8);
      weights[i] = h < heads ? run.args.weights.row<const float>(rows.first + tokens.first + token)[h] : 0.0f;
    }
  };

  const auto score_run = [&](const TokenRun& tokens, std::int32_t begin, std::int32_t end) {
    const std::int32_t seq = tokens.seq;
    std::int32_t tile = begin + warp;
    Quarter<kFormat> keys[4];
    IndexRun::Place place = place_of(seq, tile, end), next = place_of(seq, tile + kWarps, end);
    load_keys(keys, place);
    std::uint32_t scale = scale_of(place);
    __syncthreads();  // the queries before are used up
    load_queries(tokens);
    __syncthreads();
    for (; tile < end; tile += kWarps) {
      const bool is_present = run.holds(place);
      float factor = 1;
      std::uint32_t a[4][kOwn];
      if constexpr (kIsE4m3) {
        factor = __uint_as_float(scale);
        // A negative scale turns the signs before the ReLU.
        const bool turns = factor < 0;
        factor = fabsf(factor);
        const bool any_turns = __any_sync(kAllLanes, turns);
        for (int j = 0; j < 4; ++j) {
          if (any_turns && __shfl_sync(kAllLanes, turns, j, 4)) {
            for (std::uint32_t& word : keys[j].words) word ^= 0x80808080u;
          }
          widen(keys[j], 0, a[j]);
        }
      } else {
        bool some_large = false;
        for (int b = 0; b < 4; ++b) some_large |= is_large(scale >> 8 * b & 0xffu);
        std::uint32_t block_scales[4];
        for (int j = 0; j < 4; ++j) {
          block_scales[j] = __shfl_sync(kAllLanes, scale, j, 4) >> 8 * c & 0xffu;
          widen(keys[j], block_scales[j], a[j]);
        }
        if (__any_sync(kAllLanes, some_large)) {
          for (int j = 0; j < 4; ++j) enlarge(block_scales[j], a[j]);
        }
      }
      place = next;
      load_keys(keys, place);
      scale = scale_of(place);
      next = place_of(seq, tile + 2 * kWarps, end);

      for (int token = 0; token < tokens.count; ++token) {
        float sums[4] = {};  // of keys g + 8j, over this lane's heads
        const uint4* q = shared_q + token * head_tiles * 128 + lane;
        const float* weight = weights + token * head_tiles * 8 + 2 * c;
        uint4 b[2] = {q[0], q[4 * 32]};  // a step ahead of the products
#pragma unroll 1
        for (int n = 0; n < head_tiles; n += 2) {
          float dots[2][2][4] = {};
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            const uint4 now[2] = {b[0], b[1]};
            q += p < 3 ? 32 : 160;
            if (p < 3 || n + 2 < head_tiles) b[0] = q[0], b[1] = q[4 * 32];
            // Products that wait for each other stand apart.
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
              for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                  const std::uint32_t* low = a[2 * m] + 4 * p + 2 * half;
                  const std::uint32_t* high = a[2 * m + 1] + 4 * p + 2 * half;
                  const std::uint32_t pairs[4] = {low[0], high[0], low[1], high[1]};
                  const std::uint32_t b0 = half == 0 ? now[i].x : now[i].z, b1 = half == 0 ? now[i].y : now[i].w;
                  if constexpr (kIsE4m3 && !kMovesE4m3) {
                    mma::f16_16x8x16(dots[i][m], pairs, b0, b1);
                  } else {
                    mma::bf16_16x8x16(dots[i][m], pairs, b0, b1);
                  }
                }
              }
            }
          }
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float2 w = *reinterpret_cast<const float2*>(weight + 8 * (n + i));
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const float* dot = dots[i][j / 2] + j % 2 * 2;
              sums[j] = fmaf(relu(dot[0]), w.x, sums[j]);
              sums[j] = fmaf(relu(dot[1]), w.y, sums[j]);
            }
          }
        }
        // Lane c of the four ends with the sum of key g + 8c over all heads; pairs are added in the same order for each key.
        const bool odd = c % 2 != 0, high = c / 2 != 0;
        const float low_pair = (odd ? sums[1] : sums[0]) + __shfl_xor_sync(kAllLanes, odd ? sums[0] : sums[1], 1);
        const float high_pair = (odd ? sums[3] : sums[2]) + __shfl_xor_sync(kAllLanes, odd ? sums[2] : sums[3], 1);
        const float sum = (high ? high_pair : low_pair) + __shfl_xor_sync(kAllLanes, high ? low_pair : high_pair, 2);
        const float score = kIsE4m3 ? (kMovesE4m3 ? sum * 16.0f : sum) * factor : sum;
        const std::int32_t entry = tile * kTileKeys + g + 8 * c;
        const std::uint32_t rank = is_present ? rank_of(score) : 0;
        rows.row(tokens.first + token)[entry] = rank;
        if (bins != nullptr && entry < counted[token] && is_present) {
          atomicAdd(own_bins + token * select::kBins + (rank >> select::kTopShift), 1);
        }
        const TensorView& scores = run.args.scores;
        if (!scores.is_absent() && entry < scores.shape[1]) {
          const std::int64_t t = rows.first + tokens.first + token;
          if (entry < run.visible(t)) scores.row<float>(t)[entry] = is_present ? score : -kInfinity;
        }
      }
    }
  };

  for_each_run<kTokens>(run, rows, num_tokens, [&](const TokenRun& tokens, std::int32_t begin, std::int32_t end) {
    score_run(tokens, begin, end);
    if (bins != nullptr) hand_in_counts(tokens, counts);
  });
}

using Kernel = void(IndexRun, RankRows, std::int32_t, std::int32_t, std::int32_t*);

template <CacheFormat kFormat, bool kAligned>
Kernel* kernel_of(int tokens_per_block) {
  return tokens_per_block == 4   ? score_kernel<kFormat, 4, kAligned>
         : tokens_per_block == 2 ? score_kernel<kFormat, 2, kAligned>
                                 : score_kernel<kFormat, 1, kAligned>;
}
template <CacheFormat kFormat>
Kernel* kernel_of(int tokens_per_block, bool is_aligned) {
  return is_aligned ? kernel_of<kFormat, true>(tokens_per_block) : kernel_of<kFormat, false>(tokens_per_block);
}
Kernel* kernel_of(CacheFormat format, int tokens_per_block, bool is_aligned) {
  return format == CacheFormat::index_e4m3_f32 ? kernel_of<CacheFormat::index_e4m3_f32>(tokens_per_block, is_aligned)
                                               : kernel_of<CacheFormat::index_e2m1_ue8m0>(tokens_per_block, is_aligned);
}

std::size_t shared_bytes(const IndexProblem& problem, const IndexPolicy& policy) {
  return static_cast<std::size_t>(score_shared_bytes(problem.index_heads, policy.tokens_per_block, policy.counts));
}

}  // namespace

Reason index_sm80_refuses(const IndexProblem& problem, const Device&) {
  if (problem.format == CacheFormat::index_f32) return "index_f32 keys are not products of small numbers: cuda:simt takes them";
  if (problem.index_dim != kDim) return "index_dim must be 128";
  return {};
}

Result<Prepared> prepare_index_sm80(const IndexProblem& problem, const Device& device, const PlanOptions&) {
  const IndexPolicy policy = index_policy(problem, device.limits());
  for (const bool aligned : {false, true}) {
    FATHOM_TRY(allow_shared_bytes("index", device, kernel_of(problem.format, policy.tokens_per_block, aligned), shared_bytes(problem, policy)));
  }
  return index_workspace(problem, device);
}

Status index_sm80(const IndexProblem& problem, const IndexArgs& args, const RunContext& context) {
  // Whoever asks for scores alone gets no picks, and nothing to count.
  const bool selects = !args.topk_entries.is_absent() || !args.topk_indices.is_absent();
  const bool counts = selects && index_policy(problem, context.device.limits()).counts;
  return run_index_chunks(problem, args, context, counts,
                          [&](const IndexRun& run, const RankRows& rows, std::int64_t count, const IndexPolicy& policy, std::int32_t* bins) {
    Kernel* const kernel = kernel_of(problem.format, policy.tokens_per_block, is_aligned(run));
    const std::int64_t most_tiles = count * (policy.row_width / kTileKeys);
    const dim3 grid(static_cast<unsigned>(std::min(policy.score_blocks, most_tiles)));
    return launch("index", context, kernel, grid, dim3(kThreads), shared_bytes(problem, policy), run, rows, static_cast<std::int32_t>(count),
                  static_cast<std::int32_t>(policy.select.segment), counts ? bins : nullptr);
  });
}

}  // namespace fathom
