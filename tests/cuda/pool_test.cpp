// A page pool on a GPU beside one in host memory: the same calls, and rows that "layers" write, leave the same bytes.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "cache/pool_model.h"
#include "cli/device_copy.h"
#include "harness/gpu.h"
#include "harness/random.h"
#include "support/cuda.h"

namespace fathom {
namespace {

/// A view's elements, in host memory.
std::vector<std::byte> bytes_on(const Device& device, const TensorView& tensor) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(bytes_of(tensor.dtype, tensor.numel())));
  EXPECT_TRUE(copy_bytes(device, bytes.data(), tensor.data, static_cast<std::int64_t>(bytes.size())).ok());
  EXPECT_TRUE(synchronize(device).ok());
  return bytes;
}

template <class Views>
std::span<const TensorView> views_in(const Views& views) {
  return {reinterpret_cast<const TensorView*>(&views), sizeof(Views) / sizeof(TensorView)};
}

class Twins {
 public:
  Twins(const LayerProblem& problem, const PagePoolOptions& options, const Device& gpu, std::uint64_t seed)
      : gpu_(gpu), random_(seed), host(pool_of(problem, options)),
        device(std::move(PagePool::create(problem, options, gpu)).value()), layers_(options.num_layers) {}

  /// Both begin the step, get the same random rows in every slot it writes, and commit or abandon.
  void step(const std::vector<int>& sequences, const std::vector<std::int64_t>& counts, bool commit) {
    const auto expected = host.begin_step(sequences, counts), got = device.begin_step(sequences, counts);
    ASSERT_EQ(got.ok(), expected.ok()) << got.status().text() << expected.status().text();
    if (!got.ok()) return;
    const auto expected_views = views_in(expected.value()), got_views = views_in(got.value());
    for (std::size_t i = 0; i < got_views.size(); ++i) {
      ASSERT_EQ(got_views[i].shape, expected_views[i].shape);
      if (got_views[i].is_absent()) continue;
      ASSERT_EQ(got_views[i].device, DeviceKind::cuda);
      ASSERT_EQ(bytes_on(gpu_, got_views[i]), bytes_on(cpu_, expected_views[i])) << "array " << i << " of the batch";
    }
    const Batch& batch = expected.value();
    const TensorView slots[] = {batch.window_slots, batch.entry_slots, batch.index_slots, batch.state_slots,
                                batch.index_state_slots};
    for (int layer = 0; layer < layers_; ++layer) {
      for (std::size_t cache = 0; cache < std::size(slots); ++cache) write_rows(layer, cache, slots[cache]);
    }
    if (commit) {
      EXPECT_TRUE(host.commit().ok());
      EXPECT_TRUE(device.commit().ok());
    } else {
      host.abandon();
      device.abandon();
    }
  }

  /// Everything that a caller can see.
  void expect_equal() {
    for (int layer = 0; layer < layers_; ++layer) {
      const auto expected = views_of(host.caches(layer)), got = views_of(device.caches(layer));
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(got[i].shape, expected[i].shape);
        ASSERT_TRUE(bytes_on(gpu_, got[i]) == bytes_on(cpu_, expected[i])) << "cache " << i << " of layer " << layer;
      }
    }
    for (int sequence = 0; sequence < 8; ++sequence) {
      const auto length = host.length(sequence);
      ASSERT_EQ(device.length(sequence).ok(), length.ok());
      if (!length.ok()) continue;
      ASSERT_EQ(device.length(sequence).value(), length.value());
      ASSERT_EQ(device.snapshot(sequence).value(), host.snapshot(sequence).value()) << "sequence " << sequence;
    }
  }

 private:
  void write_rows(int layer, std::size_t cache, const TensorView& slots) {
    if (slots.is_absent()) return;
    const LayerProblem& p = host.problem();
    const int parts = p.compress_ratio == 4 ? 4 : 2;
    const struct { CacheFormat format; int dim, page_size; } kinds[] = {
        {p.window_format, p.head_dim, p.window_page_size}, {p.entries_format, p.head_dim, p.entries_page_size},
        {p.index_format, p.index_dim, p.index_page_size}, {CacheFormat::state_f32, parts * p.head_dim, p.state_page_size},
        {CacheFormat::state_f32, parts * p.index_dim, p.index_state_page_size}};
    const RowLayout layout = row_layout(kinds[cache].format, kinds[cache].dim).value();
    const PagedCacheView to = paged_cache("test", "cache", views_of(host.caches(layer))[cache], layout, kinds[cache].page_size).value();
    auto* const device_pages = static_cast<std::byte*>(views_of(device.caches(layer))[cache].data);
    for (std::int64_t t = 0; t < slots.shape[0]; ++t) {
      const std::int64_t slot = slots.at<std::int64_t>(t);
      if (slot < 0) continue;
      ASSERT_TRUE(to.holds(slot));
      for (const auto& [at, count] : {std::pair(to.row(slot), layout.row_bytes), std::pair(to.footer(slot), layout.footer_bytes)}) {
        for (int i = 0; i < count; ++i) at[i] = static_cast<std::byte>(random_.bits());
        ASSERT_TRUE(copy_bytes(gpu_, device_pages + (at - to.pages), at, count).ok());
      }
    }
  }

  Device gpu_, cpu_ = Device::cpu(1).value();
  harness::Random random_;

 public:
  PagePool host, device;

 private:
  int layers_;
};

/// compress_ratio and the formats' row codec: f32 rows, and served rows with footers and padding.
class CudaPool : public testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  LayerProblem problem() const {
    LayerProblem result = small_problem(std::get<0>(GetParam()));
    if (!std::get<1>(GetParam())) return result;
    result.head_dim = 512;
    result.index_dim = 128;
    result.window_format = result.entries_format = CacheFormat::kv_e4m3_ue8m0;
    result.index_format = CacheFormat::index_e2m1_ue8m0;
    return result;
  }
};

TEST_P(CudaPool, RandomCallsLeaveTheBytesOfAHostPool) {
  FATHOM_NEEDS_CUDA(gpu);
  PagePoolOptions options = pool_options_for(problem(), 6, 60, 5).value();
  options.num_layers = 2;
  options.page_order_seed = 3;
  Twins twins(problem(), options, gpu, 1);
  harness::Random random(2);
  std::vector<int> alive;
  const auto any = [&] { return alive[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(alive.size())))]; };
  const auto both = [&](const auto& call) {
    const auto expected = call(twins.host), got = call(twins.device);
    EXPECT_EQ(got.ok(), expected.ok()) << got.status().text();
    if (got.ok() && expected.ok()) {
      EXPECT_EQ(got.value(), expected.value());
      alive.push_back(got.value());
    }
  };
  for (int call = 0; call < 120; ++call) {
    const std::int64_t what = alive.empty() ? 0 : random.below(10);
    if (what == 0 && alive.size() < 5) {
      both([](PagePool& pool) { return pool.add_sequence(); });
    } else if (what == 1 && alive.size() < 5) {
      const int parent = any();
      const std::int64_t tokens = random.between(0, twins.host.length(parent).value());
      both([&](PagePool& pool) { return pool.fork(parent, tokens); });
    } else if (what == 2 && alive.size() < 5) {
      const std::vector<std::byte> snapshot = twins.device.snapshot(any()).value();
      both([&](PagePool& pool) { return pool.restore(snapshot); });
    } else if (what == 3) {
      const int sequence = any();
      const std::int64_t tokens = random.between(0, std::min<std::int64_t>(7, twins.host.length(sequence).value()));
      EXPECT_EQ(twins.device.roll_back(sequence, tokens).ok(), twins.host.roll_back(sequence, tokens).ok());
    } else if (what == 4 && alive.size() > 1) {
      const int sequence = any();
      EXPECT_TRUE(twins.host.remove_sequence(sequence).ok());
      EXPECT_TRUE(twins.device.remove_sequence(sequence).ok());
      std::erase(alive, sequence);
    } else if (!alive.empty()) {
      std::vector<int> sequences;
      std::vector<std::int64_t> counts;
      for (const int sequence : alive) {
        const std::int64_t room = 60 - twins.host.length(sequence).value();
        if (room == 0 || random.chance(0.4)) continue;
        sequences.push_back(sequence);
        counts.push_back(random.between(1, std::min<std::int64_t>(room, 9)));
      }
      if (!sequences.empty()) twins.step(sequences, counts, random.chance(0.8));
    }
    if (call % 10 == 9) twins.expect_equal();
    if (HasFatalFailure()) return;
  }
}

/// The arrays of a batch, wherever they lie.
void expect_same_places(const Batch& got, const Batch& expected, bool also_by_token) {
  for (std::size_t i = 0; i < views_in(got).size(); ++i) {
    const TensorView &a = views_in(got)[i], &b = views_in(expected)[i];
    EXPECT_EQ(a.data, b.data) << "array " << i;
    EXPECT_EQ(a.strides, b.strides) << "array " << i;
    if (also_by_token || a.rank == 2) {
      EXPECT_EQ(a.shape, b.shape) << "array " << i;
    }
  }
}

TEST_P(CudaPool, ABatchStaysWhereItIs) {
  FATHOM_NEEDS_CUDA(gpu);
  LayerProblem layer = problem();
  layer.num_seqs = 1;
  PagePool pool = std::move(PagePool::create(layer, pool_options_for(layer, 1, 400).value(), gpu)).value();
  const int sequence = pool.add_sequence().value();
  const auto step = [&](std::int64_t count) {
    const Batch batch = pool.begin_step(std::vector<int>{sequence}, std::vector<std::int64_t>{count}).value();
    EXPECT_TRUE(pool.commit().ok());
    return batch;
  };
  const Batch prefill = step(50), first = step(1);
  expect_same_places(first, prefill, false);
  for (int i = 1; i < 300 && !HasFailure(); ++i) expect_same_places(step(1), first, true);
}

// A graph that was captured for more tokens runs over what a smaller step leaves: tokens that are nowhere.
TEST_P(CudaPool, ASmallerStepIsPaddedWithAbsentTokens) {
  FATHOM_NEEDS_CUDA(gpu);
  PagePool pool = std::move(PagePool::create(problem(), pool_options_for(problem(), 2, 60).value(), gpu)).value();
  const std::vector<int> sequences{pool.add_sequence().value(), pool.add_sequence().value()};
  const Batch large = pool.begin_step(sequences, std::vector<std::int64_t>{5, 6}).value();
  ASSERT_TRUE(pool.commit().ok());
  ASSERT_TRUE(pool.begin_step(std::vector<int>{sequences[1]}, std::vector<std::int64_t>{2}).ok());
  for (const TensorView& array : views_in(large)) {
    if (array.is_absent() || array.rank == 2) continue;
    const std::vector<std::byte> bytes = bytes_on(gpu, array);
    const auto used = static_cast<std::ptrdiff_t>(bytes_of(array.dtype, 2));
    EXPECT_TRUE(std::all_of(bytes.begin() + used, bytes.end(), [](std::byte byte) { return byte == std::byte{0xff}; }));
  }
}

TEST_P(CudaPool, ShorterSequencesLeaveNoPagesOfALongerOne) {
  FATHOM_NEEDS_CUDA(gpu);
  Twins twins(problem(), pool_options_for(problem(), 3, 60).value(), gpu, 1);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(twins.host.add_sequence().ok() && twins.device.add_sequence().ok());
  twins.step({0}, {50}, true);
  twins.step({1, 2}, {1, 1}, true);  // more rows than before, all of them short
  if (HasFatalFailure()) return;
  twins.step({2}, {1}, false);
  twins.expect_equal();
}

/// A stream that has work for some milliseconds in front of what comes next.
harness::GpuStream busy_stream(const Device& gpu, const DeviceMemory& memory) {
  auto stream = std::move(harness::GpuStream::create(gpu)).value();
  for (int i = 0; i < 200; ++i)
    EXPECT_TRUE(fill_bytes(gpu, memory.data(), std::byte{1}, memory.bytes(), stream.get()).ok());
  return stream;
}

TEST_P(CudaPool, RestoreIsDoneWithTheSnapshotWhenItReturns) {
  FATHOM_NEEDS_CUDA(gpu);
  const DeviceMemory memory = std::move(DeviceMemory::allocate(gpu, std::int64_t{128} << 20)).value();
  const harness::GpuStream stream = busy_stream(gpu, memory);
  PagePoolOptions options = pool_options_for(problem(), 2, 60).value();
  PagePool first = pool_of(problem(), options);
  const int sequence = first.add_sequence().value();
  ASSERT_TRUE(first.begin_step(std::vector<int>{sequence}, std::vector<std::int64_t>{50}).ok());
  ASSERT_TRUE(first.commit().ok());
  std::vector<std::byte> bytes = first.snapshot(sequence).value();
  const int caches = problem().compress_ratio == 0 ? 1 : problem().compress_ratio == 4 ? 5 : 3;
  for (std::size_t i = 56 + 64 * static_cast<std::size_t>(caches); i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i);  // the rows
  void* locked = nullptr;
  ASSERT_EQ(cudaMallocHost(&locked, bytes.size()), cudaSuccess);
  std::memcpy(locked, bytes.data(), bytes.size());

  options.stream = stream.get();
  PagePool pool = std::move(PagePool::create(problem(), options, gpu)).value();
  const auto restored = pool.restore({static_cast<const std::byte*>(locked), bytes.size()});
  std::memset(locked, 0x77, bytes.size());
  ASSERT_TRUE(restored.ok()) << restored.status().text();
  EXPECT_TRUE(pool.snapshot(restored.value()).value() == bytes);
  EXPECT_EQ(cudaFreeHost(locked), cudaSuccess);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaPool, testing::Combine(testing::Values(0, 4, 16), testing::Bool()));

// What the device refused while pages were given back is told by the next call, which then leaves nothing behind.
TEST(CudaPoolTrouble, CallsThatFailLeaveNothingBehind) {
  FATHOM_NEEDS_CUDA(gpu);
  const LayerProblem problem = small_problem(4);
  const harness::GpuStream stream = std::move(harness::GpuStream::create(gpu)).value();
  PagePoolOptions options = pool_options_for(problem, 3, 60).value();
  options.stream = stream.get();
  PagePool pool = std::move(PagePool::create(problem, options, gpu)).value();
  const int kept = pool.add_sequence().value(), removed = pool.add_sequence().value();
  ASSERT_TRUE(pool.begin_step(std::vector<int>{kept, removed}, std::vector<std::int64_t>{10, 10}).ok());
  ASSERT_TRUE(pool.commit().ok());
  const std::vector<std::byte> bytes = pool.snapshot(kept).value();
  auto* const native = static_cast<cudaStream_t>(stream.get().handle);
  ASSERT_EQ(cudaStreamBeginCapture(native, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_NE(cudaStreamSynchronize(native), cudaSuccess);  // spoils the capture: the stream now refuses everything
  EXPECT_TRUE(pool.remove_sequence(removed).ok());
  cudaGraph_t graph = nullptr;
  EXPECT_NE(cudaStreamEndCapture(native, &graph), cudaSuccess);
  cudaGetLastError();

  const std::int64_t free_pages = pool.num_free_pages(PagePool::kWindow);
  EXPECT_EQ(pool.begin_step(std::vector<int>{kept}, std::vector<std::int64_t>{10}).status().code(),
            StatusCode::device_error);
  EXPECT_EQ(pool.num_free_pages(PagePool::kWindow), free_pages);
  EXPECT_EQ(pool.restore(bytes).status().code(), StatusCode::device_error);  // and no step is open
  EXPECT_EQ(pool.num_free_pages(PagePool::kWindow), free_pages);
  EXPECT_FALSE(pool.length(removed).ok());
  EXPECT_EQ(pool.length(kept).value(), 10);
}

}  // namespace
}  // namespace fathom
