// project, compress and index_query write the CPU's bytes where no sum can differ: weights pick single elements, so
// that products are exact, and the values behind every norm are small multiples of a power of two, so that its sum of
// squares is exact in any order. What is left are the roundings, rotations, transforms and codes, and those are rules.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fathom/compress.h"
#include "fathom/config.h"
#include "fathom/core/memory.h"
#include "fathom/index.h"
#include "fathom/project.h"
#include "support/cuda.h"
#include "support/op_run.h"

namespace fathom {
namespace {

using Floats = std::vector<float>;

/// Runs the plan on copies of densely packed host views, and copies back what it wrote.
template <class Problem, class Args>
std::string run_on(const Device& device, const Problem& problem, Args args) {
  auto plan = plan_problem(test::op_of_problem<Problem>(), &problem, device, {});
  if (!plan.ok()) return plan.status().text();
  auto* const views = reinterpret_cast<TensorView*>(&args);
  const std::span<const ArgSpec> specs = plan->op().args;
  std::vector<DeviceMemory> memory;
  std::vector<void*> host;
  const auto place = [&](const void* from, std::int64_t bytes) {
    auto block = DeviceMemory::allocate(device, bytes);
    EXPECT_TRUE(block.ok() && copy_bytes(device, block->data(), from, bytes).ok());
    memory.push_back(std::move(block).value());
    return memory.back().data();
  };
  for (std::size_t i = 0; i < specs.size(); ++i) {
    host.push_back(views[i].data);
    if (views[i].is_absent()) continue;
    views[i].data = place(views[i].data, bytes_of(views[i].dtype, views[i].numel()));
    views[i].device = device.kind();
  }
  const WorkspaceSize size = plan->workspace_size();
  const std::vector<std::byte> poison(static_cast<std::size_t>(size.total()), std::byte{0xff});
  const Workspace workspace = carve_workspace(place(poison.data(), size.total()), size);
  if (const Status status = init_workspace(plan.value(), workspace); !status.ok()) return status.text();
  const Status status = run_op(plan.value(), {views, specs.size()}, workspace);
  if (!status.ok()) return status.text();
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (!is_written(specs[i].role) || views[i].is_absent()) continue;
    EXPECT_TRUE(copy_bytes(device, host[i], views[i].data, bytes_of(views[i].dtype, views[i].numel())).ok());
  }
  return std::string(synchronize(device).text());
}

/// The bytes of a tensor; 0x5a until something is written.
struct Block {
  std::vector<std::byte> bytes;
  TensorView of(DType dtype, std::initializer_list<std::int64_t> shape) {
    TensorView result = view(nullptr, dtype, shape);
    bytes.resize(static_cast<std::size_t>(bytes_of(dtype, result.numel())), std::byte{0x5a});
    result.data = bytes.data();
    return result;
  }
};

class Values {
 public:
  explicit Values(unsigned seed) : engine_(seed) {}
  int below(int count) { return static_cast<int>(engine_() % static_cast<unsigned>(count)); }

  template <class Make>
  TensorView floats(Block& block, DType dtype, std::initializer_list<std::int64_t> shape, Make make) {
    const TensorView result = block.of(dtype, shape);
    for (std::int64_t i = 0; i < result.numel(); ++i) {
      const float value = make(i);
      if (dtype == DType::f32) {
        static_cast<float*>(result.data)[i] = value;
      } else {
        static_cast<bf16*>(result.data)[i] = to_bf16(value);
      }
    }
    return result;
  }
  TensorView any(Block& block, DType dtype, std::initializer_list<std::int64_t> shape) {
    std::normal_distribution<float> normal;
    return floats(block, dtype, shape, [&](std::int64_t) { return normal(engine_); });
  }
  /// Row n holds a single one, in column (step * n + 11) mod columns.
  TensorView picks(Block& block, std::int64_t rows, std::int64_t columns, std::int64_t step) {
    return floats(block, DType::bf16, {rows, columns},
                  [&](std::int64_t i) { return i % columns == (step * (i / columns) + 11) % columns ? 1.0f : 0.0f; });
  }
  template <class T, class Make>
  TensorView integers(Block& block, DType dtype, std::int64_t count, Make make) {
    const TensorView result = block.of(dtype, {count});
    for (std::int64_t i = 0; i < count; ++i) static_cast<T*>(result.data)[i] = static_cast<T>(make(i));
    return result;
  }

 private:
  std::mt19937 engine_;
};

/// The CPU on sides[0], the GPU on sides[1]: the same inputs, outputs of their own.
template <class Problem, class Args>
void run_both(const Device& device, const Problem& problem, const Args (&sides)[2]) {
  ASSERT_EQ(test::run_with("cpu", problem, sides[0]), "");
  ASSERT_EQ(run_on(device, problem, sides[1]), "");
}

Floats rope_of(int positions, int rope_dim) {
  Floats table(static_cast<std::size_t>(positions) * static_cast<std::size_t>(rope_dim));
  for (int p = 0; p < positions; ++p) {
    for (int i = 0; i < rope_dim / 2; ++i) {
      const float angle =
          static_cast<float>(p) * std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rope_dim));
      table[static_cast<std::size_t>(p * rope_dim + i)] = std::cos(angle);
      table[static_cast<std::size_t>(p * rope_dim + rope_dim / 2 + i)] = std::sin(angle);
    }
  }
  return table;
}

class ProjectBits : public testing::TestWithParam<CacheFormat> {};

TEST_P(ProjectBits, AreTheCpus) {
  FATHOM_NEEDS_CUDA(device);
  const std::int64_t tokens = 37, hidden = 640, q_rank = 512, heads = 3,
                     dim = GetParam() == CacheFormat::kv_e4m3_f32 ? 576 : 512;
  ProjectProblem problem{.num_tokens = 40,
                         .hidden_size = 640,
                         .num_heads = 3,
                         .head_dim = static_cast<int>(dim),
                         .q_rank = 512,
                         .window_format = GetParam(),
                         .window_page_size = 8};
  Values values(1);
  Block x, wq_a, q_norm, wq_b, wkv, kv_norm, positions, slots;
  Floats rope = rope_of(100, 64);
  ProjectArgs args;
  args.x = values.floats(x, DType::bf16, {tokens, hidden},
                         [&](std::int64_t) { return static_cast<float>(values.below(17) - 8) / 4; });
  args.wq_a = values.picks(wq_a, q_rank, hidden, 37);
  args.q_norm = values.any(q_norm, DType::bf16, {q_rank});
  args.wq_b = values.picks(wq_b, heads * dim, q_rank, 51);
  args.wkv = values.picks(wkv, dim, hidden, 43);
  args.kv_norm = values.any(kv_norm, DType::f32, {dim});
  args.rope_table = view(rope.data(), DType::f32, {100, 64});
  args.positions =
      values.integers<std::int32_t>(positions, DType::i32, tokens, [](std::int64_t t) { return t == 5 ? -1 : t * 2; });
  args.slot_mapping =
      values.integers<std::int64_t>(slots, DType::i64, tokens, [](std::int64_t t) { return t == 7 ? -1 : 38 - t; });
  const std::int64_t page_bytes = row_layout(GetParam(), static_cast<int>(dim)).value().page_stride(8);
  Block pages[2], latents[2], queries[2];
  ProjectArgs sides[2];
  for (int i = 0; i < 2; ++i) {
    sides[i] = args;
    sides[i].window_cache = pages[i].of(DType::u8, {5, page_bytes});
    sides[i].q_latent = latents[i].of(DType::bf16, {tokens, q_rank});
    sides[i].q = queries[i].of(DType::bf16, {tokens, heads, dim});
  }
  run_both(device, problem, sides);
  EXPECT_EQ(pages[0].bytes, pages[1].bytes);
  EXPECT_EQ(latents[0].bytes, latents[1].bytes);
  // The head norm sums bf16 squares of the latent, which no choice of values makes exact; its mean is rounded to eight
  // bits.
  EXPECT_EQ(queries[0].bytes, queries[1].bytes);
}
INSTANTIATE_TEST_SUITE_P(Formats, ProjectBits,
                         testing::Values(CacheFormat::kv_e4m3_ue8m0, CacheFormat::kv_bf16, CacheFormat::kv_f32,
                                         CacheFormat::kv_e4m3_f32));

struct QueryShape {
  CacheFormat format;
  int heads, dim, rope_dim;
};

class IndexQueryBits : public testing::TestWithParam<QueryShape> {};

TEST_P(IndexQueryBits, AreTheCpus) {
  FATHOM_NEEDS_CUDA(device);
  const std::int64_t tokens = 29, hidden = 192, q_rank = 256, heads = GetParam().heads, dim = GetParam().dim;
  IndexQueryProblem problem{.num_tokens = 29,
                            .hidden_size = 192,
                            .q_rank = 256,
                            .index_heads = GetParam().heads,
                            .index_dim = GetParam().dim,
                            .rope_dim = GetParam().rope_dim,
                            .format = GetParam().format};
  Values values(2);
  Block x, latent, wq_b, proj, positions;
  Floats rope = rope_of(64, GetParam().rope_dim);
  IndexQueryArgs args;
  args.x = values.any(x, DType::bf16, {tokens, hidden});
  args.q_latent = values.any(latent, DType::bf16, {tokens, q_rank});
  args.wq_b = values.picks(wq_b, heads * dim, q_rank, 51);
  args.weights_proj = values.picks(proj, heads, hidden, 7);
  args.rope_table = view(rope.data(), DType::f32, {64, GetParam().rope_dim});
  args.positions =
      values.integers<std::int32_t>(positions, DType::i32, tokens, [](std::int64_t t) { return t == 3 ? 64 : t * 2; });
  Block queries[2], scales[2], weights[2];
  IndexQueryArgs sides[2];
  for (int i = 0; i < 2; ++i) {
    sides[i] = args;
    sides[i].q = queries[i].of(index_query_dtype(problem.format), {tokens, heads, dim});
    if (problem.format == CacheFormat::index_e2m1_ue8m0)
      sides[i].q_scale = scales[i].of(DType::ue8m0, {tokens, heads, dim / 32});
    sides[i].weights = weights[i].of(DType::f32, {tokens, heads});
  }
  run_both(device, problem, sides);
  EXPECT_EQ(queries[0].bytes, queries[1].bytes);
  EXPECT_EQ(scales[0].bytes, scales[1].bytes);
  EXPECT_EQ(weights[0].bytes, weights[1].bytes);
}
INSTANTIATE_TEST_SUITE_P(Shapes, IndexQueryBits,
                         testing::Values(QueryShape{CacheFormat::index_e2m1_ue8m0, 64, 128, 64},
                                         QueryShape{CacheFormat::index_e4m3_f32, 7, 128, 64},
                                         QueryShape{CacheFormat::index_e2m1_ue8m0, 3, 64, 20},
                                         QueryShape{CacheFormat::index_e4m3_f32, 5, 256, 64},
                                         QueryShape{CacheFormat::index_f32, 5, 128, 64}));

struct EntryShape {
  CacheFormat format;
  int dim, ratio, overlap, hadamard;
};

class CompressBits : public testing::TestWithParam<EntryShape> {};

// Equal scores make an entry the mean of its rows, and rows alternate about it by equal steps. Two sequences take turns
// in two calls each; their state is a ring of just the tokens that an entry pools, and every call wraps round it.
TEST_P(CompressBits, AreTheCpus) {
  FATHOM_NEEDS_CUDA(device);
  const EntryShape shape = GetParam();
  CompressProblem problem{.num_tokens = 0,
                          .num_seqs = 2,
                          .hidden_size = 1100,
                          .dim = shape.dim,
                          .ratio = shape.ratio,
                          .overlap = shape.overlap,
                          .hadamard = shape.hadamard,
                          .format = shape.format,
                          .page_size = 4,
                          .state_page_size = 4};
  const std::int64_t hidden = problem.hidden_size, width = problem.width(), ring = problem.state_tokens();
  const std::int64_t length = 2 * ring + shape.ratio, state_pages = ring / 4, entries = length / shape.ratio;
  const std::int64_t entry_pages = (entries + 3) / 4, table_pages = (length + 3) / 4;
  problem.num_tokens = static_cast<std::int32_t>(2 * length);
  Values values(3);
  Block wkv, wgate, ape, norm, base;
  Floats rope = rope_of(static_cast<int>(length), 64);
  CompressArgs args;
  args.wkv = values.picks(wkv, width, hidden, 7);
  args.wgate = values.floats(wgate, DType::bf16, {width, hidden}, [](std::int64_t) { return 0.0f; });
  args.ape = values.floats(ape, DType::bf16, {shape.ratio, width}, [](std::int64_t) { return 0.25f; });
  args.norm = values.any(norm, DType::f32, {shape.dim});
  args.rope_table = view(rope.data(), DType::f32, {length, 64});
  const auto* means = static_cast<const float*>(
      values
          .floats(base, DType::f32, {hidden},
                  [&](std::int64_t) { return static_cast<float>(values.below(65) - 32) / 16; })
          .data);
  std::vector<std::int32_t> table(static_cast<std::size_t>(2 * table_pages));
  for (std::int64_t i = 0; i < 2 * table_pages; ++i) {
    table[static_cast<std::size_t>(i)] =
        static_cast<std::int32_t>(i / table_pages * state_pages + i % table_pages % state_pages);
  }
  args.state_block_table = view(table.data(), DType::i32, {2, table_pages});
  const std::int64_t page_bytes = row_layout(shape.format, shape.dim).value().page_stride(4);
  Block states[2], caches[2];

  const std::int64_t first_call = ring + 1;  // stops in the middle of a group
  for (const auto& [from, to] : {std::pair{std::int64_t{0}, first_call}, std::pair{first_call, length}}) {
    const std::int64_t count = to - from, tokens = 2 * count;
    const auto seq = [&](std::int64_t t) { return t / count; };
    const auto position = [&](std::int64_t t) { return from + t % count; };
    Block x, positions, seq_ids, slots, state_slots;
    args.x = values.floats(x, DType::bf16, {tokens, hidden}, [&](std::int64_t i) {
      return means[i % hidden] + (position(i / hidden) % 2 == 0 ? 0.5f : -0.5f);
    });
    args.positions = values.integers<std::int32_t>(positions, DType::i32, tokens, position);
    args.seq_ids = values.integers<std::int32_t>(seq_ids, DType::i32, tokens, seq);
    args.slot_mapping = values.integers<std::int64_t>(slots, DType::i64, tokens, [&](std::int64_t t) {
      return seq(t) * entry_pages * 4 + position(t) / shape.ratio;
    });
    args.state_slot_mapping = values.integers<std::int64_t>(state_slots, DType::i64, tokens, [&](std::int64_t t) {
      // Of two tokens that would name one slot only the later writes.
      return position(t) + ring < to ? -1 : seq(t) * ring + position(t) % ring;
    });
    CompressArgs sides[2];
    for (int i = 0; i < 2; ++i) {
      sides[i] = args;
      sides[i].state_cache = states[i].of(DType::u8, {2 * state_pages, 4 * 2 * width * 4});
      sides[i].cache = caches[i].of(DType::u8, {2 * entry_pages, page_bytes});
    }
    run_both(device, problem, sides);
    EXPECT_EQ(states[0].bytes, states[1].bytes) << "tokens from " << from;
    EXPECT_EQ(caches[0].bytes, caches[1].bytes) << "tokens from " << from;
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, CompressBits,
                         testing::Values(EntryShape{CacheFormat::kv_e4m3_ue8m0, 512, 4, 1, 0},
                                         EntryShape{CacheFormat::index_e2m1_ue8m0, 128, 4, 1, 1},
                                         EntryShape{CacheFormat::index_e4m3_f32, 128, 4, 1, 1},
                                         EntryShape{CacheFormat::kv_e4m3_ue8m0, 512, 128, 0, 0},
                                         EntryShape{CacheFormat::kv_bf16, 66, 4, 1, 0},
                                         EntryShape{CacheFormat::kv_bf16, 66, 64, 0, 0}));

}  // namespace
}  // namespace fathom
