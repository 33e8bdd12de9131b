// `fathom run` over the golden checkpoints: what is written, what must not change it, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>

#include "cli/golden_compare.h"
#include "cli/model_files.h"
#include "program_outcome.h"

namespace fathom::cli {
namespace {

const std::string kTiny = std::string(FATHOM_GOLDEN_DIR) + "/tiny";
const std::string kTinyFp8 = std::string(FATHOM_GOLDEN_DIR) + "/tiny_fp8";
constexpr int kHidden = 128;

Checkpoint open(const std::string& path) {
  auto file = Checkpoint::open(path);
  EXPECT_TRUE(file.ok()) << file.status().text();
  return std::move(file).value();
}

/// The tensor's values; its shape if asked for.
std::vector<float> floats(const std::string& path, std::string_view name, std::vector<std::int64_t>* shape = nullptr) {
  std::vector<std::int64_t> found;
  auto values = read_floats(open(path), name, &found);
  EXPECT_TRUE(values.ok()) << values.status().text();
  if (shape != nullptr) *shape = found;
  return values.ok() ? std::move(values).value() : std::vector<float>();
}

/// Writes tensor `name` f32 or bf16 [rows, columns].
void write_hidden(const std::string& path, std::string_view name, const std::vector<float>& values,
                  std::int64_t columns, DType dtype = DType::f32) {
  std::vector<bf16> rounded(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) rounded[i] = to_bf16(values[i]);
  const void* data = dtype == DType::f32 ? static_cast<const void*>(values.data()) : rounded.data();
  TensorWriter writer;
  const auto rows = static_cast<std::int64_t>(values.size()) / columns;
  ASSERT_TRUE(writer.add(name, view(data, dtype, {rows, columns})).ok());
  const Status written = writer.write(path);
  ASSERT_TRUE(written.ok()) << written.text();
}

/// The first `tokens` golden hidden states of a tiny layer.
std::vector<float> golden_hidden(int layer, std::int64_t tokens) {
  std::vector<float> values =
      floats(kTiny + "/expected_exact.safetensors", "layers." + std::to_string(layer) + ".hidden");
  values.resize(static_cast<std::size_t>(tokens * kHidden));
  return values;
}

class Run : public testing::Test {
 protected:
  /// Runs one tiny layer over `input` and returns its output.
  std::vector<float> output_of(int layer, std::vector<std::string> options, const std::string& tensor = "output") {
    const std::string path = folder_.file("out.safetensors");
    std::vector<std::string> line{"run",     "--model", kTiny,      "--layer", std::to_string(layer),
                                  "--input", input_,    "--output", path,      "--quiet"};
    line.insert(line.end(), options.begin(), options.end());
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, kOk) << outcome.err;
    EXPECT_EQ(outcome.out + outcome.err, "");
    return outcome.code == kOk ? floats(path, tensor) : std::vector<float>();
  }
  /// The sentence that `line` fails with.
  std::string error_of(const std::vector<std::string>& line, int code = kFailed) {
    const Outcome outcome = run_fathom(line);
    EXPECT_EQ(outcome.code, code) << testing::PrintToString(line);
    EXPECT_TRUE(is_one_sentence(outcome.err)) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(folder_.file("out.safetensors")));
    return outcome.err;
  }
  std::vector<std::string> line_with(const std::string& model, const std::string& input) const {
    return {"run", "--model", model, "--layer", "0", "--input", input, "--output", folder_.file("out.safetensors")};
  }

  TempFolder folder_;
  std::string input_ = kTiny + "/expected_exact.safetensors";
};

TEST_F(Run, ComputesTheGoldenOutput) {
  const std::vector<float> expected = floats(input_, "layers.0.output");
  EXPECT_LE(relative_l2(output_of(0, {"--numerics", "exact", "--prefill", "300"}), expected), 1e-5);
  EXPECT_LE(relative_l2(output_of(0, {"--numerics", "served"}), expected), 5e-2);
}

TEST_F(Run, AllLayersWriteTheirOwnOutputs) {
  const std::string path = folder_.file("all.safetensors");
  const Outcome outcome =
      run_fathom({"run", "--model", kTiny, "--input", input_, "--output", path, "--numerics", "exact"});
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_NE(outcome.out.find("wrote " + path + " (3 tensors)"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.err.find("layers.1.attn: prefill "), std::string::npos) << "plain lines in a pipe: " << outcome.err;
  for (const char* name : {"layers.0.output", "layers.1.output", "layers.2.output"}) {
    EXPECT_LE(relative_l2(floats(path, name), floats(input_, name)), 1e-5) << name;
  }
  EXPECT_EQ(open(path).metadata("layers.1"), "prefill 540 then decode 0 one at a time");
  EXPECT_EQ(open(path).metadata("numerics"), "exact");
}

TEST_F(Run, MtpLayersThatAreNotStoredAreSkipped) {
  const std::string model = folder_.file("model"), path = folder_.file("out.safetensors");
  std::filesystem::create_directory(model);
  std::filesystem::copy(kTiny + "/model.safetensors", model);
  std::ifstream from(kTiny + "/config.json");
  std::string text((std::istreambuf_iterator<char>(from)), std::istreambuf_iterator<char>());
  const std::size_t ratios = text.find("compress_ratios"), end = text.find(']', ratios);
  ASSERT_NE(end, std::string::npos);
  std::ofstream(model + "/config.json") << text.insert(end, ", 0, 0");
  const std::vector<std::string> line{"run", "--model", model, "--input", input_, "--output", path, "--numerics", "exact"};
  const Outcome outcome = run_fathom(line);
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_NE(outcome.out.find("mtp.0.attn, mtp.1.attn: not in the checkpoint, skipped\n"), std::string::npos) << outcome.out;
  EXPECT_EQ(open(path).names(), (std::vector<std::string>{"layers.0.output", "layers.1.output", "layers.2.output"}));
  std::filesystem::remove(path);
  std::vector<std::string> asked_for = line;
  asked_for.insert(asked_for.end(), {"--layer", "3", "--input-name", "layers.0.hidden"});
  EXPECT_NE(error_of(asked_for).find("layer mtp.0.attn has no tensors"), std::string::npos) << "a layer that is asked for must be there";
}

TEST_F(Run, AForcedOpThatNoLayerRunsIsASlip) {
  std::vector<std::string> line = line_with(kTiny, input_);
  line.insert(line.end(), {"--force", "compress=reference"});
  EXPECT_EQ(error_of(line), "fathom: --force: nothing here runs compress, expected one of attend, layer, linear, output, project\n");
  line[4] = "2";  // an HCA layer compresses
  EXPECT_EQ(run_fathom(line).code, kOk);
  std::filesystem::remove(folder_.file("out.safetensors"));
  line.back() = "select_topk=cpu";
  line.erase(line.begin() + 3, line.begin() + 5);
  EXPECT_NE(error_of(line).find("nothing here runs select_topk"), std::string::npos) << "of all layers";
}

TEST_F(Run, InputFilesAreCalledInput) {
  const std::string damaged = folder_.file("damaged.safetensors");
  std::ofstream(damaged) << "no safetensors";
  EXPECT_TRUE(error_of(line_with(kTiny, damaged)).starts_with("fathom: input: " + damaged)) << error_of(line_with(kTiny, damaged));
  EXPECT_TRUE(error_of(line_with(kTiny, "/nowhere.safetensors")).starts_with("fathom: input: cannot open /nowhere.safetensors"));
  write_hidden(damaged, "other", golden_hidden(0, 1), kHidden);
  EXPECT_TRUE(error_of(line_with(kTiny, damaged)).starts_with("fathom: input: there is no tensor \"hidden\""));
}

TEST_F(Run, ChunksPagesThreadsAndTheirOrderChangeNothing) {
  for (const char* numerics : {"exact", "served"}) {
    for (const int layer : {1, 2}) {
      input_ = folder_.file("in.safetensors");
      write_hidden(input_, "hidden", golden_hidden(layer, 150), kHidden);
      const std::vector<float> whole = output_of(layer, {"--numerics", numerics});
      ASSERT_EQ(whole.size(), 150u * kHidden);
      const std::vector<std::vector<std::string>> variants = {
          {"--chunk", "7"},     {"--prefill", "100", "--chunk", "64"},          {"--prefill", "0"},
          {"--page-size", "1"}, {"--page-size", "3", "--page-order-seed", "5"}, {"--page-size", "256"},
          {"--threads", "1"},
      };
      for (std::vector<std::string> variant : variants) {
        const std::string shown = testing::PrintToString(variant);
        variant.insert(variant.end(), {"--numerics", numerics});
        const std::vector<float> other = output_of(layer, variant);
        ASSERT_EQ(other.size(), whole.size());
        EXPECT_EQ(std::memcmp(other.data(), whole.data(), whole.size() * sizeof(float)), 0)
            << numerics << " layer " << layer << " " << shown << ", relative difference " << relative_l2(other, whole);
      }
    }
  }
}

TEST_F(Run, DumpWritesWhatHappenedInside) {
  input_ = folder_.file("in.safetensors");
  write_hidden(input_, "hidden", golden_hidden(1, 135), kHidden);
  output_of(1, {"--dump", "--numerics", "exact"});
  const std::string path = folder_.file("out.safetensors");
  const std::map<std::string, std::vector<std::int64_t>> shapes = {
      {"output", {135, kHidden}},         {"index_scores", {135, 33}},
      {"core_out", {135, 4, 512}},        {"entries", {33, 512}},
      {"index_keys", {33, 128}},          {"window_ring", {128, 512}},
      {"compressor_kv_state", {8, 1024}}, {"compressor_score_state", {8, 1024}}};
  EXPECT_EQ(open(path).names().size(), shapes.size() + 1);
  for (const auto& [name, expected] : shapes) {
    std::vector<std::int64_t> shape;
    floats(path, name, &shape);
    EXPECT_EQ(shape, expected) << name;
  }
  std::vector<std::int64_t> shape;
  const std::vector<std::int32_t> picks = read_integers(open(path), "topk_entries", &shape).value();
  EXPECT_EQ(shape, (std::vector<std::int64_t>{135, 48}));
  EXPECT_EQ(picks[0], -1);
  EXPECT_EQ(picks[134 * 48], 0);  // 33 entries are visible, so all are picked, in order
  EXPECT_EQ(picks[134 * 48 + 32], 32);
  EXPECT_EQ(picks[134 * 48 + 33], -1);
  // Tokens 132..134 are open, 128..131 carry: row 7 is not live.
  const std::vector<float> state = floats(path, "compressor_score_state");
  EXPECT_TRUE(std::isfinite(state[6 * 1024]));
  EXPECT_EQ(state[7 * 1024], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(floats(path, "compressor_kv_state")[7 * 1024], 0.0f);
}

// 192 tokens: the pool could drop the page of token 64, which the next step no longer sees; the ring still shows it.
TEST_F(Run, DumpShowsTheOldestTokenOfTheRing) {
  input_ = folder_.file("in.safetensors");
  write_hidden(input_, "hidden", golden_hidden(0, 191), kHidden);
  const std::vector<float> ring = output_of(0, {"--dump", "--numerics", "exact"}, "window_ring");
  for (int slot = 0; slot < 128; ++slot) {
    float size = 0;
    for (int i = 0; i < 512; ++i) size += std::fabs(ring[static_cast<std::size_t>(slot * 512 + i)]);
    EXPECT_GT(size, 0.0f) << slot;
  }
}

TEST_F(Run, ShardsAddUpToTheWhole) {
  const std::vector<float> whole = output_of(1, {"--numerics", "exact"});
  std::vector<float> sum(whole.size());
  for (const char* rank : {"0", "1"}) {
    const std::vector<float> part = output_of(1, {"--numerics", "exact", "--rank", rank, "--world", "2"});
    ASSERT_EQ(part.size(), sum.size());
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  EXPECT_LE(relative_l2(sum, whole), 1e-6);
  EXPECT_GT(relative_l2(output_of(1, {"--numerics", "exact", "--rank", "1", "--world", "2"}), whole), 0.1);
}

TEST_F(Run, WhereRowsAreCutIsNoMatterOnTheCpu) {
  EXPECT_EQ(output_of(2, {"--split", "fixed"}), output_of(2, {"--split", "balanced"}));
}

TEST_F(Run, FormatsAndImplementationsCanBeChosen) {
  const std::vector<float> exact = output_of(1, {"--numerics", "exact"});
  EXPECT_LE(
      relative_l2(output_of(1, {"--numerics", "exact", "--force", "attend=reference", "--force", "index=reference"}),
                  exact),
      1e-6);
  const double quantised = relative_l2(
      output_of(1, {"--numerics", "exact", "--kv-format", "kv_e4m3_ue8m0", "--index-format", "index_e4m3_f32"}), exact);
  EXPECT_GT(quantised, 1e-4);
  EXPECT_LE(quantised, 0.1);
}

TEST_F(Run, InputsMayBeSharedNamedEmptyShortOrBf16) {
  const std::vector<float> values = golden_hidden(0, 3);
  input_ = folder_.file("in.safetensors");
  write_hidden(input_, "mine", values, kHidden);
  const std::vector<float> three = output_of(0, {"--input-name", "mine"});
  EXPECT_EQ(three.size(), 3u * kHidden);
  write_hidden(input_, "hidden", values, kHidden, DType::bf16);
  EXPECT_EQ(output_of(0, {}), three) << "served numerics round f32 inputs to bf16";
  write_hidden(input_, "hidden", golden_hidden(0, 1), kHidden);
  for (const int layer : {0, 1, 2}) EXPECT_EQ(output_of(layer, {"--dump"}).size(), kHidden);
  write_hidden(input_, "hidden", {}, kHidden);
  for (const int layer : {0, 1, 2}) EXPECT_TRUE(output_of(layer, {"--dump"}).empty());
}

TEST_F(Run, RoundingOfF32InputsIsSaid) {
  write_hidden(folder_.file("in.safetensors"), "hidden", golden_hidden(0, 2), kHidden);
  std::vector<std::string> line = line_with(kTiny, folder_.file("in.safetensors"));
  EXPECT_NE(run_fathom(line).out.find("hidden is f32, rounded to bf16"), std::string::npos);
  line.insert(line.end(), {"--numerics", "exact"});
  EXPECT_EQ(run_fathom(line).out.find("rounded"), std::string::npos);
}

TEST_F(Run, WhatCannotBeReadIsNamed) {
  const std::string good = kTiny + "/expected_exact.safetensors";
  EXPECT_NE(error_of(line_with(kTiny + "/nothing", good)).find("nothing"), std::string::npos);
  EXPECT_NE(error_of(line_with(folder_.path(), good)).find("config.json"), std::string::npos);
  EXPECT_NE(error_of(line_with(kTiny, kTiny + "/nothing.safetensors")).find("nothing"), std::string::npos);
  EXPECT_NE(error_of(line_with(kTiny, kTiny + "/config.json")).find("config.json"), std::string::npos);
  std::vector<std::string> line = line_with(kTiny, good);
  line[4] = "3";
  EXPECT_NE(error_of(line).find("3"), std::string::npos);
  line = line_with(kTiny, good);
  line[8] = folder_.file("no/folder.safetensors");
  EXPECT_NE(error_of(line).find("no/folder"), std::string::npos);
  line = line_with(kTiny, good);
  line.insert(line.end(), {"--rank", "2", "--world", "2"});
  EXPECT_NE(error_of(line).find("rank"), std::string::npos);
  line = line_with(kTiny, good);
  line.insert(line.end(), {"--force", "attend=magic"});
  EXPECT_NE(error_of(line).find("magic"), std::string::npos);
  line.back() = "attend";
  EXPECT_NE(error_of(line, kUsage).find("OP=IMPL"), std::string::npos);
  // Before anything is opened or computed: the input does not even exist.
  line = line_with(kTiny, kTiny + "/nothing.safetensors");
  line[8] = folder_.path();
  EXPECT_NE(error_of(line).find("is a folder"), std::string::npos);
}

TEST_F(Run, InputsOfTheWrongKindAreRefused) {
  const std::string input = folder_.file("in.safetensors");
  write_hidden(input, "hidden", std::vector<float>(10), 5);
  EXPECT_NE(error_of(line_with(kTiny, input)).find("[2, 5], expected [T, 128]"), std::string::npos);
  write_hidden(input, "other", std::vector<float>(kHidden), kHidden);
  EXPECT_NE(error_of(line_with(kTiny, input)).find("hidden"), std::string::npos);

  const std::string header = R"({"hidden":{"dtype":"F16","shape":[1,128],"data_offsets":[0,256]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  bytes += header + std::string(256, '\0');
  ASSERT_TRUE(write_text(input, bytes).ok());
  EXPECT_NE(error_of(line_with(kTiny, input)).find("hidden is F16, expected F32 or BF16"), std::string::npos);
}

// NaN in one sequence position may not leak backwards, and nothing crashes.
TEST_F(Run, NaNInputsOnlyReachLaterTokens) {
  input_ = folder_.file("in.safetensors");
  std::vector<float> values = golden_hidden(1, 40);
  const std::vector<float> clean = [&] {
    write_hidden(input_, "hidden", values, kHidden);
    return output_of(1, {});
  }();
  values[20 * kHidden] = std::numeric_limits<float>::quiet_NaN();
  values[30 * kHidden + 1] = std::numeric_limits<float>::infinity();
  write_hidden(input_, "hidden", values, kHidden);
  const std::vector<float> output = output_of(1, {});
  ASSERT_EQ(output.size(), clean.size());
  EXPECT_EQ(std::memcmp(output.data(), clean.data(), 20 * kHidden * sizeof(float)), 0);
}

TEST_F(Run, Fp8CheckpointsAndFoldersWithOneFileWork) {
  const std::string path = folder_.file("fp8.safetensors");
  const Outcome outcome = run_fathom(
      {"run", "--model", kTinyFp8, "--input", kTinyFp8 + "/expected_served.safetensors", "--output", path, "--quiet"});
  ASSERT_EQ(outcome.code, kOk) << outcome.err;
  const std::string expected = kTinyFp8 + "/expected_served.safetensors";
  EXPECT_LE(relative_l2(floats(path, "layers.0.output"), floats(expected, "layers.0.output")), 5e-2);

  std::filesystem::create_directory(folder_.file("model"));
  std::filesystem::copy(kTiny + "/config.json", folder_.file("model/config.json"));
  std::filesystem::copy(kTiny + "/model.safetensors", folder_.file("model/weights.safetensors"));
  const Outcome renamed = run_fathom({"run", "--model", folder_.file("model"), "--layer", "0", "--input", input_,
                                      "--output", folder_.file("renamed.safetensors"), "--quiet"});
  EXPECT_EQ(renamed.code, kOk) << renamed.err;
}

}  // namespace
}  // namespace fathom::cli
