// Tensors on demand, their views, and the golden files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/checkpoint_files.h"
#include "fathom/checkpoint.h"

namespace fathom {
namespace {

TEST(Checkpoint, GoldenTablesHaveTheirShapes) {
  const auto opened = Checkpoint::open(FATHOM_GOLDEN_DIR "/tables.safetensors");
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  const Checkpoint& tables = opened.value();
  EXPECT_EQ(tables.names().size(), 8u);
  EXPECT_TRUE(tables.has("page_rows"));
  EXPECT_FALSE(tables.has("page_row"));
  const FileTensor rows = tables.describe("page_rows").value();
  EXPECT_EQ(rows.dtype, "BF16");
  EXPECT_EQ(rows.shape, (std::vector<std::int64_t>{256, 512}));
  EXPECT_EQ(rows.bytes, 256 * 512 * 2);
  EXPECT_EQ(rows.data, nullptr);
  EXPECT_EQ(tables.describe("pages_2").value().dtype, "U8");
}

TEST(Checkpoint, MetadataIsRead) {
  const auto opened = Checkpoint::open(FATHOM_GOLDEN_DIR "/tiny/expected_exact.safetensors");
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  EXPECT_EQ(opened.value().metadata("layers.1"), "prefill 510 then decode 30 one at a time");
  EXPECT_EQ(opened.value().metadata("layers.9"), "");
}

TEST(Checkpoint, DataIsReadOnceAndOutlivesTheFirstCopy) {
  auto first = Checkpoint::open(FATHOM_GOLDEN_DIR "/tables.safetensors");
  ASSERT_TRUE(first.ok());
  const FileTensor positions = first.value().tensor("positions").value();
  const Checkpoint second = first.value();
  EXPECT_EQ(second.tensor("positions").value().data, positions.data);
  first = Status::unsupported("gone");
  std::int32_t last;
  std::memcpy(&last, positions.data + 4 * 21, 4);
  EXPECT_EQ(last, 1048575);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(positions.data) % 64, 0u);
}

TEST(Checkpoint, ThreadsMayAskForTheSameTensor) {
  const auto opened = Checkpoint::open(FATHOM_GOLDEN_DIR "/tables.safetensors");
  ASSERT_TRUE(opened.ok());
  std::vector<const std::byte*> seen(8);
  std::vector<std::thread> threads;
  for (auto& data : seen) threads.emplace_back([&] { data = opened.value().tensor("page_rows").value().data; });
  for (auto& thread : threads) thread.join();
  for (const std::byte* data : seen) EXPECT_EQ(data, seen[0]);
}

TEST(Checkpoint, ReadTakesPartsOfATensor) {
  const auto opened = Checkpoint::open(FATHOM_GOLDEN_DIR "/tables.safetensors");
  ASSERT_TRUE(opened.ok());
  const FileTensor whole = opened.value().tensor("page_rows").value();
  std::vector<std::byte> part(1000, std::byte{7});
  ASSERT_TRUE(opened.value().read("page_rows", 12345, part.data(), 999).ok());
  EXPECT_EQ(std::memcmp(part.data(), whole.data + 12345, 999), 0);
  EXPECT_EQ(part[999], std::byte{7});
  EXPECT_TRUE(opened.value().read("page_rows", whole.bytes, nullptr, 0).ok());
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  const std::pair<std::int64_t, std::int64_t> kBad[] = {{-1, 4},          {0, -1},    {0, whole.bytes + 1},
                                                        {whole.bytes, 1}, {kMost, 1}, {1, kMost}};
  for (const auto& [offset, bytes] : kBad)
    EXPECT_FALSE(opened.value().read("page_rows", offset, part.data(), bytes).ok());
  EXPECT_FALSE(opened.value().read("page_rows", 0, nullptr, 4).ok());
  EXPECT_FALSE(opened.value().read("none", 0, part.data(), 4).ok());
}

TEST(Checkpoint, UnknownTensorsAndEmptyCheckpointsAreRefused) {
  const Checkpoint none;
  EXPECT_TRUE(none.names().empty());
  EXPECT_FALSE(none.has("a"));
  EXPECT_EQ(none.metadata("a"), "");
  EXPECT_FALSE(none.describe("a").ok());
  EXPECT_FALSE(none.read("a", 0, nullptr, 0).ok());
  EXPECT_STREQ(none.tensor("a\n").status().text(), "checkpoint: there is no tensor \"a?\"");
  EXPECT_STREQ(Checkpoint::open("/nowhere", "input").status().text(), "input: cannot open /nowhere: No such file or directory");
}

TEST(Checkpoint, AFileCutAfterOpeningIsAStatus) {
  const TemporaryFolder folder;
  const std::string path =
      folder.write("x.safetensors", safetensors("{" + entry("a", "U8", "[100000]", 0, 100000) + "}", 100000));
  const auto opened = Checkpoint::open(path);
  ASSERT_TRUE(opened.ok());
  ASSERT_EQ(::truncate(path.c_str(), 1000), 0);
  EXPECT_EQ(opened.value().tensor("a").status().code(), StatusCode::device_error);
  EXPECT_NE(std::string(opened.value().tensor("a").status().text()).find("it was cut while being read"),
            std::string::npos);
}

TEST(Checkpoint, ATensorLargerThanMemoryIsAStatus) {
  if (kUnderSanitizer) GTEST_SKIP() << "a sanitizer ends the process instead";
  const TemporaryFolder folder;
  const std::int64_t bytes = std::int64_t{1} << 43;
  const std::string header = "{" + entry("a", "U8", "[" + std::to_string(bytes) + "]", 0, bytes) + "}";
  const std::string path = folder.write("x.safetensors", safetensors(header, 0));
  if (::truncate(path.c_str(), 8 + static_cast<std::int64_t>(header.size()) + bytes) != 0)
    GTEST_SKIP() << "no sparse files of 8 TiB here";
  const auto opened = Checkpoint::open(path);
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  EXPECT_EQ(opened.value().tensor("a").status().code(), StatusCode::resource_exhausted);
}

TEST(TensorView, KnownDTypesBecomeViews) {
  const std::pair<const char*, DType> kKnown[] = {
      {"F32", DType::f32},   {"BF16", DType::bf16}, {"F8_E4M3", DType::e4m3}, {"F8_E8M0", DType::ue8m0},
      {"F4", DType::e2m1x2}, {"I32", DType::i32},   {"I64", DType::i64},      {"U8", DType::u8}};
  FileTensor tensor;
  tensor.shape = {2, 3, 4};
  for (const auto& [name, dtype] : kKnown) {
    tensor.dtype = name;
    const auto result = tensor_view(tensor);
    ASSERT_TRUE(result.ok()) << name;
    EXPECT_EQ(result.value().dtype, dtype);
    EXPECT_EQ(result.value().rank, 3);
    EXPECT_EQ(result.value().shape[0], 2);
    EXPECT_EQ(result.value().strides[0], 12);
    EXPECT_EQ(result.value().strides[2], 1);
  }
  for (const char* name : {"BOOL", "I8", "F16", "F64", "F8_E5M2", "F6_E2M3", "C64", "", "f32"}) {
    tensor.dtype = name;
    EXPECT_EQ(tensor_view(tensor).status().code(), StatusCode::unsupported) << name;
  }
}

TEST(TensorView, RanksWithoutAViewAreRefused) {
  FileTensor tensor;
  tensor.dtype = "F32";
  EXPECT_EQ(tensor_view(tensor).status().code(), StatusCode::unsupported);
  tensor.shape = {1, 1, 1, 1, 1};
  EXPECT_EQ(tensor_view(tensor).status().code(), StatusCode::unsupported);
  tensor.dtype = "F4";
  tensor.shape = {2, 3};
  EXPECT_NE(std::string(tensor_view(tensor).status().text()).find("expected an even number"), std::string::npos);
}

}  // namespace
}  // namespace fathom
