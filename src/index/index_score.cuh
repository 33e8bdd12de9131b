// What the scoring kernels of index on tensor cores share: rows of keys and queries as they lie in the cache, widened
// to 16 bits, and the tiles that a block takes.
#pragma once

#include "device/mma.cuh"
#include "index/index_kernel.cuh"

namespace fathom::index_score {

constexpr int kWarps = IndexPolicy::kScoreWarps, kThreads = 32 * kWarps;
constexpr int kDim = 128, kTileKeys = IndexPolicy::kTileKeys;
constexpr int kSteps = kDim / 16;   ///< products along the elements
constexpr int kOwn = kDim / 4 / 2;  ///< pairs of a row's elements that a lane of four holds
constexpr std::uint32_t kNanPair = 0x7fff7fffu;

/// A lane's quarter of a row as stored: E4M3 codes 16c .. 16c + 15 of both halves; or E2M1 codes 32c .. 32c + 31, one
/// block.
template <CacheFormat kFormat>
struct Quarter {
  static constexpr int kWords = kFormat == CacheFormat::index_e4m3_f32 ? 8 : 4;
  std::uint32_t words[kWords];
};

template <bool kAligned>
__device__ __forceinline__ void load_16(std::uint32_t* words, const std::byte* from) {
  if constexpr (kAligned) {
    const uint4 value = __ldg(reinterpret_cast<const uint4*>(from));
    words[0] = value.x, words[1] = value.y, words[2] = value.z, words[3] = value.w;
  } else {
    for (int i = 0; i < 4; ++i) {
      words[i] = 0;
      for (int b = 0; b < 4; ++b) words[i] |= static_cast<std::uint32_t>(from[4 * i + b]) << 8 * b;
    }
  }
}

/// Quarter c of the row at `row`; null reads as zeros.
template <CacheFormat kFormat, bool kAligned>
__device__ __forceinline__ void load_quarter(Quarter<kFormat>& quarter, const std::byte* row, int c) {
  for (std::uint32_t& word : quarter.words) word = 0;
  if (row == nullptr) return;
  load_16<kAligned>(quarter.words, row + 16 * c);
  if constexpr (kFormat == CacheFormat::index_e4m3_f32) load_16<kAligned>(quarter.words + 4, row + 64 + 16 * c);
}

/// A lane's elements as pairs of 16 bits; those of product s are out[2s] and out[2s + 1]. Keys and queries are widened
/// alike, so which element is paired with which does not matter. `scale` is the UE8M0 byte of the quarter's block, if
/// it has one.
__device__ __forceinline__ void widen(const Quarter<CacheFormat::index_e4m3_f32>& quarter, std::uint32_t,
                                      std::uint32_t (&out)[kOwn]) {
  std::uint32_t nan = 0;
  for (int s = 0; s < kSteps; ++s) {
    const std::uint32_t word = quarter.words[s];
    if constexpr (mma::kConvertsE4m3) {
      out[2 * s] = mma::f16x2_of_e4m3x2(static_cast<std::uint16_t>(word));
      out[2 * s + 1] = mma::f16x2_of_e4m3x2(static_cast<std::uint16_t>(word >> 16));
      continue;
    }
    nan |= mma::has_e4m3_nan(word);
    out[2 * s] = mma::place_e4m3_even(word);
    out[2 * s + 1] = mma::place_e4m3_odd(word);
  }
  if (nan != 0) out[0] = kNanPair;  // one is enough: the dot is NaN, whatever it is multiplied with
}
__device__ __forceinline__ void widen(const Quarter<CacheFormat::index_e2m1_ue8m0>& quarter, std::uint32_t scale,
                                      std::uint32_t (&out)[kOwn]) {
  // scale * 2^126 in bf16, or the largest power of two.
  const std::uint32_t factor = scale == kUe8m0Nan ? 0x7fffu : min(scale + 126, 254u) << 7;
  for (int i = 0; i < kOwn; ++i) {
    const int nibble = i % 4;  // of the low half; the pair's other code stands 16 bits above
    const std::uint32_t word = quarter.words[i / 4];
    const std::uint32_t sign = (word << (12 - 4 * nibble)) & 0x80008000u;
    const std::uint32_t magnitude = (nibble < 2 ? word << (6 - 4 * nibble) : word >> (4 * nibble - 6)) & 0x01c001c0u;
    out[i] = mma::multiply_bf16x2(sign | magnitude, factor | factor << 16);
  }
}
/// Scales above 2, of which `widen` leaves a part.
__device__ __forceinline__ bool is_large(std::uint32_t scale) { return scale > 128 && scale != kUe8m0Nan; }
__device__ __forceinline__ void enlarge(std::uint32_t scale, std::uint32_t (&out)[kOwn]) {
  const std::uint32_t factor = (is_large(scale) ? scale - 1 : 127u) << 7;
  for (std::uint32_t& pair : out) pair = mma::multiply_bf16x2(pair, factor | factor << 16);
}

/// max(value, 0) that keeps a NaN.
__device__ __forceinline__ float relu(float value) {
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
}

/// Neighbouring tokens of one sequence, and the tiles that any of them wants scored.
struct TokenRun {
  std::int32_t first, count, seq, tiles;  ///< first: of the chunk
};

/// The run that starts at `first` and ends before `end`, at most kTokens on.
template <int kTokens>
__device__ inline TokenRun run_at(const IndexRun& run, const RankRows& rows, std::int32_t first, std::int32_t end) {
  IndexRun::Sight sights[kTokens];
  for (int i = 0; i < kTokens; ++i)
    sights[i] = first + i < end ? run.sight(rows.first + first + i) : IndexRun::Sight{-2, 0};
  TokenRun tokens{first, 0, sights[0].seq, 0};
  for (int i = 0; i < kTokens; ++i) {
    if (tokens.count != i || sights[i].seq != tokens.seq) continue;
    ++tokens.count;
    tokens.tiles = max(tokens.tiles, (run.scored(sights[i].visible) + kTileKeys - 1) / kTileKeys);
  }
  return tokens;
}

/// The tiles [begin, end) that this block takes, out of all; they start in group `group`, before which lie `before`. A
/// chunk's ranks fit its scratch, so that tiles are far fewer than 2^31.
struct Share {
  std::int32_t begin, end, before, group;
};

template <int kTokens>
__device__ inline Share deal(const IndexRun& run, const RankRows& rows, std::int32_t num_tokens) {
  __shared__ std::int32_t warp_sums[kWarps], found[2];
  const std::int32_t groups = (num_tokens + kTokens - 1) / kTokens, per_thread = (groups + kThreads - 1) / kThreads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto tiles_of = [&](std::int32_t group) {
    std::int32_t tiles = 0;
    const std::int32_t end = min((group + 1) * kTokens, num_tokens);
    for (std::int32_t t = group * kTokens; t < end;) {
      const TokenRun tokens = run_at<kTokens>(run, rows, t, end);
      tiles += tokens.tiles, t += tokens.count;
    }
    return tiles;
  };
  const std::int32_t own_begin = min(static_cast<std::int32_t>(threadIdx.x) * per_thread, groups);
  const std::int32_t own_end = min(own_begin + per_thread, groups);
  std::int32_t own = 0;
  for (std::int32_t group = own_begin; group < own_end; ++group) own += tiles_of(group);
  std::int32_t through = own;
  for (int d = 1; d < 32; d *= 2) {
    const std::int32_t other = __shfl_up_sync(kAllLanes, through, d);
    if (lane >= d) through += other;
  }
  if (lane == 31) warp_sums[warp] = through;
  __syncthreads();
  std::int32_t total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) through += warp_sums[w];
    total += warp_sums[w];
  }
  const auto blocks = static_cast<std::int32_t>(gridDim.x), block = static_cast<std::int32_t>(blockIdx.x);
  const std::int32_t each = total / blocks, more = total % blocks;
  Share share;
  share.begin = block * each + min(block, more), share.end = share.begin + each + (block < more ? 1 : 0);
  if (through > share.begin && through - own <= share.begin) {  // one thread, unless there is nothing
    std::int32_t before = through - own, group = own_begin;
    if (own_end - own_begin > 1) {
      for (std::int32_t tiles; before + (tiles = tiles_of(group)) <= share.begin; ++group) before += tiles;
    }
    found[0] = group, found[1] = before;
  }
  __syncthreads();
  share.group = found[0], share.before = found[1];
  return share;
}

/// Calls work(tokens, begin, end) for the runs and tiles of this block's share, in order.
template <int kTokens, class Work>
__device__ __forceinline__ void for_each_run(const IndexRun& run, const RankRows& rows, std::int32_t num_tokens,
                                             Work&& work) {
  const Share share = deal<kTokens>(run, rows, num_tokens);
  std::int32_t before = share.before;
  for (std::int32_t group = share.group; before < share.end && share.begin < share.end; ++group) {
    const std::int32_t group_end = min((group + 1) * kTokens, num_tokens);
    for (std::int32_t t = group * kTokens; t < group_end;) {
      const TokenRun tokens = run_at<kTokens>(run, rows, t, group_end);
      const std::int32_t begin = max(share.begin, before) - before,
                         end = min(share.end, before + tokens.tiles) - before;
      if (begin < end) work(tokens, begin, end);
      before += tokens.tiles, t += tokens.count;
    }
  }
}

/// A block's part in the selection's first count.
struct Counts {
  std::int32_t* counted;  ///< [tokens], in shared memory: entries of each token that are counted
  std::int32_t* own;      ///< [tokens, bins], in shared memory
  std::int32_t* bins;     ///< [tokens of the chunk, bins]; null: nobody counts
};

/// Adds the block's counts to those of the tokens.
__device__ __forceinline__ void hand_in_counts(const TokenRun& tokens, const Counts& counts) {
  __syncthreads();
  for (int token = 0; token < tokens.count; ++token) {
    if (counts.counted[token] == 0) continue;
    for (int b = threadIdx.x; b < select::kBins; b += kThreads) {
      std::int32_t& own = counts.own[token * select::kBins + b];
      if (own == 0) continue;
      atomicAdd(counts.bins + std::int64_t{tokens.first + token} * select::kBins + b, own);
      own = 0;
    }
  }
}

/// Every row of keys, scales and queries starts where 16 (scales: 4) bytes can be loaded at once.
inline bool is_aligned(const IndexRun& run) {
  const TensorView& q = run.args.q;
  const std::uintptr_t bases =
      reinterpret_cast<std::uintptr_t>(run.cache.pages) | reinterpret_cast<std::uintptr_t>(q.data);
  const std::int64_t q_strides = bytes_of(q.dtype, q.strides[0]) | bytes_of(q.dtype, q.strides[1]);
  return (bases | static_cast<std::uintptr_t>(run.cache.page_stride | q_strides)) % 16 == 0;
}

}  // namespace fathom::index_score
