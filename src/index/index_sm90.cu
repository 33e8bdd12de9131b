// index on Hopper: the warpgroup's own products, straight from pages of FP4 keys. (FP8 keys are bound by memory, and
// the kernel for every device is as quick with them.)
//
// A block is one warpgroup and takes 64 keys at a time: the 64-row side of the products, each warp 16 of them, widened
// to bf16 in registers (exact, as index_sm80.cu does it). The heads, at most 64, are the columns: they lie in shared
// memory once for all four warps, which is what the kernel for every device spends its shared memory's bandwidth on.
// Raw keys are on their way several steps ahead, in a ring that each lane reads back alone. Work is dealt as there, and
// a score depends on its key and query alone.
#include "device/barrier.cuh"
#include "device/wgmma_by_width.cuh"
#include "index/index_impl.h"
#include "index/index_score.cuh"

namespace fathom {
namespace {

using namespace index_score;

constexpr int kHeads = 64, kGroupKeys = 64;  ///< columns and rows of a product
constexpr int kSlabBytes = kHeads * 128;     ///< 64 elements of every head
constexpr int kQueryBytes = 2 * kSlabBytes;  ///< of a token

constexpr CacheFormat kFormat = CacheFormat::index_e2m1_ue8m0;
constexpr int kRowBytes = kDim / 2, kScaleBytes = 4;

/// Keys on their way, of a warp: 16 of them a stage, a lane's 16 bytes of rows g and g + 8, and four scale bytes a key.
constexpr int kStages = 6, kStageBytes = 2 * 512 + 16 * kScaleBytes, kRingBytes = kWarps * kStages * kStageBytes;

/// Beside the queries, which lie on 1024 bytes: weights, the ring, the bins.
constexpr int shared_bytes_of(const IndexPolicy& policy) {
  return 1024 + policy.tokens_per_block * (kQueryBytes + kHeads * 4 + (policy.counts ? SelectPolicy::kBins * 4 : 0)) +
         kRingBytes;
}
constexpr int blocks_per_processor(int tokens) { return tokens == 1 ? 4 : 3; }

template <int kTokens>
__global__ void __launch_bounds__(kThreads, blocks_per_processor(kTokens))
    score_kernel(const __grid_constant__ IndexRun run, const __grid_constant__ RankRows rows, std::int32_t num_tokens,
                 std::int32_t segment, std::int32_t* bins) {
  extern __shared__ std::byte raw_shared[];
  __shared__ std::int32_t counted[kTokens];  // entries of each token that are counted
  let_next_launch_begin();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int heads = run.problem.index_heads;
  std::byte* const queries = raw_shared + (-copy::shared_address(raw_shared) & 1023u);
  auto* const weights = reinterpret_cast<float*>(queries + kTokens * kQueryBytes);
  std::byte* const ring = reinterpret_cast<std::byte*>(weights + kTokens * kHeads) + warp * kStages * kStageBytes;
  auto* const own_bins =
      reinterpret_cast<std::int32_t*>(reinterpret_cast<std::byte*>(weights + kTokens * kHeads) + kRingBytes);
  if (bins != nullptr) {
    for (int i = threadIdx.x; i < kTokens * select::kBins; i += kThreads) own_bins[i] = 0;
  }
  const Counts counts{counted, own_bins, bins};

  const std::int64_t scales_at = run.cache.page_size * kRowBytes;
  const auto page_of = [&](const IndexRun::Place& place) {
    return run.cache.pages + place.page * run.cache.page_stride;
  };

  const auto load_queries = [&](const TokenRun& tokens) {
    for (int i = threadIdx.x; i < tokens.count * kHeads * 4; i += kThreads) {
      const int token = i / (kHeads * 4), h = i / 4 % kHeads, quarter = i % 4;
      const std::int64_t t = rows.first + tokens.first + token;
      std::uint32_t pairs[kOwn] = {};
      Quarter<kFormat> raw;
      std::uint32_t scale = 0;
      const std::byte* row = nullptr;
      if (h < heads) {
        const std::int64_t at = t * run.args.q.strides[0] + h * run.args.q.strides[1];
        row = static_cast<const std::byte*>(run.args.q.data) + at / 2;
        scale = run.args.q_scale.row<const std::uint8_t>(t, h)[quarter];
      }
      load_quarter<kFormat, true>(raw, row, quarter);
      widen(raw, scale, pairs);
      if (is_large(scale)) enlarge(scale, pairs);
      // Where the products want what a key's lane of four has as its i-th pair.
      std::byte* to = queries + token * kQueryBytes;
#pragma unroll
      for (int pair = 0; pair < kOwn; ++pair) {
        const int step = pair / 2, chunk = step % 4 * 2 + pair % 2;
        *reinterpret_cast<std::uint32_t*>(to + step / 4 * kSlabBytes + wgmma::chunk_at(h, chunk) + quarter * 4) =
            pairs[pair];
      }
    }
    if (bins != nullptr && threadIdx.x < tokens.count) {
      const std::int32_t visible = run.visible(rows.first + tokens.first + threadIdx.x);
      counted[threadIdx.x] = visible > segment ? visible : 0;
    }
    for (int i = threadIdx.x; i < tokens.count * kHeads; i += kThreads) {
      const int token = i / kHeads, h = i % kHeads;
      weights[i] = h < heads ? run.args.weights.row<const float>(rows.first + tokens.first + token)[h] : 0.0f;
    }
    barrier::publish_to_tensor_cores();
  };

  const auto score_run = [&](const TokenRun& tokens, std::int32_t begin_tile, std::int32_t end_tile) {
    const std::int32_t end = end_tile * kTileKeys;
    // A lane's own key is that of its row c % 2: g, or g + 8. Lanes 2 and 3 of four repeat 0 and 1.
    std::int32_t entry = begin_tile * kTileKeys + warp * 16 + g + c % 2 * 8;
    const auto place_of = [&](std::int32_t of) {
      return of < end ? run.place(tokens.seq, static_cast<std::uint32_t>(of)) : IndexRun::Place{-1, 0};
    };
    IndexRun::Place place = place_of(entry);
    std::int32_t next_entry = entry + kGroupKeys;  // of the next place that is looked up
    std::uint32_t present = 0;                     // a bit for each step on its way, the last one lowest
    int to_stage = 0, stage = 0;
    const auto fetch = [&] {
      const bool is_held = run.holds(place);
      present = present << 1 | (is_held ? 1u : 0u);
      const auto own = is_held ? reinterpret_cast<std::uintptr_t>(page_of(place) + place.row * kRowBytes) : 0;
      std::byte* const to = ring + to_stage * kStageBytes;
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        const auto row = __shfl_sync(kAllLanes, own, low, 4);
        const auto* from =
            reinterpret_cast<const std::byte*>(row != 0 ? row : reinterpret_cast<std::uintptr_t>(run.cache.pages)) +
            16 * c;
        copy::async_or_zeros<16>(to + low * 512 + lane * 16, from, row != 0);
      }
      if (c < 2 && is_held) {
        copy::async<4>(to + 2 * 512 + (2 * g + c) * 4, page_of(place) + scales_at + place.row * kScaleBytes);
      }
      to_stage = to_stage + 1 == kStages ? 0 : to_stage + 1;
      place = place_of(next_entry);
      next_entry += kGroupKeys;
    };
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) {
      fetch();
      copy::commit();
    }
    __syncthreads();  // the queries before are used up
    load_queries(tokens);
    __syncthreads();
#pragma unroll 1
    for (std::int32_t base = begin_tile * kTileKeys; base < end; base += kGroupKeys, entry += kGroupKeys) {
      fetch();
      copy::commit();
      copy::wait<kStages - 1>();
      const std::byte* from = ring + stage * kStageBytes;
      stage = stage + 1 == kStages ? 0 : stage + 1;
      const bool is_present = (present >> (kStages - 1) & 1u) != 0;
      // Of the own key, which lanes 0 and 1 of four copied: four UE8M0 bytes.
      const std::uint32_t copied =
          is_present && c < 2 ? *reinterpret_cast<const std::uint32_t*>(from + 2 * 512 + (2 * g + c) * 4) : 0u;
      const std::uint32_t scale = __shfl_sync(kAllLanes, copied, c % 2, 4);
      std::uint32_t a[kSteps][4];
      bool some_large = false;
      std::uint32_t block_scales[2];
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        Quarter<kFormat> key;
        const uint4 words = *reinterpret_cast<const uint4*>(from + low * 512 + lane * 16);
        key.words[0] = words.x, key.words[1] = words.y, key.words[2] = words.z, key.words[3] = words.w;
        block_scales[low] = __shfl_sync(kAllLanes, scale, low, 4) >> 8 * c & 0xffu;
        some_large |= is_large(block_scales[low]);
        std::uint32_t pairs[kOwn];
        widen(key, block_scales[low], pairs);
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
          a[step][low] = pairs[2 * step], a[step][low + 2] = pairs[2 * step + 1];
      }
      if (__any_sync(kAllLanes, some_large)) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          const std::uint32_t factor = (is_large(block_scales[low]) ? block_scales[low] - 1 : 127u) << 7;
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            a[step][low] = mma::multiply_bf16x2(a[step][low], factor | factor << 16);
            a[step][low + 2] = mma::multiply_bf16x2(a[step][low + 2], factor | factor << 16);
          }
        }
      }

      for (int token = 0; token < tokens.count; ++token) {
        const std::uint64_t columns = wgmma::descriptor(queries + token * kQueryBytes, 16, 1024);
        float dots[kHeads / 2] = {};
        wgmma::fence();
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          wgmma::Product<kHeads>::add(dots, a[step], columns + ((step / 4 * kSlabBytes + step % 4 * 32) >> 4));
        }
        wgmma::commit();
        wgmma::wait<0>();
        wgmma::hold(dots);
        float sums[2] = {};  // of keys g and g + 8, over this lane's heads
        const float* weight = weights + token * kHeads + 2 * c;
#pragma unroll
        for (int n = 0; n < kHeads / 8; ++n) {
          const float2 w = *reinterpret_cast<const float2*>(weight + 8 * n);
#pragma unroll
          for (int low = 0; low < 2; ++low) {
            sums[low] = fmaf(relu(dots[4 * n + 2 * low]), w.x, sums[low]);
            sums[low] = fmaf(relu(dots[4 * n + 2 * low + 1]), w.y, sums[low]);
          }
        }
        // The lane ends with the sum of its own key over all heads; pairs are added in the same order for each key.
        const bool odd = c % 2 != 0;
        const float pair = (odd ? sums[1] : sums[0]) + __shfl_xor_sync(kAllLanes, odd ? sums[0] : sums[1], 1);
        const float sum = pair + __shfl_xor_sync(kAllLanes, pair, 2);
        if (c < 2 && entry < end) {
          const std::uint32_t rank = is_present ? rank_of(sum) : 0;
          rows.row(tokens.first + token)[entry] = rank;
          if (bins != nullptr && entry < counted[token] && is_present) {
            atomicAdd(own_bins + token * select::kBins + (rank >> select::kTopShift), 1);
          }
          const TensorView& scores = run.args.scores;
          if (!scores.is_absent() && entry < scores.shape[1]) {
            const std::int64_t t = rows.first + tokens.first + token;
            if (entry < run.visible(t)) scores.row<float>(t)[entry] = is_present ? sum : -kInfinity;
          }
        }
        __syncwarp();
      }
    }
    copy::wait<0>();  // what was fetched beyond the end
  };

  for_each_run<kTokens>(run, rows, num_tokens, [&](const TokenRun& tokens, std::int32_t begin, std::int32_t end) {
    score_run(tokens, begin, end);
    if (bins != nullptr) hand_in_counts(tokens, counts);
  });
}

using Kernel = void(IndexRun, RankRows, std::int32_t, std::int32_t, std::int32_t*);

Kernel* kernel_of(const IndexPolicy& policy) {
  return policy.tokens_per_block == 4   ? score_kernel<4>
         : policy.tokens_per_block == 2 ? score_kernel<2>
                                        : score_kernel<1>;
}

}  // namespace

Reason index_sm90_refuses(const IndexProblem& problem, const Device& device) {
  if (device.limits().compute_capability != 90) return "it needs compute capability 9.0";
  if (device.limits().shared_bytes_per_block < 227 * 1024) return "a block needs 227 KB of shared memory";
  if (problem.index_heads > kHeads) return "there are more than 64 heads";
  if (problem.format != kFormat) return "it reads index_e2m1_ue8m0 keys";
  return index_sm80_refuses(problem, device);
}

Result<Prepared> prepare_index_sm90(const IndexProblem& problem, const Device& device, const PlanOptions& options) {
  const IndexPolicy policy = index_policy(problem, device.limits());
  FATHOM_TRY(allow_shared_bytes("index", device, kernel_of(policy), shared_bytes_of(policy)));
  return prepare_index_sm80(problem, device, options);
}

Status index_sm90(const IndexProblem& problem, const IndexArgs& args, const RunContext& context) {
  FATHOM_ASSIGN(const IndexRun opened, open_index_run(problem, args));
  if (!is_aligned(opened)) return index_sm80(problem, args, context);
  // Whoever asks for scores alone gets no picks, and nothing to count.
  const bool selects = !args.topk_entries.is_absent() || !args.topk_indices.is_absent();
  const bool counts = selects && index_policy(problem, context.device.limits()).counts;
  return run_index_chunks(
      problem, args, context, counts,
      [&](const IndexRun& run, const RankRows& rows, std::int64_t count, const IndexPolicy& policy,
          std::int32_t* bins) {
        const int bytes = shared_bytes_of(policy),
                  fitting = (context.device.limits().shared_bytes_per_block + 1024) / (bytes + 1024);
        const std::int64_t blocks = std::int64_t{context.device.limits().num_multiprocessors} *
                                    std::clamp(fitting, 1, blocks_per_processor(policy.tokens_per_block));
        const std::int64_t most_tiles = count * (policy.row_width / kTileKeys);
        return launch("index", context, kernel_of(policy), dim3(static_cast<unsigned>(std::min(blocks, most_tiles))),
                      dim3(kThreads), bytes, run, rows, static_cast<std::int32_t>(count),
                      static_cast<std::int32_t>(policy.select.segment), counts ? bins : nullptr);
      });
}

}  // namespace fathom
