// A page pool on a GPU beside one in host memory: the same calls, and rows that "layers" write, leave the same bytes.
#include <gtest/gtest.h>

#include "cache/pool_model.h"
#include "cli/device_copy.h"
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

INSTANTIATE_TEST_SUITE_P(Kinds, CudaPool, testing::Combine(testing::Values(0, 4, 16), testing::Bool()));

TEST(CudaPoolBatch, KeepsItsAddressesWhileStepsDoNotGrow) {
  FATHOM_NEEDS_CUDA(gpu);
  const LayerProblem problem = small_problem(4);
  PagePool pool = std::move(PagePool::create(problem, pool_options_for(problem, 1, 60).value(), gpu)).value();
  const int sequence = pool.add_sequence().value();
  const auto step = [&](std::int64_t count) {
    const Batch batch = pool.begin_step(std::vector<int>{sequence}, std::vector<std::int64_t>{count}).value();
    EXPECT_TRUE(pool.commit().ok());
    return batch;
  };
  const Batch first = step(12);
  const Batch second = step(12);
  EXPECT_EQ(second.positions.data, first.positions.data);
}

}  // namespace
}  // namespace fathom
