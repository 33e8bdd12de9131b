// A small layer with random weights, run step by step over a PagePool: what the whole-layer tests compare.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/device_copy.h"
#include "harness/plan_workspace.h"
#include "support/op_run.h"

namespace fathom::test {

/// Uniform in [-1, 1), the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  float next() { return static_cast<float>(static_cast<std::int64_t>(bits() >> 40) - (1 << 23)) / static_cast<float>(1 << 23); }
  std::int64_t below(std::int64_t count) { return static_cast<std::int64_t>((bits() >> 16) % static_cast<std::uint64_t>(count)); }

 private:
  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t state_;
};

/// Problem, weights and rotary table of one random layer; `ratio` 0, 4 or (for HCA) any other. What is multiplied by is
/// stored as `weight`, f32 or bf16.
class TinyLayer {
 public:
  TinyLayer(int ratio, Numerics numerics, std::uint64_t seed = 1, DType weight = DType::f32) : random_(seed) {
    const bool exact = numerics == Numerics::exact;
    problem = {.num_tokens = 64,
               .num_seqs = 4,
               .hidden_size = 32,
               .num_heads = 3,
               .q_rank = 16,
               .output_groups = 1,
               .output_rank = 8,
               .window = 8,
               .compress_ratio = ratio,
               .index_heads = 2,
               .index_dim = 128,
               .index_topk = 6,
               .max_entries = 64,
               .numerics = numerics,
               .wq_a_dtype = weight,
               .wq_b_dtype = weight,
               .wkv_dtype = weight,
               .wo_a_dtype = weight,
               .wo_b_dtype = weight,
               .index_wq_b_dtype = weight,
               .compress_weight_dtype = weight,
               .out_dtype = exact ? DType::f32 : DType::bf16};
    if (exact) {
      problem.window_format = problem.entries_format = CacheFormat::kv_f32;
      problem.index_format = CacheFormat::index_f32;
    }
    weights.wq_a = random_weight({16, 32}, 0.4f);
    weights.q_norm = random_view({16}, 0.2f, 1.0f);
    weights.wq_b = random_weight({3 * 512, 16}, 0.4f);
    weights.wkv = random_weight({512, 32}, 0.4f);
    weights.kv_norm = random_view({512}, 0.2f, 1.0f);
    weights.attn_sink = random_view({3}, 1.0f);
    weights.wo_a = random_weight({8, 3 * 512}, 0.1f);
    weights.wo_b = random_weight({32, 8}, 0.4f);
    if (ratio > 0) {
      const std::int64_t width = ratio == 4 ? 1024 : 512;
      weights.compress_wkv = random_weight({width, 32}, 0.4f);
      weights.compress_wgate = random_weight({width, 32}, 0.4f);
      weights.compress_ape = random_view({ratio, width}, 0.5f);
      weights.compress_norm = random_view({512}, 0.2f, 1.0f);
    }
    if (ratio == 4) {
      weights.index_wq_b = random_weight({2 * 128, 16}, 0.4f);
      weights.index_weights_proj = random_weight({2, 32}, 0.4f);
      weights.index_wkv = random_weight({256, 32}, 0.4f);
      weights.index_wgate = random_weight({256, 32}, 0.4f);
      weights.index_ape = random_view({4, 256}, 0.5f);
      weights.index_norm = random_view({128}, 0.2f, 1.0f);
    }
    RopeConfig rope;
    if (ratio > 0) rope = {.theta = 160000, .factor = 16};
    rope_table = random_view({kPositions, 64}, 0);
    EXPECT_TRUE(fill_rope_table(rope, 0, rope_table).ok());
  }

  /// Hidden states f32 or bf16 [count, 32] of stream `stream`, tokens first..first+count-1.
  TensorView hidden(int stream, std::int64_t first, std::int64_t count) {
    std::vector<float>& values = streams_[stream];
    if (values.empty()) {
      Random random(1000 + static_cast<std::uint64_t>(stream));
      values.resize(kPositions * 32);
      for (float& value : values) value = round_bf16(random.next() * 1.7f);
      narrow_[stream].resize(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) narrow_[stream][i] = to_bf16(values[i]);
    }
    return problem.numerics == Numerics::exact ? view(values.data() + first * 32, DType::f32, {count, 32})
                                               : view(narrow_[stream].data() + first * 32, DType::bf16, {count, 32});
  }

  static constexpr std::int64_t kPositions = 512;
  LayerProblem problem;
  LayerWeights weights;
  TensorView rope_table;

 private:
  TensorView random_view(std::initializer_list<std::int64_t> shape, float scale, float centre = 0) {
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    owned_.emplace_back(count);
    for (float& value : owned_.back()) value = centre + scale * random_.next();
    return view(owned_.back().data(), DType::f32, shape);
  }
  TensorView random_weight(std::initializer_list<std::int64_t> shape, float scale) {
    const TensorView wide = random_view(shape, scale);
    if (problem.wq_a_dtype == DType::f32) return wide;
    std::vector<bf16>& narrow = owned_narrow_.emplace_back();
    for (const float value : owned_.back()) narrow.push_back(to_bf16(value));
    return view(narrow.data(), DType::bf16, shape);
  }
  Random random_;
  std::vector<std::vector<float>> owned_;
  std::vector<std::vector<bf16>> owned_narrow_;
  std::map<int, std::vector<float>> streams_;
  std::map<int, std::vector<bf16>> narrow_;
};

/// What one sequence of a step gets: `count` tokens of stream `stream`.
struct Part {
  int sequence;
  int stream;
  std::int64_t count;
};

/// A pool and a plan over a TinyLayer. Results are kept per stream and position, as the bits that came out.
class Session {
 public:
  Session(TinyLayer& layer, PagePoolOptions options, const Device& device, const std::string& force = "")
      : layer_(layer), device_(device), pool(PagePool::create(layer.problem, options, device).value()),
        plan_(plan_layer(layer.problem, device_, {force}).value()),
        workspace_(harness::PlanWorkspace::create(plan_).value()), copies_(device),
        weights_(copies_.of(layer.weights).value()), rope_table_(copies_.of(layer.rope_table).value()) {
    const Buffer& scratch = workspace_.get().scratch;
    EXPECT_TRUE(fill_bytes(device_, scratch.data, std::byte{0xff}, scratch.bytes).ok());  // NaN
  }
  Session(TinyLayer& layer, PagePoolOptions options, const std::string& force = "", int threads = 2)
      : Session(layer, options, Device::cpu(threads).value(), force) {}
  explicit Session(TinyLayer& layer) : Session(layer, pool_options_for(layer.problem, 8, TinyLayer::kPositions, 8).value()) {}

  int add() { return pool.add_sequence().value(); }

  /// Runs one step without committing it; outputs f32, rows in order.
  std::vector<float> run(const std::vector<Part>& parts) {
    std::vector<int> sequences;
    std::vector<std::int64_t> counts;
    std::int64_t total = 0;
    for (const Part& part : parts) {
      sequences.push_back(part.sequence);
      counts.push_back(part.count);
      total += part.count;
    }
    std::vector<std::byte> x;
    for (const Part& part : parts) {
      const TensorView rows = layer_.hidden(part.stream, pool.length(part.sequence).value(), part.count);
      const auto* bytes = static_cast<const std::byte*>(rows.data);
      x.insert(x.end(), bytes, bytes + bytes_of(rows.dtype, rows.numel()));
    }
    auto batch = pool.begin_step(sequences, counts);
    EXPECT_TRUE(batch.ok()) << batch.status().text();
    LayerArgs args;
    cli::DeviceCopies step_copies(device_);
    args.x = step_copies.of(view(x.data(), activation_dtype(layer_.problem.numerics), {total, 32})).value();
    args.rope_table = rope_table_;
    args.weights = weights_;
    args.caches = pool.caches(0);
    args.batch = batch.value();
    std::vector<float> out(static_cast<std::size_t>(total) * 32, NAN);
    const auto rows = cli::DeviceRows::create(device_, layer_.problem.out_dtype, total, 32).value();
    args.out = rows.view(total, {32});
    EXPECT_TRUE(fill_bytes(device_, args.out.data, std::byte{0xff}, bytes_of(args.out.dtype, args.out.numel())).ok());
    const std::int64_t heads = layer_.problem.num_heads, dim = layer_.problem.head_dim;
    const auto attn_out =
        cli::DeviceRows::create(device_, activation_dtype(layer_.problem.numerics), total, heads * dim).value();
    if (with_attn_out) args.attn_out = attn_out.view(total, {heads, dim});
    const Workspace& workspace = workspace_.get();
    const std::size_t calls = stage_by_stage ? layer_stages(plan_).size() : 1;
    for (std::size_t i = 0; i < calls; ++i) {
      const Status status = stage_by_stage ? run_layer_stage(plan_, i, args, workspace) : layer(plan_, args, workspace);
      EXPECT_TRUE(status.ok()) << status.text();
    }
    const Status read = rows.read_floats(total, out.data());
    EXPECT_TRUE(read.ok()) << read.text();
    return out;
  }

  /// Runs and commits; results are also kept in `results`.
  std::vector<float> step(const std::vector<Part>& parts) {
    std::vector<std::int64_t> starts;
    for (const Part& part : parts) starts.push_back(pool.length(part.sequence).value());
    const std::vector<float> out = run(parts);
    EXPECT_TRUE(pool.commit().ok());
    std::size_t at = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      for (std::int64_t t = 0; t < parts[i].count; ++t, at += 32) {
        results[parts[i].stream][starts[i] + t] = std::vector<float>(out.begin() + static_cast<std::ptrdiff_t>(at),
                                                                     out.begin() + static_cast<std::ptrdiff_t>(at + 32));
      }
    }
    return out;
  }

  /// Entries of a sequence, dequantised; cache 1 entries, 2 index keys.
  std::vector<float> rows(int sequence, int cache, std::int64_t count) {
    const bool keys = cache == 2;
    const int dim = keys ? layer_.problem.index_dim : layer_.problem.head_dim;
    const int page_size = keys ? layer_.problem.index_page_size : layer_.problem.entries_page_size;
    const CacheFormat format = keys ? layer_.problem.index_format : layer_.problem.entries_format;
    const LayerCaches caches = pool.caches(0);
    const auto host = cli::HostPages::of(device_, keys ? caches.index_keys : caches.entries).value();
    auto pages = paged_cache("test", "cache", host.view(), row_layout(format, dim).value(), page_size);
    const std::vector<std::int32_t> table = pool.block_table(sequence, cache).value();
    std::vector<std::int64_t> slots;
    for (std::int64_t j = 0; j < count; ++j) slots.push_back(slot_through(table.data(), static_cast<std::int64_t>(table.size()), page_size, j));
    std::vector<float> values(static_cast<std::size_t>(count) * dim);
    EXPECT_TRUE(read_rows(pages.value(), view(slots.data(), DType::i64, {count}), view(values.data(), DType::f32, {count, dim})).ok());
    return values;
  }

  std::map<int, std::map<std::int64_t, std::vector<float>>> results;
  bool stage_by_stage = false;  ///< steps run through run_layer_stage
  bool with_attn_out = false;   ///< steps ask for attn_out too

 private:
  TinyLayer& layer_;
  Device device_;

 public:
  PagePool pool;

 private:
  LayerPlan plan_;
  harness::PlanWorkspace workspace_;
  cli::DeviceCopies copies_;
  LayerWeights weights_;
  TensorView rope_table_;
};

}  // namespace fathom::test
