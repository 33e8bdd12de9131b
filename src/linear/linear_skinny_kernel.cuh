// The skinny kernel of linear: few tokens, so the weights are what moves, and they move once, as they are stored.
//
// The tensor cores' product has the weights on its 16-row side and the tokens on its 8-column side. K may be numbered as one
// likes, as long as both sides do the same, so a lane copies 16 bytes of a row, keeps them, and they are its operands of
// several products: raw weights lie in a ring in shared memory that needs no barrier, because every lane reads back what it
// copied itself. x is quantised by the block into the very order of its fragments, up to 32 KiB at a time, and stays while the
// items in hand need no other: between such phases the warps go on without a barrier.
//
// warps_k warps of a block lie side by side along K, the others on rows. Per step a warp multiplies 16 rows x 128 elements
// of K; these 128 products per output are summed first, times the scales, then added to the sum (spec 0.5). Where K is
// split among blocks, the last block of a tile adds all parts in order: the sum never depends on timing.
#pragma once

#include "device/last_arriver.cuh"
#include "linear/linear_items.h"
#include "linear/linear_kernel.cuh"

namespace fathom::linear_kernel {

/// What a launch needs beside the op's arguments.
struct SkinnyLaunch {
  LinearProblem problem;
  LinearArgs args;
  SkinnyItems items;
  float4* partials;         ///< [items, tile fragments], where K is split
  std::int32_t* counters;   ///< [items], zero between runs; a tile's is its first item's
  bool begins_early;        ///< launched so that it may begin before the launch in front of it has ended
};

__device__ __forceinline__ void add(float4& sum, const float4& more) {
  sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
}

template <LinearForm kForm, int kWarpsK>
struct Skinny {
  static constexpr SkinnyTile kTile{kWarpsK};
  static constexpr int kWarps = SkinnyTile::kWarps, kThreads = SkinnyTile::kThreads, kBlockK = SkinnyTile::kBlockK;
  static constexpr int kRows = kTile.rows(), kTokens = kTile.tokens();
  static constexpr int kStages = kTile.stages(kForm), kStageBytes = kTile.stage_bytes(kForm);
  static constexpr bool kIsE4m3 = kForm != LinearForm::plain;
  static constexpr int kElementBytes = kIsE4m3 ? 1 : 2;
  static constexpr int kSlabs = kBlockK * kElementBytes / 64;  ///< of 64 bytes a row and step
  static constexpr int kPieces = 2 * kSlabs;                   ///< 16 bytes of a lane: rows g and g + 8 of each slab
  static constexpr int kPhaseBlocks = kTile.phase_blocks(kForm), kPhaseChunks = kPhaseBlocks / kWarpsK;
  static constexpr int kTasks = kPhaseBlocks * kTokens * kLanesPerBlock / kThreads;  ///< x lanes that a thread fills in a phase
  static constexpr int kTileFragments = kRows / 16 * 32;  ///< float4 of one tile
  static constexpr int kFragments = (kTileFragments + kThreads - 1) / kThreads;
  /// Pairs of elements in the order that the weights' decoder gives them.
  static constexpr bool kNaturalPairs = kForm == LinearForm::plain || (kForm == LinearForm::codes && kConvertsE4m3);
  static constexpr bool kLooksForNan = kForm == LinearForm::mixed || (kForm == LinearForm::codes && !kConvertsE4m3);
  static_assert(kTasks >= 1 && kStageBytes == kPieces * kThreads * 16 && kPhaseChunks >= 1);

  /// Whether the x of one item is the next one's too, and still there.
  static __device__ __forceinline__ bool keeps_x(const SkinnyPlace& now, const SkinnyPlace& next) {
    return next.group == now.group && next.token == now.token;
  }

  struct Lane {
    int lane, warp, g, t, warp_k, warp_m;
    __device__ Lane()
        : lane(threadIdx.x % 32), warp(threadIdx.x / 32), g(lane / 4), t(lane % 4), warp_k(warp % kWarpsK), warp_m(warp / kWarpsK) {}
  };

  /// Where the lane's weights are fetched: a few steps ahead of the products. Rows beyond the tile's last are read as the
  /// last one, their sums go nowhere; elements beyond the last are zeros, because a product of zero and a NaN is one.
  struct Fetcher {
    static constexpr int kStep = kBlockK * kElementBytes, kChunkBytes = kStep * kWarpsK;
    SkinnyPlace place;
    int chunks_left;
    int bytes_left;             ///< of the row, from the step's first on
    const std::byte* at[2];     ///< the lane's 16 bytes of the step's first slab, rows g and g + 8

    __device__ __forceinline__ void open(const SkinnyLaunch& launch, const Lane& me) {
      const int chunk = place.chunk_begin(launch.items), last = place.rows(launch.items) - 1;
      chunks_left = place.chunk_end(launch.items) - chunk;
      const int byte = (chunk * kWarpsK + me.warp_k) * kStep;
      bytes_left = launch.problem.in_dim * kElementBytes - byte;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        at[half] = static_cast<const std::byte*>(launch.args.weight.data) + byte + me.t * 16 +
                   (place.row(launch.items) + min(me.warp_m * 16 + me.g + 8 * half, last)) * launch.args.weight.strides[0] * kElementBytes;
      }
    }
    __device__ __forceinline__ void advance(const SkinnyLaunch& launch, const Lane& me, int item_end) {
      if (--chunks_left > 0) {
        at[0] += kChunkBytes, at[1] += kChunkBytes, bytes_left -= kChunkBytes;
        return;
      }
      place = place.next(launch.items);
      if (place.item < item_end) open(launch, me);
    }
    __device__ __forceinline__ void fetch(const SkinnyLaunch& launch, const Lane& me, std::byte* stage) const {
      std::byte* to = stage + me.warp * 512 + me.lane * 16;
      if (bytes_left >= kStep) {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) copy_line_part(to + piece * kWarps * 512, at[piece % 2] + piece / 2 * 64);
      } else {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
          const bool inside = piece / 2 * 64 + me.t * 16 < bytes_left;
          copy_or_zero(to + piece * kWarps * 512, inside ? at[piece % 2] + piece / 2 * 64 : launch.args.weight.data, inside);
        }
      }
    }
    __device__ __forceinline__ void prefetch(const Lane& me) const {
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        if (me.t % 2 == 0 && piece / 2 * 64 + me.t * 16 < bytes_left) prefetch_to_l2(at[piece % 2] + piece / 2 * 64);  // two lanes share a sector
      }
    }
  };

  /// Scale bytes of the warp's 16 rows, by chunk of K; null where the rows are beyond the tile's.
  static __device__ __forceinline__ const std::uint8_t* scale_row(const SkinnyLaunch& launch, const SkinnyPlace& place, const Lane& me) {
    if (!kIsE4m3 || me.warp_m * 16 >= place.rows(launch.items)) return nullptr;
    return launch.args.weight_scale.row<const std::uint8_t>((place.row(launch.items) + me.warp_m * 16) / kQuantBlock) + me.warp_k;
  }
  static __device__ __forceinline__ std::uint32_t scale_byte(const SkinnyLaunch& launch, const std::uint8_t* row, int chunk, const Lane& me) {
    return row != nullptr && (chunk * kWarpsK + me.warp_k) * kBlockK < launch.problem.in_dim ? row[chunk * kWarpsK] : 127;
  }

  /// A phase of x: the chunks from `chunk` to the end of its 32 KiB, as far as the item goes. Eight lanes own a block of 128
  /// elements of one token; all tasks of a thread are in the same block.
  struct PhaseTask {
    static constexpr unsigned kTokenStep = kThreads / kLanesPerBlock / kPhaseBlocks;
    unsigned lane_of_block, block, token;  ///< block in the phase; token of task 0
    __device__ __forceinline__ PhaseTask() {
      const unsigned pair = threadIdx.x / kLanesPerBlock;
      lane_of_block = threadIdx.x % kLanesPerBlock, block = pair % kPhaseBlocks, token = pair / kPhaseBlocks;
    }
  };
  static __device__ __forceinline__ void load_phase(const SkinnyLaunch& launch, const SkinnyPlace& place, int chunk, Lane16 (&x)[kTasks]) {
    const PhaseTask task;
    const int phase = chunk / kPhaseChunks, end = min(place.chunk_end(launch.items), (phase + 1) * kPhaseChunks);
    const int block = phase * kPhaseBlocks + static_cast<int>(task.block), k = block * kBlockK + static_cast<int>(task.lane_of_block) * kPerLane;
    const bool inside = block >= chunk * kWarpsK && block < end * kWarpsK;
    const auto load_all = [&]<class Element>(const Element* data, const auto& load_one) {
#pragma unroll
      for (int i = 0; i < kTasks; ++i) {
        const std::int64_t token = place.token + static_cast<int>(task.token + i * PhaseTask::kTokenStep);
        const bool is_there = inside && token < launch.args.x.shape[0];
        load_one(x[i], data + (token * launch.args.x.strides[0] + place.group * launch.problem.in_dim + k), is_there ? launch.problem.in_dim - k : 0);
      }
    };
    // Loads of one kind at a time: where the kinds meet in one loop, each waits for the one before.
    if (launch.args.x.dtype == DType::bf16) {
      load_all(static_cast<const bf16*>(launch.args.x.data), [](Lane16& to, const bf16* at, int left) { to.load_bf16(at, left); });
    } else {
      load_all(static_cast<const float*>(launch.args.x.data), [](Lane16& to, const float* at, int left) { to.load_f32(at, left); });
    }
  }
  /// The same, quantised, into shared memory in the order of the products' fragments.
  static __device__ __forceinline__ void store_phase(const SkinnyLaunch& launch, const SkinnyPlace& place, Lane16 (&x)[kTasks], std::byte* x_buffer,
                                                     float* scales) {
    const PhaseTask task;
    const bool quantises = launch.problem.activation_quant == ActivationQuant::e4m3_128;
#pragma unroll
    for (int i = 0; i < kTasks; ++i) {
      const unsigned token = task.token + i * PhaseTask::kTokenStep;
      float scale = 0;
      // Zero is code zero: where no token of the warp is one, there is nothing to quantise.
      if (quantises && __any_sync(kAllLanes, place.token + static_cast<int>(token) < launch.args.x.shape[0])) {
        if constexpr (kForm == LinearForm::codes) {
          scale = exp2_of(quantise_to_f16(x[i]));
        } else {
          quantise_and_back(x[i]);
        }
      }
      if (kForm == LinearForm::codes && task.lane_of_block == 0) scales[task.block * kTokens + token] = scale;
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) {
        // Eight elements are one lane's part of a quarter of the block: two products' worth.
        const unsigned eighth = 2 * task.lane_of_block + half;
        const unsigned quarter = kIsE4m3 ? eighth / 8 * 2 + half : eighth / 4, t = kIsE4m3 ? eighth / 2 % 4 : eighth % 4;
        const std::uint32_t* p = x[i].pairs + 4 * half;
        uint4 words = make_uint4(p[0], p[1], p[2], p[3]);
        if constexpr (!kNaturalPairs) {
          words = make_uint4(__byte_perm(p[0], p[1], 0x7632), __byte_perm(p[0], p[1], 0x5410), __byte_perm(p[2], p[3], 0x7632),
                             __byte_perm(p[2], p[3], 0x5410));
        }
        reinterpret_cast<uint4*>(x_buffer)[(task.block * 4 + quarter) * (4 * kTokens) + token * 4 + t] = words;
      }
    }
  }

  /// A warp's 16 rows x 128 elements of K times the block's tokens.
  /// `block` is the one of 128 elements inside the phase.
  static __device__ __forceinline__ void multiply(const Lane& me, const std::byte* stage, const std::byte* x, const float* scales,
                                                  int block, std::uint32_t scale, float (&sums)[4], std::uint32_t (&nans)[2]) {
    float dots[4] = {};
    const uint4* fragments = reinterpret_cast<const uint4*>(x) + block * 4 * (4 * kTokens) + me.g % kTokens * 4 + me.t;
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
      std::uint32_t raw[2][4];  // rows g and g + 8
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 words = *reinterpret_cast<const uint4*>(stage + ((2 * slab + half) * kWarps + me.warp) * 512 + me.lane * 16);
        raw[half][0] = words.x, raw[half][1] = words.y, raw[half][2] = words.z, raw[half][3] = words.w;
      }
      if constexpr (kLooksForNan) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (const std::uint32_t word : raw[half]) look_for_nan(nans[half], word);
        }
      }
#pragma unroll
      for (int quarter = 0; quarter < 4 / kSlabs; ++quarter) {
        std::uint32_t a[2][4];  // of two products
#pragma unroll
        for (int product = 0; product < 2; ++product) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if constexpr (kForm == LinearForm::codes) {
              decode_f16(raw[half][2 * quarter + product], a[product][half], a[product][half + 2]);
            } else if constexpr (kForm == LinearForm::mixed) {
              decode_bf16(raw[half][2 * quarter + product], a[product][half], a[product][half + 2]);
            } else {
              a[product][half] = raw[half][2 * product], a[product][half + 2] = raw[half][2 * product + 1];
            }
          }
        }
        const uint4 b = fragments[(slab * (4 / kSlabs) + quarter) * (4 * kTokens)];
        if constexpr (kForm == LinearForm::codes) {
          mma_f16(dots, a[0], b.x, b.y);
          mma_f16(dots, a[1], b.z, b.w);
        } else {
          mma::bf16_16x8x16(dots, a[0], b.x, b.y);
          mma::bf16_16x8x16(dots, a[1], b.z, b.w);
        }
      }
    }
    const float weight_scale = shifted_scale(scale, kForm == LinearForm::codes ? kF16Shift : kBf16Shift);
    if constexpr (kForm == LinearForm::codes) {
      const float2 x_scale = *reinterpret_cast<const float2*>(scales + block * kTokens + 2 * me.t % kTokens);
      sums[0] = fmaf(dots[0] * weight_scale, x_scale.x, sums[0]);
      sums[1] = fmaf(dots[1] * weight_scale, x_scale.y, sums[1]);
      sums[2] = fmaf(dots[2] * weight_scale, x_scale.x, sums[2]);
      sums[3] = fmaf(dots[3] * weight_scale, x_scale.y, sums[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = kForm == LinearForm::mixed ? fmaf(dots[i], weight_scale, sums[i]) : sums[i] + dots[i];
    }
  }

  /// A NaN among a row's codes makes the row's sums NaN.
  static __device__ __forceinline__ void mark_nans(float (&sums)[4], std::uint32_t (&nans)[2]) {
    if constexpr (kLooksForNan) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        std::uint32_t seen = nans[half];
        seen |= __shfl_xor_sync(kAllLanes, seen, 1);
        seen |= __shfl_xor_sync(kAllLanes, seen, 2);
        nans[half] = 0;
        if (!saw_nan(seen)) continue;
        sums[2 * half] = sums[2 * half + 1] = __uint_as_float(0x7fc00000u);
      }
    }
  }

  /// Which fragment of the tile this thread finishes as its i-th.
  static __device__ __forceinline__ int fragment_index(int i) { return i * kThreads + static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ void store_fragment(const SkinnyLaunch& launch, const SkinnyPlace& at, int index, const float4& sum) {
    const int lane = index % 32, m = index / 32;
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = m * 16 + lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      const std::int64_t token = at.token + column;
      if (row < at.rows(launch.items) && column < kTokens && token < launch.args.x.shape[0]) {
        store_element(launch.args.out, token * launch.args.out.strides[0] + at.row(launch.items) + row, values[i]);
      }
    }
  }

  /// The end of an item: sums of the warps along K, of the blocks along K, and out. Nobody reads `exchange` any more.
  static __device__ __forceinline__ void finish(const SkinnyLaunch& launch, const SkinnyPlace& at, const Lane& me, float (&sums)[4],
                                                std::byte* exchange) {
    float4 fragments[kFragments];
    auto* parts = reinterpret_cast<float4*>(exchange);  // [warps_k, tile fragments]
    parts[me.warp_k * kTileFragments + me.warp_m * 32 + me.lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      const int index = fragment_index(i);
      if (index >= kTileFragments) continue;
      float4 sum = parts[index];
#pragma unroll
      for (int part = 1; part < kWarpsK; ++part) add(sum, parts[part * kTileFragments + index]);
      fragments[i] = sum;
    }
    const int splits = launch.items.splits;
    bool stores = true;
    if (splits > 1) {
      __shared__ bool is_last;
      const int first_item = at.item - at.split;  // of the tile, which has its first item's counter
#pragma unroll
      for (int i = 0; i < kFragments; ++i) {
        const int index = fragment_index(i);
        if (index < kTileFragments) __stcg(launch.partials + std::int64_t{at.item} * kTileFragments + index, fragments[i]);
      }
      stores = is_last_block(launch.counters + first_item, splits, is_last);
      if (stores) {
        const float4* all = launch.partials + std::int64_t{first_item} * kTileFragments;
        // Four parts of two fragments are on the way at a time; the additions keep their order.
        constexpr int kParts = 4, kTogether = kFragments < 2 ? 1 : 2;
#pragma unroll
        for (int i = 0; i < kFragments; i += kTogether) {
          float4 sum[kTogether] = {};
          for (int first = 0; first < splits; first += kParts) {
            float4 more[kTogether][kParts] = {};
#pragma unroll
            for (int at_once = 0; at_once < kTogether * kParts; ++at_once) {
              const int index = fragment_index(i + at_once / kParts), part = first + at_once % kParts;
              if (index < kTileFragments && part < splits) {
                more[at_once / kParts][at_once % kParts] = __ldcg(all + std::int64_t{part} * kTileFragments + index);
              }
            }
#pragma unroll
            for (int at_once = 0; at_once < kTogether * kParts; ++at_once) add(sum[at_once / kParts], more[at_once / kParts][at_once % kParts]);
          }
#pragma unroll
          for (int j = 0; j < kTogether; ++j) fragments[i + j] = sum[j];
        }
      }
    }
    if (stores) {
#pragma unroll
      for (int i = 0; i < kFragments; ++i) {
        const int index = fragment_index(i);
        if (index < kTileFragments) store_fragment(launch, at, index, fragments[i]);
      }
    }
  }

  static __device__ __forceinline__ void run(const SkinnyLaunch& launch) {
    extern __shared__ __align__(128) std::byte shared[];
    std::byte* const ring = shared;
    std::byte* const x_buffer = ring + kStages * kStageBytes;
    float* const x_scales = reinterpret_cast<float*>(x_buffer + kTile.x_bytes(kForm));
    std::byte* const exchange = reinterpret_cast<std::byte*>(x_scales + kPhaseBlocks * kTokens);
    const Lane me;
    const int block = static_cast<int>(blockIdx.x);
    const int item_begin = launch.items.item_begin(block), item_end = launch.items.item_begin(block + 1);
    Fetcher ahead;
    ahead.place = SkinnyPlace::at(launch.items, item_begin);
    SkinnyPlace now = ahead.place;
    ahead.open(launch, me);
    if (launch.begins_early) {
      // The weights themselves may be what the launch before writes: until it has ended they are only called into L2.
      Fetcher early = ahead;
      for (int stage = 0; stage < kStages - 1 && early.place.item < item_end; ++stage) {
        early.prefetch(me);
        early.advance(launch, me, item_end);
      }
    }
    let_next_launch_begin();
    wait_for_launch_before();

    int chunk = now.chunk_begin(launch.items);
    Lane16 x[kTasks];  // a phase of x on its way to shared memory: phase x_phase of item x_item
    int x_item = item_begin, x_phase = chunk / kPhaseChunks;
    load_phase(launch, now, chunk, x);
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) {
      if (ahead.place.item < item_end) {
        ahead.fetch(launch, me, ring + stage * kStageBytes);
        ahead.advance(launch, me, item_end);
      }
      copy::commit();
    }
    const std::uint8_t* scales_of_rows = scale_row(launch, now, me);
    std::uint32_t scale = scale_byte(launch, scales_of_rows, chunk, me);
    int phase = -1;  // the one of now's x that is in shared memory
    int stage = 0, parity = 0;
    float sums[4] = {};
    std::uint32_t nans[2] = {};
    while (now.item < item_end) {
      const int chunk_end = now.chunk_end(launch.items);
      std::uint32_t next_scale = 127;  // of the next item's first chunk, on its way while this one's products run
      if (const SkinnyPlace next = now.next(launch.items); next.item < item_end) {
        next_scale = scale_byte(launch, scale_row(launch, next, me), next.chunk_begin(launch.items), me);
      }
      for (; chunk < chunk_end; ++chunk) {
        if (ahead.place.item < item_end) {
          ahead.fetch(launch, me, ring + (stage == 0 ? kStages - 1 : stage - 1) * kStageBytes);
          ahead.advance(launch, me, item_end);
        }
        copy::commit();
        if (phase != chunk / kPhaseChunks) {
          phase = chunk / kPhaseChunks;
          if (x_item != now.item || x_phase != phase) load_phase(launch, now, chunk, x);
          __syncthreads();  // nobody reads the phase before any more
          store_phase(launch, now, x, x_buffer, x_scales);
          x_item = -1;
          if ((phase + 1) * kPhaseChunks < chunk_end) {
            load_phase(launch, now, (phase + 1) * kPhaseChunks, x);
            x_item = now.item, x_phase = phase + 1;
          } else if (const SkinnyPlace next = now.next(launch.items); next.item < item_end && !(phase == 0 && keeps_x(now, next))) {
            load_phase(launch, next, next.chunk_begin(launch.items), x);
            x_item = next.item, x_phase = next.chunk_begin(launch.items) / kPhaseChunks;
          }
          __syncthreads();
        }
        const bool is_last_chunk = chunk + 1 == chunk_end;
        std::uint32_t following = 127;
        if (!is_last_chunk) following = scale_byte(launch, scales_of_rows, chunk + 1, me);
        copy::wait<kStages - 1>();
        multiply(me, ring + stage * kStageBytes, x_buffer, x_scales, chunk % kPhaseChunks * kWarpsK + me.warp_k, scale, sums, nans);
        scale = is_last_chunk ? next_scale : following;  // not before the products: a load may still be on its way
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
      mark_nans(sums, nans);
      finish(launch, now, me, sums, exchange + parity * (kTile.exchange_bytes() / 2));
      parity ^= 1;
      sums[0] = sums[1] = sums[2] = sums[3] = 0;
      const SkinnyPlace next = now.next(launch.items);
      if (!keeps_x(now, next)) phase = -1;
      now = next;
      if (now.item < item_end) scales_of_rows = scale_row(launch, now, me);
      chunk = now.chunk_begin(launch.items);
    }
  }
};

template <LinearForm kForm, int kWarpsK>
__global__ void __launch_bounds__(SkinnyTile::kThreads, 2) skinny_kernel(const __grid_constant__ SkinnyLaunch launch) {
  Skinny<kForm, kWarpsK>::run(launch);
}

}  // namespace fathom::linear_kernel
