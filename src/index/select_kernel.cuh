// The selection of index and select_topk on CUDA: an exact radix select over ranks (top_entries.h), ties to the smaller
// position, picks in the order of positions, the same from run to run.
//
// A row is cut into segments. A block finds the rank of its segment's k-th pick, eleven bits at a time from the top, and
// writes the picks where a scan puts them.
//
// Rows of several segments are counted first, by the eleven top bits of the rank, in the launch that writes them or in one
// of their own: that gives the bin of the row's k-th pick. Each segment then leaves what lies in that bin or above as (rank, entry) candidates, k at most. Segments
// follow each other and each leaves its candidates in order, so they are again a row in order of entries, from which the
// block that ends last selects by the same code.
#pragma once

#include "core/scratch.h"
#include "device/early_launch.cuh"
#include "device/last_arriver.cuh"
#include "index/index_policy.h"
#include "index/top_entries.h"

namespace fathom {

/// What the segments of a chunk of rows leave. Null where rows have one segment.
struct Candidates {
  std::uint32_t* ranks = nullptr;   ///< [rows, segments, topk]
  std::int32_t* entries = nullptr;  ///< the same shape
  std::int32_t* kept = nullptr;     ///< [rows, segments]: candidates of each
  // Zero between runs:
  std::int32_t* bins = nullptr;     ///< [rows, kBins]: ranks of the row by their top bits
  std::int32_t* arrived = nullptr;  ///< [rows]: segments that ended
};

namespace select {
constexpr int kPerThread = 8;  ///< ranks a thread keeps in registers
constexpr int kBins = SelectPolicy::kBins, kTopShift = 21;
constexpr int kStaged = 4096;  ///< picks that shared memory holds on their way out
}  // namespace select

inline Candidates take_candidates(const SelectPolicy& policy, std::int64_t rows, std::int64_t topk, Scratch& scratch, Scratch& counters) {
  Candidates candidates;
  if (policy.segments == 1) return candidates;
  candidates.ranks = scratch.take<std::uint32_t>(rows * policy.candidates(topk));
  candidates.entries = scratch.take<std::int32_t>(rows * policy.candidates(topk));
  candidates.kept = scratch.take<std::int32_t>(rows * policy.segments);
  candidates.bins = counters.take<std::int32_t>(rows * select::kBins);
  candidates.arrived = counters.take<std::int32_t>(rows);
  return candidates;
}

namespace select {

struct Shared {
  std::int32_t bins[kBins];
  std::int32_t offsets[SelectPolicy::kMostSegments + 1];  ///< of each segment's candidates among the row's
  std::int32_t picks[kStaged];                            ///< positions
  std::uint32_t warp_sums[32];
  std::int32_t bin, above, in_bin, total;
  bool is_last;
};

/// What is picked: all above `rank`, and the first `ties` that equal it.
struct Cut {
  std::uint32_t rank;
  std::int32_t ties;
};

/// Inclusive sum over the threads before and this one; `total` is the sum over all. Ends with the partial sums still in use.
template <int kThreads>
__device__ std::uint32_t inclusive_scan(std::uint32_t value, Shared& shared, std::uint32_t& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int d = 1; d < 32; d *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, value, d);
    if (lane >= d) value += other;
  }
  __syncthreads();
  if (lane == 31) shared.warp_sums[warp] = value;
  __syncthreads();
  std::uint32_t sum = lane < kThreads / 32 ? shared.warp_sums[lane] : 0;
  for (int d = 1; d < 32; d *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, sum, d);
    if (lane >= d) sum += other;
  }
  total = __shfl_sync(kAllLanes, sum, 31);
  const std::uint32_t before = __shfl_sync(kAllLanes, sum, warp == 0 ? 0 : warp - 1);
  return warp == 0 ? value : value + before;
}

/// The ranks of `count` positions, kThreads * kPerThread at a time: a thread's are neighbours, so that order is kept. What
/// fits one chunk is read once.
template <int kThreads, class Load>
class Chunks {
 public:
  static constexpr int kSize = kThreads * kPerThread;

  __device__ Chunks(std::int32_t count, const Load& load) : count_(count), load_(load) {}
  __device__ std::int32_t count() const { return count_; }
  __device__ std::int32_t first(std::int32_t chunk) const { return chunk + static_cast<std::int32_t>(threadIdx.x) * kPerThread; }
  __device__ const std::uint32_t (&at(std::int32_t chunk))[kPerThread] {
    if (chunk != loaded_) {
      loaded_ = chunk;
      for (int i = 0; i < kPerThread; ++i) ranks_[i] = 0;
      load_(first(chunk), count_, ranks_);
    }
    return ranks_;
  }

 private:
  std::int32_t count_, loaded_ = -1;
  const Load& load_;
  std::uint32_t ranks_[kPerThread];
};

/// Finds the bin where the count of shared.bins from above reaches `need`, and what lies above it. False, and the same in
/// all threads, if there are no more than `need` in all bins.
template <int kThreads>
__device__ bool find_bin(std::int32_t need, Shared& shared) {
  constexpr int kOwn = kBins / kThreads;
  std::int32_t own = 0;
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kOwn;
  for (int i = 0; i < kOwn; ++i) own += shared.bins[top - i];
  std::uint32_t total;
  const auto through = static_cast<std::int32_t>(inclusive_scan<kThreads>(own, shared, total));
  if (through >= need && through - own < need) {
    std::int32_t above = through - own;
    int bin = top;
    while (above + shared.bins[bin] < need) above += shared.bins[bin--];
    shared.bin = bin, shared.above = above, shared.in_bin = shared.bins[bin];
  }
  __syncthreads();
  return static_cast<std::int32_t>(total) > need;
}

template <int kThreads, class Load>
__device__ Cut find_cut(Chunks<kThreads, Load>& chunks, std::int32_t topk, Shared& shared) {
  std::uint32_t prefix = 0, mask = 0;
  std::int32_t need = topk;
  for (int shift = kTopShift; shift >= 0; shift = shift == kTopShift ? 10 : shift - 10) {  // 11, 11 and 10 bits
    for (int b = threadIdx.x; b < kBins; b += kThreads) shared.bins[b] = 0;
    __syncthreads();
    for (std::int32_t chunk = 0; chunk < chunks.count(); chunk += chunks.kSize) {
      const auto& ranks = chunks.at(chunk);
      for (int i = 0; i < kPerThread; ++i) {
        if (ranks[i] != 0 && (ranks[i] & mask) == prefix) atomicAdd(&shared.bins[ranks[i] >> shift & (kBins - 1)], 1);
      }
    }
    __syncthreads();
    if (!find_bin<kThreads>(need, shared) && mask == 0) return {0, 0};  // all that are there
    prefix |= static_cast<std::uint32_t>(shared.bin) << shift;
    mask |= (kBins - 1u) << shift;
    need -= shared.above;
    if (shared.in_bin == need) return {prefix == 0 ? 0 : prefix - 1, 0};  // the whole bin
  }
  return {prefix, need};
}

/// Gives `sink(place, position, rank)` every pick, places from 0 in the order of positions. Returns how many there are, or -1
/// as soon as there are more than `most`.
template <int kThreads, class Load, class Sink>
__device__ std::int32_t write_picks(Chunks<kThreads, Load>& chunks, const Cut& cut, std::int32_t most, Shared& shared, const Sink& sink) {
  std::int32_t above_before = 0, ties_before = 0;
  for (std::int32_t chunk = 0; chunk < chunks.count(); chunk += chunks.kSize) {
    const auto& ranks = chunks.at(chunk);
    std::uint32_t own = 0;  // above the cut in the high half, ties in the low one: a chunk has at most 8192 of each
    for (int i = 0; i < kPerThread; ++i) own += (ranks[i] > cut.rank ? 0x10000u : 0u) + (ranks[i] == cut.rank ? 1u : 0u);
    std::uint32_t total;
    const std::uint32_t before = inclusive_scan<kThreads>(own, shared, total) - own;
    if (above_before + static_cast<std::int32_t>(total >> 16) > most) return -1;
    std::int32_t above = above_before + (before >> 16), ties = ties_before + (before & 0xffffu);
    for (int i = 0; i < kPerThread; ++i) {
      const bool is_above = ranks[i] > cut.rank, is_tie = ranks[i] == cut.rank;
      if (is_above || (is_tie && ties < cut.ties)) sink(above + min(ties, cut.ties), chunks.first(chunk) + i, ranks[i]);
      above += is_above, ties += is_tie;
    }
    above_before += total >> 16, ties_before += total & 0xffffu;
  }
  return above_before + min(ties_before, cut.ties);
}

/// Selects, and stores entry_of(position) of every pick in the row `line`. A pick's slot takes a look at a block table: the
/// threads share the picks evenly for that, so that they wait for the table once and not once for each of their own.
template <int kThreads, class Load, class Line, class EntryOf>
__device__ void put_out(Chunks<kThreads, Load>& chunks, std::int32_t topk, Shared& shared, const Line& line, const EntryOf& entry_of) {
  const Cut cut = find_cut(chunks, topk, shared);
  const bool is_staged = topk <= kStaged;
  const std::int32_t count = write_picks(chunks, cut, topk, shared, [&](std::int32_t place, std::int32_t position, std::uint32_t) {
    if (is_staged) shared.picks[place] = position;
    else line.store(place, entry_of(position));
  });
  __syncthreads();
  for (std::int32_t place = static_cast<std::int32_t>(threadIdx.x) + (is_staged ? 0 : count); place < topk; place += kThreads) {
    line.store(place, place < count ? entry_of(shared.picks[place]) : -1);
  }
}

/// The candidates of all segments of a row as one row.
struct CandidateRow {
  const std::uint32_t* ranks;
  const std::int32_t* offsets;  ///< [segments + 1]
  std::int32_t segments, topk;

  /// Segment of a position, the last that begins there or before.
  __device__ std::int32_t segment_of(std::int32_t position) const {
    std::int32_t low = 0, high = segments - 1;
    while (low < high) {
      const std::int32_t middle = (low + high + 1) / 2;
      if (offsets[middle] <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }
  __device__ std::int64_t place(std::int32_t segment, std::int32_t position) const {
    return std::int64_t{segment} * topk + position - offsets[segment];
  }
  __device__ void operator()(std::int32_t first, std::int32_t count, std::uint32_t (&out)[kPerThread]) const {
    if (first >= count) return;
    std::int32_t segment = segment_of(first);
    for (int i = 0; i < kPerThread; ++i) {
      if (first + i >= count) return;
      while (first + i >= offsets[segment + 1]) ++segment;
      out[i] = __ldcg(ranks + place(segment, first + i));
    }
  }
};

/// Sums kept[0 .. segments) into shared.offsets, one more than there are segments.
template <int kThreads>
__device__ void sum_kept(const std::int32_t* kept, std::int32_t segments, Shared& shared) {
  std::int32_t before = 0;
  for (std::int32_t first = 0; first < segments; first += kThreads) {
    const std::int32_t s = first + static_cast<std::int32_t>(threadIdx.x);
    std::uint32_t total;
    const std::uint32_t through = inclusive_scan<kThreads>(s < segments ? __ldcg(kept + s) : 0, shared, total);
    if (s < segments) shared.offsets[s + 1] = before + static_cast<std::int32_t>(through);
    before += static_cast<std::int32_t>(total);
  }
  if (threadIdx.x == 0) shared.offsets[0] = 0;
  __syncthreads();
}

constexpr int kCountThreads = 256, kCountColumns = kCountThreads * kPerThread;

/// Counts the ranks of rows of several segments by their top bits. Grid: rows, blocks of columns.
template <class Rows>
__global__ void __launch_bounds__(kCountThreads) count_kernel(const __grid_constant__ Rows rows, std::int64_t segment, std::int32_t* bins) {
  __shared__ std::int32_t own[kBins];
  const std::int64_t begin = std::int64_t{blockIdx.y} * kCountColumns;
  const auto row = rows.open(blockIdx.x);
  const std::int64_t columns = row.count;
  wait_for_launch_before();
  let_next_launch_begin();
  if (columns <= segment || begin >= columns) return;
  for (int b = threadIdx.x; b < kBins; b += kCountThreads) own[b] = 0;
  __syncthreads();
  std::uint32_t ranks[kPerThread] = {};
  row.load(begin + threadIdx.x * kPerThread, columns, ranks);
  for (int i = 0; i < kPerThread; ++i) {
    if (ranks[i] != 0) atomicAdd(&own[ranks[i] >> kTopShift], 1);
  }
  __syncthreads();
  for (int b = threadIdx.x; b < kBins; b += kCountThreads) {
    if (own[b] != 0) atomicAdd(bins + std::int64_t{blockIdx.x} * kBins + b, own[b]);
  }
}

/// Selects from the rows that rows.open(number) gives:
///   count                      positions, from 0
///   load(first, count, ranks)  ranks of positions first .. first + 7, those below count
///   store(place, entry)        a pick, or -1 behind the last
/// Opening a row reads nothing that the launch before writes. Grid: rows, segments.
template <class Rows, int kThreads>
__global__ void __launch_bounds__(kThreads) select_kernel(const __grid_constant__ Rows rows, const __grid_constant__ SelectPolicy policy,
                                                          const __grid_constant__ Candidates candidates, std::int32_t topk) {
  __shared__ Shared shared;
  const std::int64_t row = blockIdx.x, segment = blockIdx.y;
  const auto line = rows.open(row);
  wait_for_launch_before();
  const std::int64_t columns = line.count, segments = (columns + policy.segment - 1) / policy.segment;
  if (segment > 0 && segment >= segments) return;
  const std::int64_t from = segment * policy.segment;
  const auto load = [&](std::int32_t first, std::int32_t count, std::uint32_t(&out)[kPerThread]) { line.load(from + first, from + count, out); };
  Chunks<kThreads, decltype(load)> chunks(static_cast<std::int32_t>(min(policy.segment, columns - from)), load);
  if (segments <= 1) {
    put_out(chunks, topk, shared, line, [](std::int32_t position) { return position; });
    return;
  }

  // What lies in the bin of the row's k-th pick or above; if that is more than k, the segment's own k best.
  std::int32_t* const bins = candidates.bins + row * kBins;
  for (int b = threadIdx.x; b < kBins; b += kThreads) shared.bins[b] = __ldcg(bins + b);
  __syncthreads();
  const bool is_cut = find_bin<kThreads>(topk, shared);
  const std::uint32_t floor = is_cut ? static_cast<std::uint32_t>(shared.bin) << kTopShift : 0;
  const std::int64_t own = row * policy.candidates(topk), at = own + segment * topk;
  const auto keep = [&](std::int32_t place, std::int32_t position, std::uint32_t rank) {
    candidates.ranks[at + place] = rank;
    candidates.entries[at + place] = static_cast<std::int32_t>(from + position);
  };
  std::int32_t count = write_picks(chunks, Cut{max(floor, 1u) - 1, 0}, topk, shared, keep);
  if (count < 0) count = write_picks(chunks, find_cut(chunks, topk, shared), topk, shared, keep);
  if (threadIdx.x == 0) candidates.kept[row * policy.segments + segment] = count;
  if (!is_last_block(candidates.arrived + row, static_cast<std::int32_t>(segments), shared.is_last)) return;
  for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = 0;
  sum_kept<kThreads>(candidates.kept + row * policy.segments, static_cast<std::int32_t>(segments), shared);
  const CandidateRow candidate_row{candidates.ranks + own, shared.offsets, static_cast<std::int32_t>(segments), topk};
  Chunks<kThreads, CandidateRow> merged(shared.offsets[segments], candidate_row);
  put_out(merged, topk, shared, line, [&](std::int32_t position) {
    return __ldcg(candidates.entries + own + candidate_row.place(candidate_row.segment_of(position), position));
  });
}

}  // namespace select

/// What a selection may know of the launch in front of it.
struct SelectLaunch {
  bool can_begin_early = false;  ///< the device can begin launches early
  bool follows = false;          ///< the launch in front is of the same run
  bool is_counted = false;       ///< and has counted the rows of several segments into the bins
};

template <class Rows>
Status launch_select(const char* op, const RunContext& context, const Rows& rows, std::int64_t num_rows, const SelectPolicy& policy,
                     const Candidates& candidates, std::int32_t topk, SelectLaunch how) noexcept {
  const dim3 grid(static_cast<unsigned>(num_rows), static_cast<unsigned>(policy.segments));
  if (policy.segments > 1 && !how.is_counted) {
    const dim3 counting(static_cast<unsigned>(num_rows), blocks_for(policy.segments * policy.segment, select::kCountColumns));
    FATHOM_TRY(launch_early(how.can_begin_early && how.follows, op, context, select::count_kernel<Rows>, counting, dim3(select::kCountThreads), 0, rows,
                            policy.segment, candidates.bins));
    how.follows = true;
  }
  const bool early = how.can_begin_early && how.follows;
  if (policy.wide) return launch_early(early, op, context, select::select_kernel<Rows, 1024>, grid, dim3(1024), 0, rows, policy, candidates, topk);
  return launch_early(early, op, context, select::select_kernel<Rows, 256>, grid, dim3(256), 0, rows, policy, candidates, topk);
}

}  // namespace fathom
