// What attend's kernels share whatever the architecture: the launch, the rows of a query, the end of a head's softmax,
// and the merge of queries that were split. Rows are kv_e4m3_ue8m0: 576 bytes in the page, eight in its footer.
#pragma once

#include <bit>

#include "attend/attend_impl.h"
#include "attend/attend_policy.h"
#include "attend/row_walk.h"
#include "device/head_rows.cuh"
#include "device/mma.cuh"

namespace fathom::attend_rows {

constexpr int kRowBytes = 576, kScaleBytes = 8;
constexpr int kDim = 512, kRotary = 64;  ///< elements of a head; the last of them are rotated
/// How far (base 2) a logit may leave the base of its softmax before the base follows: weights up to 2^kSlack do no
/// harm, and sums are rarely rescaled.
constexpr float kSlack = 8;
constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.693147180559945f;

/// Where a row and its scales lie; null = absent.
struct alignas(16) RowAddress {
  const std::byte* row;
  const std::byte* scales;
};
/// Where the rows of one set lie, in numbers that address arithmetic wants.
struct SetPlace {
  const std::byte* pages = nullptr;
  std::uint32_t page_stride = 0;  ///< bytes
  std::uint32_t footers = 0;      ///< bytes from a page's start to its footer
  std::uint32_t page_size = 1;
  std::int32_t page_shift = 0;  ///< log2(page_size), or -1
  std::uint32_t num_pages = 0;
  std::uint32_t is_list = 0;
};

/// What a launch needs beside the op's own arguments.
struct Launch {
  AttendProblem problem;
  AttendArgs args;
  PagedCacheView caches[2];
  SetPlace places[2];
  std::int64_t units;  ///< queries times their blocks of heads
  std::int64_t first_unit;  ///< of this launch, where one is not enough
  int heads;           ///< of a block, at most
  int splits;          ///< blocks that share a query's rows
  int parts;           ///< of them that leave their sums in memory: all, or one for each cluster
  float* sums;         ///< [units, parts, heads, kDim]: unnormalised
  float* states;       ///< [units, parts, 3, heads]: base, total weight, largest logit (base 2)
  int* counters;       ///< [units, merging blocks]
};

/// Opens the caches of a launch.
inline Status open_launch(Launch& launch) noexcept {
  FATHOM_TRY(open_caches(launch.problem, launch.args, launch.caches));
  const RowSetProblem sets[] = {window_set(launch.problem), entries_set(launch.problem)};
  for (int s = 0; s < 2; ++s) {
    if (sets[s].rows_by == RowsBy::none) continue;
    const PagedCacheView& cache = launch.caches[s];
    const auto page_size = static_cast<std::uint32_t>(cache.page_size);
    launch.places[s] = {cache.pages,
                        static_cast<std::uint32_t>(cache.page_stride),
                        page_size * kRowBytes,
                        page_size,
                        std::has_single_bit(page_size) ? std::countr_zero(page_size) : -1,
                        static_cast<std::uint32_t>(cache.num_pages),
                        sets[s].rows_by == RowsBy::list};
  }
  return {};
}

/// True if both caches' strides fit the launch and every row and page is aligned to `bytes`.
inline bool is_addressable(const Launch& launch, std::uintptr_t bytes) noexcept {
  for (const PagedCacheView& cache : launch.caches) {
    if (cache.page_stride > 0xffffffffll ||
        (reinterpret_cast<std::uintptr_t>(cache.pages) | static_cast<std::uintptr_t>(cache.page_stride)) % bytes != 0)
      return false;
  }
  return true;
}
/// True if a page's bytes can be counted in 31 bits.
inline bool has_short_pages(const Launch& launch) noexcept {
  return launch.caches[0].page_stride <= 0x7fffffff && launch.caches[1].page_stride <= 0x7fffffff;
}
/// Rows of heads that are read and written 16 bytes at a time.
inline bool has_aligned_rows(const TensorView& view) noexcept {
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.strides[0] % 8 == 0 && view.strides[1] % 8 == 0;
}

/// Raw queries whose norm `project` would sum as these kernels do.
inline bool has_whole_queries(const AttendProblem& problem, const AttendArgs& args) noexcept {
  return problem.q_form == QForm::final || has_wide_heads(args.q, args.rope_table);
}

/// The rows of one query, window first. Looking a row up is split in two, so that the load of its index or page number
/// can be under way long before `address` needs it.
class Rows {
 public:
  /// What is known of the query's two walks.
  struct Walks {
    const std::int32_t* numbers[2];
    int first[2], count[2];
  };
  __device__ Rows(const Launch& launch, std::int64_t t) : places_(launch.places) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const RowWalk walk(s == 0 ? window_set(launch.problem) : entries_set(launch.problem),
                         s == 0 ? launch.args.window : launch.args.entries, launch.args.seq_ids, launch.caches[s], t);
      walks_.numbers[s] = walk.numbers();
      walks_.first[s] = static_cast<int>(walk.first());
      walks_.count[s] = static_cast<int>(walk.count());
    }
  }
  __device__ Rows(const Launch& launch, const Walks& walks) : places_(launch.places), walks_(walks) {}
  __device__ const Walks& walks() const { return walks_; }
  __device__ int count() const { return walks_.count[0] + walks_.count[1]; }

  /// Where row i's slot (list) or page (range) is written.
  __device__ __forceinline__ const std::int32_t* number_at(int i) const {
    const bool second = i >= walks_.count[0];
    const SetPlace& place = places_[second];
    const std::uint32_t row = row_in_set(i, second);
    return (second ? walks_.numbers[1] : walks_.numbers[0]) + (place.is_list ? row : page_of(row, place));
  }
  /// Row i's slot or page; -1 past the end.
  __device__ __forceinline__ std::int32_t number(int i) const { return i >= count() ? -1 : __ldg(number_at(i)); }
  /// Where row i lies, given its number.
  __device__ __forceinline__ RowAddress address(int i, std::int32_t number) const {
    const bool second = i >= walks_.count[0];
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
    return static_cast<std::uint32_t>(second ? walks_.first[1] + i - walks_.count[0] : walks_.first[0] + i);
  }

  const SetPlace* places_;
  Walks walks_;
};

/// The last words on one head: 1 / denominator, or 0 where nothing is left of the values, whatever they are.
struct Finish {
  float inverse;
  bool is_empty;
};
__device__ inline float sink_of(const Launch& launch, int h) {
  return launch.args.attn_sink.is_absent() ? -kInfinity : launch.args.attn_sink.at<float>(h);
}
__device__ inline Finish finish_head(float sink, float base, float total) {
  const float denominator = total + exp2f(sink * kLog2e - base);
  return {1.f / denominator, total == 0.f || denominator == kInfinity};
}
__device__ inline void store_head_state(const Launch& launch, std::int64_t t, int h, float base, float total,
                                        float most) {
  const AttendArgs& args = launch.args;
  if (!args.lse.is_absent()) args.lse.row<float>(t)[h] = base * kLn2 + logf(total);
  if (!args.max_logits.is_absent()) args.max_logits.row<float>(t)[h] = most * kLn2;
}

/// A query's row of the rotary table, where its form asks for one.
struct Turn {
  const float* rope = nullptr;  ///< cosines, then sines; null: nothing is turned
  bool is_padding = false;      ///< a query without a position: all zeros
};
__device__ __forceinline__ Turn turn_by(const TensorView& rope_table, std::int64_t position) {
  if (!is_token(rope_table, position)) return {nullptr, true};
  return {rope_row(rope_table, position), false};
}
__device__ __forceinline__ Turn turn_at(const AttendArgs& args, std::int64_t t) {
  return turn_by(args.rope_table, args.positions.at<std::int32_t>(t));
}
__device__ __forceinline__ Turn turn_of_result(const Launch& launch, std::int64_t t) {
  return launch.problem.out_form == OutForm::plain ? Turn{} : turn_at(launch.args, t);
}

/// 2 * kPairs neighbouring elements of one head's result from `first` on, as bf16, turned back if the form asks for it.
template <int kPairs>
__device__ __forceinline__ void finish_result(const Turn& turn, int first, const float (&values)[2 * kPairs],
                                              const Finish& finish, std::uint32_t (&pairs)[kPairs]) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    pairs[i] = finish.is_empty || turn.is_padding
                   ? 0u
                   : mma::pack_bf16x2(values[2 * i] * finish.inverse, values[2 * i + 1] * finish.inverse);
  }
  if (turn.rope == nullptr || first < kDim - kRotary) return;
  rotate_pairs(pairs, turn.rope + (first - (kDim - kRotary)) / 2, kRotary / 2, -1.f);
}
template <int kWords>
__device__ __forceinline__ void store_words(void* to, const std::uint32_t (&words)[kWords]) {
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords / 4; ++i) static_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(words)[i];
  } else if constexpr (kWords == 2) {
    *static_cast<uint2*>(to) = uint2{words[0], words[1]};
  } else {
    *static_cast<std::uint32_t*>(to) = words[0];
  }
}
/// Stores pairs as they are.
template <int kPairs>
__device__ __forceinline__ void store_pairs(const Launch& launch, std::int64_t t, int h, int first,
                                            const std::uint32_t (&pairs)[kPairs]) {
  store_words(launch.args.out.row<bf16>(t, h) + first, pairs);
}
/// Stores them as codes. `largest` is that of their block of kOutScaleBlock elements; whose first element it is stores
/// the scale.
template <int kPairs>
__device__ __forceinline__ void store_codes(const Launch& launch, std::int64_t t, int h, int first,
                                            const std::uint32_t (&pairs)[kPairs], float largest) {
  const int exponent = q8_exponent(largest);
  std::uint32_t codes[kPairs / 2];
  encode_pairs(pairs, exponent, codes);
  auto* to = launch.args.out.row<std::uint8_t>(t, h) + first;
  if constexpr (kPairs == 8) {
    const std::uint32_t halves[2][2] = {{codes[0], codes[1]}, {codes[2], codes[3]}};
    store_words(to, halves[0]);  // rows start on eight bytes
    store_words(to + 8, halves[1]);
  } else {
    store_words(to, codes);
  }
  if (first % kOutScaleBlock == 0) {
    launch.args.out_scale.row<std::uint8_t>(t, h)[first / kOutScaleBlock] = static_cast<std::uint8_t>(exponent + 127);
  }
}

/// A split query's head: the states of its parts, a lane each, brought to one base.
struct JoinedHead {
  float base, most, total;
  float factor;   ///< of the lane's part
  unsigned used;  ///< a bit for each part that saw something; the others may have left nothing
};
__device__ __forceinline__ JoinedHead join_head(float base, float total, float most) {
  JoinedHead head{base, most, 0.f, 0.f, 0u};
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    head.base = fmaxf(head.base, __shfl_xor_sync(kAllLanes, head.base, d));
    head.most = fmaxf(head.most, __shfl_xor_sync(kAllLanes, head.most, d));
  }
  head.factor = total == 0.f ? 0.f : exp2f(base - (head.base == -kInfinity ? 0.f : head.base));
  head.total = warp_sum(head.factor * total);
  head.used = __ballot_sync(kAllLanes, total != 0.f);
  return head;
}
/// A warp has of a head, or of a piece of it, the elements 4 * (lane + 32 i).. of each i in `chunks`, a bit each.
constexpr unsigned kAllChunks = 0xf;

/// sums += factor * a part's; `load` gives its float4 number i.
template <class Load>
__device__ __forceinline__ void add_part(const JoinedHead& head, int part, unsigned chunks, float (&sums)[4][4],
                                         Load&& load) {
  const float factor = __shfl_sync(kAllLanes, head.factor, part);
  const bool is_used = (head.used >> part & 1) != 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if ((chunks >> i & 1) == 0) continue;
    float4 v = load(i);
    if (!is_used) v = float4{0.f, 0.f, 0.f, 0.f};
    sums[i][0] = fmaf(factor, v.x, sums[i][0]);
    sums[i][1] = fmaf(factor, v.y, sums[i][1]);
    sums[i][2] = fmaf(factor, v.z, sums[i][2]);
    sums[i][3] = fmaf(factor, v.w, sums[i][3]);
  }
}
/// A warp's result of head h: sums are multiplied by `unit_of_sums` on the way out. `turn` is turn_of_result, found in
/// time.
__device__ __forceinline__ void store_joined(const Launch& launch, std::int64_t t, int h, const JoinedHead& head,
                                             unsigned chunks, const float (&sums)[4][4], float unit_of_sums,
                                             const Turn& turn) {
  const int lane = threadIdx.x % 32;
  Finish finish = finish_head(sink_of(launch, h), head.base, head.total);
  finish.inverse *= unit_of_sums;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if ((chunks >> i & 1) == 0) continue;
    const int first = (lane + 32 * i) * 4;
    std::uint32_t pairs[2];
    finish_result(turn, first, sums[i], finish, pairs);
    if (launch.problem.out_form != OutForm::e4m3) {
      store_pairs(launch, t, h, first, pairs);
    } else {
      static_assert(kOutScaleBlock == 32 * 4);
      store_codes(launch, t, h, first, pairs, warp_max(largest_of_pairs(pairs)));
    }
  }
  if (lane == 0 && (chunks & 1) != 0) store_head_state(launch, t, h, head.base, head.total, head.most);
}

/// Merges the parts of every `step`-th head of a unit from `first` on, in the parts' order, when all have arrived. For
/// one warp.
template <int kHeads>
__device__ void merge_parts(const Launch& launch, std::int64_t unit, std::int64_t t, int first_head, int first,
                            int step, float unit_of_sums) {
  const int heads = min(launch.heads, launch.problem.num_heads - first_head);
  const int lane = threadIdx.x % 32, parts = launch.parts;
  const float* all = launch.states + unit * parts * 3 * kHeads;
  const Turn turn = turn_of_result(launch, t);
  for (int h = first; h < heads; h += step) {
    const float* state = all + lane * 3 * kHeads + h;
    const bool has_part = lane < parts;
    const JoinedHead head = join_head(has_part ? __ldcg(state) : -kInfinity, has_part ? __ldcg(state + kHeads) : 0.f,
                                      has_part ? __ldcg(state + 2 * kHeads) : -kInfinity);
    float sums[4][4] = {};
#pragma unroll 4
    for (int p = 0; p < parts; ++p) {
      const auto* from = reinterpret_cast<const float4*>(launch.sums + ((unit * parts + p) * kHeads + h) * kDim) + lane;
      add_part(head, p, kAllChunks, sums, [&](int i) { return __ldcg(from + 32 * i); });
    }
    store_joined(launch, t, first_head + h, head, kAllChunks, sums, unit_of_sums, turn);
  }
}

}  // namespace fathom::attend_rows
