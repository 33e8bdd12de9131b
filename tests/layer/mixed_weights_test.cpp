// Projections of mixed types through a checkpoint: in `served` each is multiplied as its own storage says (spec 0.5),
// whatever the others are.
#include <gtest/gtest.h>

#include <cmath>
#include <list>
#include <string>
#include <vector>

#include "cache/number_codecs.h"
#include "checkpoint/checkpoint_files.h"
#include "fathom/checkpoint.h"
#include "support/tiny_layer.h"

namespace fathom {
namespace {

using test::Session;
using test::TinyLayer;
using Results = std::map<std::int64_t, std::vector<float>>;

struct Projection {
  const char* name;
  TensorView LayerWeights::*weight;
  TensorView LayerWeights::*scale;
  DType LayerProblem::*dtype;
};
using W = LayerWeights;
using P = LayerProblem;
constexpr Projection kProjections[] = {
    {"wq_a", &W::wq_a, &W::wq_a_scale, &P::wq_a_dtype},
    {"wq_b", &W::wq_b, &W::wq_b_scale, &P::wq_b_dtype},
    {"wkv", &W::wkv, &W::wkv_scale, &P::wkv_dtype},
    {"wo_a", &W::wo_a, &W::wo_a_scale, &P::wo_a_dtype},
    {"wo_b", &W::wo_b, &W::wo_b_scale, &P::wo_b_dtype},
    {"indexer.wq_b", &W::index_wq_b, &W::index_wq_b_scale, &P::index_wq_b_dtype},
};

/// A layer whose projections are all E4M3 numbers, stored as such where `quantised` says so and as f32 elsewhere, so that
/// two of these differ in nothing but what `served` does with the activations.
class MixedLayer : public TinyLayer {
 public:
  explicit MixedLayer(const std::vector<bool>& quantised) : TinyLayer(4, Numerics::served) {
    for (std::size_t i = 0; i < std::size(kProjections); ++i) round_or_quantise(kProjections[i], quantised[i]);
  }

 private:
  void round_or_quantise(const Projection& projection, bool quantised) {
    constexpr int kScale = 127 - 9;  // every weight of the layer is below 448 * 2^-9
    TensorView& weight = weights.*projection.weight;
    const std::int64_t rows = weight.shape[0], columns = weight.shape[1];
    std::vector<std::uint8_t>& codes = codes_.emplace_back(rows * columns);
    auto* values = static_cast<float*>(weight.data);
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      codes[i] = encode_e4m3(values[i] / decode_ue8m0(kScale));
      values[i] = kE4m3Values[codes[i]] * decode_ue8m0(kScale);
    }
    if (!quantised) return;
    const std::int64_t tile_rows = (rows + 127) / 128, tile_columns = (columns + 127) / 128;
    std::vector<std::uint8_t>& scales = codes_.emplace_back(tile_rows * tile_columns, static_cast<std::uint8_t>(kScale));
    weight = view(codes.data(), DType::e4m3, {rows, columns});
    weights.*projection.scale = view(scales.data(), DType::ue8m0, {tile_rows, tile_columns});
    problem.*projection.dtype = DType::e4m3;
  }
  std::list<std::vector<std::uint8_t>> codes_;
};

Results results_of(TinyLayer& layer, const std::string& force = "") {
  Session session(layer, pool_options_for(layer.problem, 1, 60).value(), force);
  const int sequence = session.add();
  for (const std::int64_t count : {40, 1, 1, 8}) session.step({{sequence, 0, count}});
  return session.results[0];
}

double relative_error(const Results& a, const Results& b) {
  double difference = 0, size = 0;
  for (const auto& [t, row] : b) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      difference += std::pow(a.at(t)[c] - row[c], 2);
      size += std::pow(row[c], 2);
    }
  }
  return std::sqrt(difference / size);
}

/// The layer written as a checkpoint and loaded again.
Result<LoadedLayer> through_a_file(const TinyLayer& tiny) {
  const LayerProblem& problem = tiny.problem;
  LayerConfig config;
  config.name = "layers.2.attn";
  config.layer_index = 2;
  config.hidden_size = problem.hidden_size;
  config.num_heads = problem.num_heads;
  config.q_rank = problem.q_rank;
  config.output_groups = problem.output_groups;
  config.output_rank = problem.output_rank;
  config.window = problem.window;
  config.compress_ratio = problem.compress_ratio;
  config.index_heads = problem.index_heads;
  config.index_dim = problem.index_dim;
  config.index_topk = problem.index_topk;
  TensorWriter writer;
  const auto add = [&](const std::string& name, const TensorView& tensor) {
    EXPECT_TRUE(tensor.is_absent() || writer.add(config.name + "." + name, tensor).ok()) << name;
  };
  const LayerWeights& w = tiny.weights;
  for (const Projection& projection : kProjections) {
    add(std::string(projection.name) + ".weight", w.*projection.weight);
    add(std::string(projection.name) + ".scale", w.*projection.scale);
  }
  add("q_norm.weight", w.q_norm);
  add("kv_norm.weight", w.kv_norm);
  add("attn_sink", w.attn_sink);
  add("compressor.wkv.weight", w.compress_wkv);
  add("compressor.wgate.weight", w.compress_wgate);
  add("compressor.ape", w.compress_ape);
  add("compressor.norm.weight", w.compress_norm);
  add("indexer.weights_proj.weight", w.index_weights_proj);
  add("indexer.compressor.wkv.weight", w.index_wkv);
  add("indexer.compressor.wgate.weight", w.index_wgate);
  add("indexer.compressor.ape", w.index_ape);
  add("indexer.compressor.norm.weight", w.index_norm);
  const TemporaryFolder folder;
  FATHOM_TRY(writer.write(folder.path("model.safetensors")));
  FATHOM_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder.path()));
  return load_layer(checkpoint, config);
}

/// Two summation orders were up to 9e-4 apart, layers that differ in one projection's quantisation 1.7e-2 and more.
constexpr double kNoise = 4e-3, kDistance = 1e-2;

/// Which projections are quantised.
class MixedWeights : public testing::TestWithParam<std::vector<bool>> {};

TEST_P(MixedWeights, ServedMultipliesEachAsItIsStored) {
  MixedLayer stored(GetParam());
  const Results expected = results_of(stored);
  // The references of the stages that multiply by projections. (attend's keeps probabilities that its cpu path rounds.)
  const Results reference = results_of(stored, "project=reference index_query=reference output=reference");
  EXPECT_LE(relative_error(expected, reference), kNoise);

  const Result<LoadedLayer> loaded = through_a_file(stored);
  ASSERT_TRUE(loaded.ok()) << loaded.status().text();
  TinyLayer copy(4, Numerics::served);
  copy.weights = loaded.value().weights;
  loaded.value().describe(copy.problem);
  EXPECT_EQ(copy.problem, stored.problem);
  EXPECT_EQ(results_of(copy), expected);

  // The same numbers stored otherwise are another layer, but for wo_a, whose input is never quantised.
  for (std::size_t i = 0; i < std::size(kProjections); ++i) {
    std::vector<bool> other = GetParam();
    other[i] = !other[i];
    MixedLayer changed(other);
    const Results results = results_of(changed);
    if (kProjections[i].weight == &W::wo_a) {
      EXPECT_EQ(results, expected);
    } else {
      EXPECT_GT(relative_error(results, reference), kDistance) << kProjections[i].name;
    }
  }
}

std::vector<std::vector<bool>> each_alone_and_each_left_out() {
  std::vector<std::vector<bool>> choices;
  for (std::size_t i = 0; i < std::size(kProjections); ++i) {
    for (const bool quantised : {false, true}) {
      choices.emplace_back(std::size(kProjections), !quantised);
      choices.back()[i] = quantised;
    }
  }
  return choices;
}
INSTANTIATE_TEST_SUITE_P(Choices, MixedWeights, testing::ValuesIn(each_alone_and_each_left_out()));

}  // namespace
}  // namespace fathom
