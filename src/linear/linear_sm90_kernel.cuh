// linear on Hopper. One warp has the copy engine bring steps of weights, as they are stored, and of x into a ring in
// shared memory; two warpgroups multiply. E4M3 rows become operands in registers: with many tokens bf16, tile scale
// included; with few tokens f16 codes, and both scales go to each sum over 128 elements (all of that is exact). bf16
// rows are operands as they lie. The weights are the product's 64-row side, the tokens its columns, so few tokens cost
// few columns.
//
// K may be shared among the blocks of a cluster: each leaves its sums in its shared memory, and each adds up a part of
// all, in the blocks' order, so that no result depends on timing.
#pragma once

#include "device/barrier.cuh"
#include "device/cluster.cuh"
#include "device/early_launch.cuh"
#include "device/mma.cuh"
#include "device/rows.cuh"
#include "device/tensor_copy.cuh"
#include "device/wgmma_by_width.cuh"
#include "linear/linear_sm90_policy.h"

namespace fathom::linear_sm90_kernel {

struct Sm90Launch {
  CUtensorMap weight, x;
  TensorView weight_scale, out;
  LinearSm90Tiles tiles;
  const float* x_scales;  ///< [groups, steps, padded tokens], where x is scaled
  std::int32_t in_dim, out_dim, num_tokens;
  bool begins_early;
  bool stores_words;  ///< out may be written 16 bytes at a time
};

constexpr int kGroupThreads = 128, kConsumers = 2 * kGroupThreads;

template <bool kIsE4m3, int kParts, int kTokens, LinearSm90X kX>
struct Sm90 {
  static constexpr LinearSm90Tile kTile{kIsE4m3, kParts, kTokens};
  static constexpr int kStages = kTile.stages(), kStageBytes = kTile.stage_bytes(), kWeightBytes = kTile.weight_bytes();
  static constexpr int kSums = kTokens / 2;  ///< of a thread and part
  static constexpr int kQuads = kParts * kSums / 4;
  static constexpr bool kIsPaired = kX != LinearSm90X::natural, kIsScaled = kX == LinearSm90X::scaled;
  /// What a thread has at the beginning: 168 registers alone on a multiprocessor, 80 with another block.
  static constexpr bool kTradesRegisters = kTokens != 64;
  static constexpr int kProducerRegisters = kTokens == 128 ? 40 : 32, kConsumerRegisters = kTokens == 128 ? 232 : 104;
  static constexpr int kScaleBytes = kIsScaled ? kTokens * 4 : 0;  ///< of x, a step
  static constexpr int kCalledEarly = 8;                           ///< steps of weights
  static constexpr int kSlabBytes = kTokens * LinearSm90Tile::kStepBytes;
  static_assert(kStages >= 2 && kTile.rows() * kTokens * 4 <= kStages * kStageBytes,
                "a cluster's sums go where the ring was");

  struct Shared {
    std::byte* ring;
    std::byte* staging;
    float* x_scales;
    std::uint64_t *full, *empty;

    __device__ explicit Shared(std::byte* raw) {
      ring = raw + (-copy::shared_address(raw) & 1023u);
      staging = ring + kStages * kStageBytes;
      x_scales = reinterpret_cast<float*>(staging + kTile.staging_bytes());
      full = reinterpret_cast<std::uint64_t*>(x_scales + kStages * kScaleBytes / 4);
      empty = full + kStages;
    }
  };
  struct Stage {
    int at = 0;
    std::uint32_t parity = 0;
    __device__ __forceinline__ void advance() {
      if (++at == kStages) at = 0, parity ^= 1;
    }
  };

  /// The tiles of this block: its cluster's place in the row of clusters first, then round and round.
  struct Walk {
    int tile, stride, split;
    __device__ explicit Walk(const LinearSm90Tiles& tiles)
        : tile(blockIdx.x / tiles.splits), stride(gridDim.x / tiles.splits), split(blockIdx.x % tiles.splits) {}
  };

  static __device__ __forceinline__ void produce(const Sm90Launch& launch, const Shared& shared) {
    const LinearSm90Tiles& tiles = launch.tiles;
    const Walk walk(tiles);
    const int all_tiles = tiles.row_tiles * tiles.token_tiles, begin = tiles.step_begin(walk.split),
              end = tiles.step_begin(walk.split + 1);
    tensor_copy::prefetch_map(launch.weight);
    tensor_copy::prefetch_map(launch.x);
    if (launch.begins_early) {
      // The weights themselves may be what the launch before writes: until it has ended they are only called into L2.
      const auto place = tiles.at(walk.tile);
      for (int step = begin; step < min(end, begin + kCalledEarly); ++step) {
        tensor_copy::prefetch_to_l2(launch.weight, step * kTile.step_elements(), place.row_in_group, place.group);
      }
    }
    wait_for_launch_before();
    Stage stage;
    for (int tile = walk.tile; tile < all_tiles; tile += walk.stride) {
      const auto place = tiles.at(tile);
      for (int step = begin; step < end; ++step) {
        barrier::wait(shared.empty + stage.at, stage.parity ^ 1);
        std::byte* to = shared.ring + stage.at * kStageBytes;
        std::uint64_t* full = shared.full + stage.at;
        tensor_copy::arrive_expecting(full, kStageBytes + kScaleBytes);
        const int k = step * kTile.step_elements();
        tensor_copy::fetch(to, launch.weight, full, k, place.row_in_group, place.group);
#pragma unroll
        for (int slab = 0; slab < kTile.x_slabs(); ++slab) {
          // x as (k, group, token): what follows a group's last element is zero, not the next group's first.
          tensor_copy::fetch(to + kWeightBytes + slab * kSlabBytes, launch.x, full, k + slab * 64, place.group,
                             place.token);
        }
        if constexpr (kIsScaled) {
          const std::int64_t row = std::int64_t{place.group} * tiles.steps + step;
          tensor_copy::fetch_bytes(shared.x_scales + stage.at * kTokens,
                                   launch.x_scales + row * tiles.token_tiles * kTokens + place.token, full,
                                   kScaleBytes);
        }
        stage.advance();
      }
    }
  }

  struct Me {
    int group, warp, lane, g, t;  ///< warp of the warpgroup
    __device__ Me()
        : group(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kGroupThreads, 0)),
          warp(threadIdx.x % kGroupThreads / 32),
          lane(threadIdx.x % 32),
          g(lane / 4),
          t(lane % 4) {}
    __device__ __forceinline__ int first_row(int part) const { return (group * kParts + part) * 64 + warp * 16; }
  };

  /// Two codes, low one first, times a power of two in both halves.
  static __device__ __forceinline__ std::uint32_t operand(std::uint16_t codes, std::uint32_t factor) {
    float low, high;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high)
        : "r"(mma::f16x2_of_e4m3x2(codes)));
    return mma::multiply_bf16x2(mma::pack_bf16x2(low, high), factor);
  }
  /// The lane's codes of sixteen elements of K, rows g (`low` = 0) or g + 8: elements 2t, 2t+1 and 2t+8, 2t+9 as the
  /// operand has them, or 4t to 4t+3, which is one load, where x is paired.
  static __device__ __forceinline__ std::uint32_t word_of(const std::byte* weight, const Me& me, int part, int k,
                                                          int low) {
    const std::byte* chunk = weight + (me.first_row(part) + me.g + low * 8) * 128 + ((k ^ me.g) << 4);
    if constexpr (kIsPaired) return *reinterpret_cast<const std::uint32_t*>(chunk + me.t * 4);
    return *reinterpret_cast<const std::uint16_t*>(chunk + me.t * 2) |
           std::uint32_t{*reinterpret_cast<const std::uint16_t*>(chunk + me.t * 2 + 8)} << 16;
  }
  static __device__ __forceinline__ std::uint32_t factor_of(std::uint32_t byte) {
    const std::uint32_t half = byte == kUe8m0Nan ? 0x7fc0u : byte == 0 ? 0x0040u : byte << 7;
    return half | half << 16;
  }

  /// The scale bytes of 32 steps from `step` on, one a lane, for the warp's 16 rows of each part.
  static __device__ __forceinline__ void load_scales(const Sm90Launch& launch, const Me& me,
                                                     const LinearSm90Tiles::Place& place, int step,
                                                     std::uint32_t (&bytes)[kParts]) {
    if constexpr (kIsE4m3) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int row = place.row_in_group + me.first_row(part), at = step + me.lane;
        bytes[part] = 127;
        if (row < launch.out_dim && at < launch.tiles.steps) {
          bytes[part] =
              launch.weight_scale.row<const std::uint8_t>((std::int64_t{place.group} * launch.out_dim + row) / 128)[at];
        }
      }
    }
  }

  static __device__ __forceinline__ void release(const Shared& shared, const Me& me, int stage) {
    __syncwarp();
    if (me.lane == 0) barrier::arrive(shared.empty + stage);
  }

  /// The warp's scale bytes of one step. Asked for step by step; every 32nd time they are fetched.
  static __device__ __forceinline__ void next_scales(const Sm90Launch& launch, const Me& me,
                                                     const LinearSm90Tiles::Place& place, int begin, int step,
                                                     std::uint32_t (&lanes)[kParts], std::uint32_t (&bytes)[kParts]) {
    if ((step - begin) % 32 == 0) load_scales(launch, me, place, step, lanes);
#pragma unroll
    for (int part = 0; part < kParts; ++part) bytes[part] = __shfl_sync(kAllLanes, lanes[part], (step - begin) % 32);
  }

  /// What a tile's products need to know.
  struct Task {
    const Sm90Launch& launch;
    const Shared& shared;
    const Me& me;
    LinearSm90Tiles::Place place;
    int begin, end;  ///< steps
  };
  static __device__ __forceinline__ std::uint64_t x_descriptor(const std::byte* step) {
    return wgmma::descriptor(step + kWeightBytes, 16, 1024);
  }

  /// f16 codes, all of a step at a time. The next step's are on their way to registers while the products run.
  static __device__ __forceinline__ void multiply_codes(const Task& task, Stage& stage, float (&sums)[kParts][kSums]) {
    static_assert(kParts == 1);
    const Shared& shared = task.shared;
    std::uint32_t words[8][2], lanes[1], bytes[1];
    const auto load = [&](const Stage& at) {
      barrier::wait(shared.full + at.at, at.parity);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
#pragma unroll
        for (int low = 0; low < 2; ++low)
          words[k][low] = word_of(shared.ring + at.at * kStageBytes, task.me, 0, k, low);
      }
    };
    load(stage);
    for (int step = task.begin; step < task.end; ++step) {
      next_scales(task.launch, task.me, task.place, task.begin, step, lanes, bytes);
      std::uint32_t a[8][4];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          a[k][low] = mma::f16x2_of_e4m3x2(static_cast<std::uint16_t>(words[k][low]));
          a[k][low + 2] = mma::f16x2_of_e4m3x2(static_cast<std::uint16_t>(words[k][low] >> 16));
        }
      }
      const std::uint64_t x = x_descriptor(shared.ring + stage.at * kStageBytes);
      float dots[kSums];
      wgmma::fence();
#pragma unroll
      for (int k = 0; k < 8; ++k)
        wgmma::ProductF16<kTokens>::multiply(dots, a[k], x + ((k / 4 * kSlabBytes + k % 4 * 32) >> 4), k > 0);
      wgmma::commit();
      const float* x_scales = shared.x_scales + stage.at * kTokens + 2 * task.me.t;
      float2 x_scale[kTokens / 8];
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) x_scale[j] = *reinterpret_cast<const float2*>(x_scales + 8 * j);
      const float scale = decode_ue8m0(static_cast<std::uint8_t>(bytes[0]));
      Stage next = stage;
      next.advance();
      if (step + 1 < task.end) load(next);
      wgmma::wait<0>();
      wgmma::hold(dots);
      release(shared, task.me, stage.at);
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
        float* sum = sums[0] + 4 * j;
        const float* dot = dots + 4 * j;
        sum[0] = fmaf(dot[0] * scale, x_scale[j].x, sum[0]);
        sum[1] = fmaf(dot[1] * scale, x_scale[j].y, sum[1]);
        sum[2] = fmaf(dot[2] * scale, x_scale[j].x, sum[2]);
        sum[3] = fmaf(dot[3] * scale, x_scale[j].y, sum[3]);
      }
      stage = next;
    }
  }

  /// bf16 with the tile's scale, a quarter of a step at a time: the next quarter's operands are made while the products
  /// run.
  static __device__ __forceinline__ void multiply_decoded(const Task& task, Stage& stage,
                                                          float (&sums)[kParts][kSums]) {
    const Shared& shared = task.shared;
    std::uint32_t a[2][kParts][2][4], factors[kParts], lanes[kParts];
    const auto decode = [&](const std::byte* weight, int quarter, std::uint32_t(&operands)[kParts][2][4]) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int low = 0; low < 2; ++low) {
            const std::uint32_t word = word_of(weight, task.me, part, quarter * 2 + half, low);
            operands[part][half][low] = operand(static_cast<std::uint16_t>(word), factors[part]);
            operands[part][half][low + 2] = operand(static_cast<std::uint16_t>(word >> 16), factors[part]);
          }
        }
      }
    };
    const auto begin_step = [&](const Stage& at, int step) {
      std::uint32_t bytes[kParts];
      next_scales(task.launch, task.me, task.place, task.begin, step, lanes, bytes);
#pragma unroll
      for (int part = 0; part < kParts; ++part) factors[part] = factor_of(bytes[part]);
      barrier::wait(shared.full + at.at, at.parity);
      decode(shared.ring + at.at * kStageBytes, 0, a[0]);
    };
    begin_step(stage, task.begin);
    for (int step = task.begin; step < task.end; ++step) {
      const std::byte* weight = shared.ring + stage.at * kStageBytes;
      const std::uint64_t x = x_descriptor(weight);
      Stage next = stage;
      next.advance();
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) {
        wgmma::fence();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int k = quarter * 2 + half;  // 32 bytes of a slab's rows
          const std::uint64_t columns = x + ((k / 4 * kSlabBytes + k % 4 * 32) >> 4);
#pragma unroll
          for (int part = 0; part < kParts; ++part)
            wgmma::Product<kTokens>::add(sums[part], a[quarter % 2][part][half], columns);
        }
        wgmma::commit();
        wgmma::wait<1>();  // the quarter before: its operands' registers are free
        if (quarter < 3) {
          decode(weight, quarter + 1, a[(quarter + 1) % 2]);
        } else if (step + 1 < task.end) {
          begin_step(next, step + 1);
        }
      }
      // Products whose operands are in registers must not be on their way round the loop: the compiler would let no two
      // run at a time.
      wgmma::wait<0>();
      release(shared, task.me, stage.at);
      stage = next;
    }
  }

  /// bf16 weights, from where they lie.
  static __device__ __forceinline__ void multiply_plain(const Task& task, Stage& stage, float (&sums)[kParts][kSums]) {
    const Shared& shared = task.shared;
    int before = -1;  // the stage whose products may still run
    for (int step = task.begin; step < task.end; ++step) {
      barrier::wait(shared.full + stage.at, stage.parity);
      const std::byte* weight = shared.ring + stage.at * kStageBytes;
      const std::uint64_t x = x_descriptor(weight),
                          rows = wgmma::descriptor(weight + task.me.group * kParts * 64 * 128, 16, 1024);
      wgmma::fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          wgmma::Product<kTokens>::add(sums[part], rows + ((part * 64 * 128 + k * 32) >> 4), x + (k * 32 >> 4));
      }
      wgmma::commit();
      wgmma::wait<1>();
      if (before >= 0) release(shared, task.me, before);
      before = stage.at;
      stage.advance();
    }
    wgmma::wait<0>();
    if (before >= 0) release(shared, task.me, before);
  }

  static __device__ __forceinline__ void multiply_tile(const Task& task, Stage& stage, float (&sums)[kParts][kSums]) {
    if constexpr (kIsScaled) {
      multiply_codes(task, stage, sums);
    } else if constexpr (kIsE4m3) {
      multiply_decoded(task, stage, sums);
    } else {
      multiply_plain(task, stage, sums);
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) wgmma::hold(sums[part]);
  }

  /// Columns 8 j + 2t and the next of rows g and g + 8 of a part.
  static __device__ __forceinline__ void store_quad(const Sm90Launch& launch, const Me& me,
                                                    const LinearSm90Tiles::Place& place, int quad, const float4& sum) {
    const int part = quad / (kSums / 4), j = quad % (kSums / 4);
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = place.row_in_group + me.first_row(part) + me.g + i / 2 * 8,
                token = place.token + j * 8 + me.t * 2 + i % 2;
      if (row < launch.out_dim && token < launch.num_tokens) {
        store_element(launch.out, token * launch.out.strides[0] + std::int64_t{place.group} * launch.out_dim + row,
                      values[i]);
      }
    }
  }

  static __device__ __forceinline__ void sync_group(const Me& me) {
    if (me.group == 0) {
      barrier::sync<1, kGroupThreads>();
    } else {
      barrier::sync<2, kGroupThreads>();
    }
  }

  /// bf16 results in whole words: turned round in shared memory, 64 rows at a time.
  static __device__ __forceinline__ void store_bf16(const Sm90Launch& launch, const Shared& shared, const Me& me,
                                                    const LinearSm90Tiles::Place& place,
                                                    const float (&sums)[kParts][kSums]) {
    constexpr int kTurned = kTile.staging_tokens();
    std::byte* staging = shared.staging + me.group * (kTile.staging_bytes() / 2);  // a token's 64 rows are 128 bytes
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int first = place.row_in_group + (me.group * kParts + part) * 64, rows = min(64, launch.out_dim - first);
#pragma unroll
      for (int base = 0; base < kTokens; base += kTurned) {
        sync_group(me);  // what was here before has been read
#pragma unroll
        for (int j = 0; j < kTurned / 8; ++j) {
          const float* c = sums[part] + 4 * (base / 8 + j);
          // Lanes 0 to 7 point at the tokens for rows 0 to 7 of the warp, lanes 8 to 15 for the next eight.
          const int token = j * 8 + me.lane % 8, chunk = me.warp * 2 + me.lane / 8 % 2;
          asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(
                           copy::shared_address(staging + wgmma::chunk_at(token, chunk))),
                       "r"(mma::pack_bf16x2(c[0], c[1])), "r"(mma::pack_bf16x2(c[2], c[3]))
                       : "memory");
        }
        sync_group(me);
        const int thread = threadIdx.x % kGroupThreads, chunk = thread % 8;
#pragma unroll
        for (int at = 0; at < kTurned; at += kGroupThreads / 8) {
          const int token = at + thread / 8;
          if (token >= kTurned || place.token + base + token >= launch.num_tokens || chunk * 8 >= rows) continue;
          const std::byte* from = staging + wgmma::chunk_at(token, chunk);
          bf16* to = static_cast<bf16*>(launch.out.data) + (place.token + base + token) * launch.out.strides[0] +
                     std::int64_t{place.group} * launch.out_dim + first + chunk * 8;
          if (launch.stores_words && chunk * 8 + 8 <= rows) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
          } else {
            for (int i = 0; i < min(8, rows - chunk * 8); ++i) to[i] = reinterpret_cast<const bf16*>(from)[i];
          }
        }
      }
    }
  }

  static __device__ __forceinline__ float4 quad_of(const float (&sums)[kParts][kSums], int quad) {
    const float* c = sums[quad / (kSums / 4)] + quad % (kSums / 4) * 4;
    return make_float4(c[0], c[1], c[2], c[3]);
  }

  /// The cluster's blocks add up their sums, each a part of them.
  static __device__ __forceinline__ void finish_in_cluster(const Sm90Launch& launch, const Shared& shared, const Me& me,
                                                           const LinearSm90Tiles::Place& place, int split,
                                                           const float (&sums)[kParts][kSums]) {
    auto* own = reinterpret_cast<float4*>(shared.ring) + threadIdx.x;
    barrier::sync<3, kConsumers>();  // nobody multiplies from the ring any more
#pragma unroll
    for (int quad = 0; quad < kQuads; ++quad) own[quad * kConsumers] = quad_of(sums, quad);
    cluster::sync();
    for (int quad = split; quad < kQuads; quad += launch.tiles.splits) {
      float4 sum = cluster::load4(cluster::address_in(own + quad * kConsumers, 0));
      for (int block = 1; block < launch.tiles.splits; ++block) {
        const float4 more = cluster::load4(cluster::address_in(own + quad * kConsumers, block));
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
      }
      store_quad(launch, me, place, quad, sum);
    }
    cluster::sync();  // what the others read of this block is still there
  }

  static __device__ __forceinline__ void consume(const Sm90Launch& launch, const Shared& shared) {
    const Me me;
    const Walk walk(launch.tiles);
    const int all_tiles = launch.tiles.row_tiles * launch.tiles.token_tiles;
    const int begin = launch.tiles.step_begin(walk.split), end = launch.tiles.step_begin(walk.split + 1);
    wait_for_launch_before();
    Stage stage;
    for (int tile = walk.tile; tile < all_tiles; tile += walk.stride) {
      const auto place = launch.tiles.at(tile);
      float sums[kParts][kSums] = {};
      multiply_tile({launch, shared, me, place, begin, end}, stage, sums);
      if (launch.tiles.splits > 1) {
        finish_in_cluster(launch, shared, me, place, walk.split, sums);
      } else if (launch.out.dtype == DType::bf16) {
        store_bf16(launch, shared, me, place, sums);
      } else {
#pragma unroll
        for (int quad = 0; quad < kQuads; ++quad) store_quad(launch, me, place, quad, quad_of(sums, quad));
      }
    }
  }

  static __device__ __forceinline__ void run(const Sm90Launch& launch) {
    extern __shared__ std::byte raw[];
    const Shared shared(raw);
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) {
        barrier::init(shared.full + i, 1);
        barrier::init(shared.empty + i, kConsumers / 32);
      }
      barrier::publish_to_tensor_cores();
    }
    __syncthreads();
    let_next_launch_begin();
    if (threadIdx.x >= kConsumers) {
      if constexpr (kTradesRegisters) barrier::give_registers<kProducerRegisters>();
      if (threadIdx.x == kConsumers) produce(launch, shared);
      __syncwarp();
      if (launch.tiles.splits > 1) {
        cluster::sync();
        cluster::sync();
      }
    } else {
      if constexpr (kTradesRegisters) barrier::take_registers<kConsumerRegisters>();
      consume(launch, shared);
    }
  }
};

template <bool kIsE4m3, int kParts, int kTokens, LinearSm90X kX>
__global__ void __launch_bounds__(LinearSm90Tile::kThreads,
                                  LinearSm90Tile{kIsE4m3, kParts, kTokens}.blocks_per_multiprocessor())
    sm90_kernel(const __grid_constant__ Sm90Launch launch) {
  Sm90<kIsE4m3, kParts, kTokens, kX>::run(launch);
}

}  // namespace fathom::linear_sm90_kernel
