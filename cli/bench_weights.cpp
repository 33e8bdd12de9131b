// Random weights and hidden states, the same on every machine.
#include "cli/bench_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace fathom::cli {
namespace {

/// splitmix64: small, fast, the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() noexcept {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  /// Uniform with mean 0 and variance 1.
  float value() noexcept {
    constexpr double kWidth = 3.4641016151377544;  // sqrt(12)
    return static_cast<float>((static_cast<double>(bits() >> 11) * 0x1p-53 - 0.5) * kWidth);
  }

 private:
  std::uint64_t state_;
};

class WeightMaker {
 public:
  explicit WeightMaker(std::uint64_t seed) : random_(seed) {}

  /// A matrix [out, in] of E4M3 codes and its scales.
  void projection(std::int64_t out, std::int64_t in, TensorView* weight, TensorView* scale) {
    constexpr std::int64_t kTile = 128;
    auto* codes = static_cast<std::uint8_t*>(allocate(out * in));
    for (std::int64_t i = 0; i < out * in; i += 8) {
      const std::uint64_t eight = random_.bits();
      std::memcpy(codes + i, &eight, static_cast<std::size_t>(std::min<std::int64_t>(8, out * in - i)));
    }
    for (std::int64_t i = 0; i < out * in; ++i) {
      if ((codes[i] & 0x7fu) == 0x7fu) codes[i] ^= 1u;  // NaN becomes the largest number
    }
    *weight = view(codes, DType::e4m3, {out, in});
    // Random codes have a root mean square near 2^6.5; the product of `in` of them with unit activations shall be
    // near 1.
    const int exponent = static_cast<int>(std::lround(-6.5 - 0.5 * std::log2(static_cast<double>(in))));
    const std::int64_t rows = (out + kTile - 1) / kTile, columns = (in + kTile - 1) / kTile;
    auto* scales = static_cast<std::uint8_t*>(allocate(rows * columns));
    std::memset(scales, 127 + exponent, static_cast<std::size_t>(rows * columns));
    *scale = view(scales, DType::ue8m0, {rows, columns});
  }

  TensorView matrix(std::int64_t rows, std::int64_t columns, float size) {
    auto* values = static_cast<bf16*>(allocate(rows * columns * 2));
    for (std::int64_t i = 0; i < rows * columns; ++i) values[i] = to_bf16(random_.value() * size);
    return view(values, DType::bf16, {rows, columns});
  }
  TensorView norm(std::int64_t count) {
    auto* values = static_cast<bf16*>(allocate(count * 2));
    for (std::int64_t i = 0; i < count; ++i) values[i] = to_bf16(1.0f);
    return view(values, DType::bf16, {count});
  }
  TensorView floats(std::int64_t count) {
    auto* values = static_cast<float*>(allocate(count * 4));
    for (std::int64_t i = 0; i < count; ++i) values[i] = random_.value();
    return view(values, DType::f32, {count});
  }

  std::vector<std::shared_ptr<const void>> storage;

 private:
  void* allocate(std::int64_t bytes) {
    std::shared_ptr<std::byte[]> block(new std::byte[static_cast<std::size_t>(bytes)]);
    storage.push_back(block);
    return block.get();
  }
  Random random_;
};

}  // namespace

LoadedLayer random_weights(const LayerConfig& config, std::uint64_t seed) {
  WeightMaker make(seed);
  LoadedLayer layer;
  LayerWeights& w = layer.weights;
  const std::int64_t hidden = config.hidden_size, heads_dim = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t latent = std::int64_t{config.output_groups} * config.output_rank;
  const float hidden_scale = 1.0f / std::sqrt(static_cast<float>(hidden));
  make.projection(config.q_rank, hidden, &w.wq_a, &w.wq_a_scale);
  make.projection(heads_dim, config.q_rank, &w.wq_b, &w.wq_b_scale);
  make.projection(config.head_dim, hidden, &w.wkv, &w.wkv_scale);
  make.projection(latent, heads_dim / config.output_groups, &w.wo_a, &w.wo_a_scale);
  make.projection(hidden, latent, &w.wo_b, &w.wo_b_scale);
  w.q_norm = make.norm(config.q_rank);
  w.kv_norm = make.norm(config.head_dim);
  w.attn_sink = make.floats(config.num_heads);
  if (config.compress_ratio > 0) {
    const std::int64_t width = std::int64_t{config.head_dim} * (config.overlap() ? 2 : 1);
    w.compress_wkv = make.matrix(width, hidden, hidden_scale);
    w.compress_wgate = make.matrix(width, hidden, hidden_scale);
    w.compress_ape = make.matrix(config.compress_ratio, width, 1.0f);
    w.compress_norm = make.norm(config.head_dim);
  }
  if (config.kind() == LayerKind::csa) {
    const std::int64_t width = std::int64_t{config.index_dim} * 2;
    make.projection(std::int64_t{config.index_heads} * config.index_dim, config.q_rank, &w.index_wq_b,
                    &w.index_wq_b_scale);
    w.index_weights_proj = make.matrix(config.index_heads, hidden, hidden_scale);
    w.index_wkv = make.matrix(width, hidden, hidden_scale);
    w.index_wgate = make.matrix(width, hidden, hidden_scale);
    w.index_ape = make.matrix(config.compress_ratio, width, 1.0f);
    w.index_norm = make.norm(config.index_dim);
  }
  layer.storage = std::move(make.storage);
  return layer;
}

std::vector<bf16> random_hidden(std::int64_t num_tokens, int hidden_size, std::uint64_t seed) {
  Random random(seed);
  std::vector<bf16> values(static_cast<std::size_t>(num_tokens * hidden_size));
  for (bf16& value : values) value = to_bf16(random.value());
  return values;
}

}  // namespace fathom::cli
