// What attend's kernels share whatever the architecture: the launch, the rows of a query, the end of a head's softmax, and
// the merge of queries that were split. Rows are kv_e4m3_ue8m0: 576 bytes in the page, eight in its footer.
#pragma once

#include <bit>

#include "attend/row_walk.h"
#include "device/mma.cuh"
#include "device/rows.cuh"

namespace fathom::attend_rows {

constexpr int kRowBytes = 576, kScaleBytes = 8;
constexpr int kDim = 512;
constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.693147180559945f;

/// Where a row and its scales lie; null = absent.
struct alignas(16) RowAddress {
  const std::byte* row;
  const std::byte* scales;
};
/// Where the rows of one set lie, in numbers that address arithmetic wants.
struct SetPlace {
  const std::byte* pages = nullptr;
  std::uint32_t page_stride = 0;    ///< bytes
  std::uint32_t footers = 0;        ///< bytes from a page's start to its footer
  std::uint32_t page_size = 1;
  std::int32_t page_shift = 0;      ///< log2(page_size), or -1
  std::uint32_t num_pages = 0;
  std::uint32_t is_list = 0;
};

/// What a launch needs beside the op's own arguments.
struct Launch {
  AttendProblem problem;
  AttendArgs args;
  PagedCacheView caches[2];
  SetPlace places[2];
  int splits;
  float* sums;     ///< [units, splits, heads, kDim]: unnormalised
  float* states;   ///< [units, splits, 3, heads]: base, total weight, largest logit (base 2)
  int* counters;   ///< [units]
};

/// Opens the caches of a launch.
inline Status open_launch(Launch& launch) noexcept {
  FATHOM_TRY(open_caches(launch.problem, launch.args, launch.caches));
  const RowSetProblem sets[] = {window_set(launch.problem), entries_set(launch.problem)};
  for (int s = 0; s < 2; ++s) {
    if (sets[s].rows_by == RowsBy::none) continue;
    const PagedCacheView& cache = launch.caches[s];
    const auto page_size = static_cast<std::uint32_t>(cache.page_size);
    launch.places[s] = {cache.pages, static_cast<std::uint32_t>(cache.page_stride), page_size * kRowBytes, page_size,
                        std::has_single_bit(page_size) ? std::countr_zero(page_size) : -1, static_cast<std::uint32_t>(cache.num_pages),
                        sets[s].rows_by == RowsBy::list};
  }
  return {};
}

/// True if both caches' strides fit the launch and every row and page is aligned to `bytes`.
inline bool is_addressable(const Launch& launch, std::uintptr_t bytes) noexcept {
  for (const PagedCacheView& cache : launch.caches) {
    if (cache.page_stride > 0xffffffffll || (reinterpret_cast<std::uintptr_t>(cache.pages) | static_cast<std::uintptr_t>(cache.page_stride)) % bytes != 0) return false;
  }
  return true;
}
/// Rows of heads that are read and written 16 bytes at a time.
inline bool has_aligned_rows(const TensorView& view) noexcept {
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.strides[0] % 8 == 0 && view.strides[1] % 8 == 0;
}

/// The rows of one query, window first. Looking a row up is split in two, so that the load of its index or page number can be
/// under way long before `address` needs it.
class Rows {
 public:
  __device__ Rows(const Launch& launch, std::int64_t t) : places_(launch.places) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const RowWalk walk(s == 0 ? window_set(launch.problem) : entries_set(launch.problem), s == 0 ? launch.args.window : launch.args.entries,
                         launch.args.seq_ids, launch.caches[s], t);
      numbers_[s] = walk.numbers();
      first_[s] = static_cast<int>(walk.first());
      count_[s] = static_cast<int>(walk.count());
    }
  }
  __device__ int count() const { return count_[0] + count_[1]; }

  /// Row i's slot (list) or page (range); -1 past the end.
  __device__ __forceinline__ std::int32_t number(int i) const {
    if (i >= count()) return -1;
    const bool second = i >= count_[0];
    const SetPlace& place = places_[second];
    const std::uint32_t row = row_in_set(i, second);
    return __ldg((second ? numbers_[1] : numbers_[0]) + (place.is_list ? row : page_of(row, place)));
  }
  /// Where row i lies, given its number.
  __device__ __forceinline__ RowAddress address(int i, std::int32_t number) const {
    const bool second = i >= count_[0];
    const SetPlace& place = places_[second];
    const std::uint32_t slot = place.is_list ? static_cast<std::uint32_t>(number) : row_in_set(i, second);
    const std::uint32_t quotient = page_of(slot, place), offset = slot - quotient * place.page_size;
    const std::uint32_t page = place.is_list ? quotient : static_cast<std::uint32_t>(number);
    if (number < 0 || page >= place.num_pages) return {nullptr, nullptr};
    const std::byte* at = place.pages + static_cast<std::uint64_t>(page) * place.page_stride;
    return {at + offset * kRowBytes, at + place.footers + offset * kScaleBytes};
  }

 private:
  __device__ __forceinline__ static std::uint32_t page_of(std::uint32_t row, const SetPlace& place) {
    return place.page_shift >= 0 ? row >> place.page_shift : row / place.page_size;
  }
  __device__ __forceinline__ std::uint32_t row_in_set(int i, bool second) const {
    return static_cast<std::uint32_t>(second ? first_[1] + i - count_[0] : first_[0] + i);
  }

  const SetPlace* places_;
  const std::int32_t* numbers_[2];
  int first_[2], count_[2];
};

/// The last words on one head: 1 / denominator, or 0 where nothing is left of the values, whatever they are.
struct Finish {
  float inverse;
  bool is_empty;
};
__device__ inline Finish finish_head(const Launch& launch, int h, float base, float total) {
  const AttendArgs& args = launch.args;
  const float sink = args.attn_sink.is_absent() ? -kInfinity : args.attn_sink.at<float>(h);
  const float denominator = total + exp2f(sink * kLog2e - base);
  return {1.f / denominator, total == 0.f || denominator == kInfinity};
}
__device__ inline void store_head_state(const Launch& launch, std::int64_t t, int h, float base, float total, float most) {
  const AttendArgs& args = launch.args;
  if (!args.lse.is_absent()) args.lse.row<float>(t)[h] = base * kLn2 + logf(total);
  if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[h] = most * kLn2;
}

/// Stores kCount neighbouring elements of one head's result.
template <int kCount>
__device__ void store_result(const Launch& launch, std::int64_t t, int h, int first, const float (&values)[kCount], const Finish& finish) {
  const TensorView& out = launch.args.out;
  bf16* to = static_cast<bf16*>(out.data) + t * out.strides[0] + h * out.strides[1] + first;
  std::uint32_t packed[kCount / 2];
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    packed[i] = finish.is_empty ? 0u : mma::pack_bf16x2(values[2 * i] * finish.inverse, values[2 * i + 1] * finish.inverse);
  }
  if constexpr (kCount % 8 == 0) {
#pragma unroll
    for (int i = 0; i < kCount / 8; ++i) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(packed)[i];
  } else {
    *reinterpret_cast<uint2*>(to) = uint2{packed[0], packed[1]};
  }
}

/// Merges the parts of one query's heads, in the order of the splits, when all have arrived: warp `warp` of `warps` takes every
/// warps-th head. Sums are multiplied by `unit_of_sums` on the way out.
template <int kHeads>
__device__ void merge_parts(const Launch& launch, std::int64_t unit, std::int64_t t, int first_head, int warp, int warps,
                            float unit_of_sums) {
  const int lane = threadIdx.x % 32, splits = launch.splits;
  const float* all = launch.states + unit * splits * 3 * kHeads;
  for (int h = warp; h < kHeads && first_head + h < launch.problem.num_heads; h += warps) {
    // A lane for each split's state.
    const float* state = all + lane * 3 * kHeads + h;
    const float mine = lane < splits ? __ldcg(state) : -kInfinity;
    const float weight = lane < splits ? __ldcg(state + kHeads) : 0.f;
    float most = lane < splits ? __ldcg(state + 2 * kHeads) : -kInfinity;
    float base = mine;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      base = fmaxf(base, __shfl_xor_sync(kAllLanes, base, d));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, d));
    }
    // A part that saw nothing may have left nothing: its sums are not looked at.
    const float factor = weight == 0.f ? 0.f : exp2f(mine - (base == -kInfinity ? 0.f : base));
    const float total = warp_sum(factor * weight);
    const unsigned used = __ballot_sync(kAllLanes, weight != 0.f);
    float sums[4][4] = {};
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float f = __shfl_sync(kAllLanes, factor, s);
      const auto* from = reinterpret_cast<const float4*>(launch.sums + ((unit * splits + s) * kHeads + h) * kDim) + lane;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float4 v = __ldcg(from + 32 * i);
        if ((used >> s & 1) == 0) v = float4{0.f, 0.f, 0.f, 0.f};
        sums[i][0] = fmaf(f, v.x, sums[i][0]);
        sums[i][1] = fmaf(f, v.y, sums[i][1]);
        sums[i][2] = fmaf(f, v.z, sums[i][2]);
        sums[i][3] = fmaf(f, v.w, sums[i][3]);
      }
    }
    Finish finish = finish_head(launch, first_head + h, base, total);
    finish.inverse *= unit_of_sums;
#pragma unroll
    for (int i = 0; i < 4; ++i) store_result<4>(launch, t, first_head + h, (lane + 32 * i) * 4, sums[i], finish);
    if (lane == 0) store_head_state(launch, t, first_head + h, base, total, most);
  }
}


}  // namespace fathom::attend_rows
