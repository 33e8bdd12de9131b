// Files that are written are files that the strict reader takes, or they are not there at all.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_files.h"
#include "fathom/checkpoint.h"

namespace fathom {
namespace {

TEST(TensorWriter, EveryDTypeComesBackBitForBit) {
  const TemporaryFolder folder;
  std::vector<std::uint8_t> bytes(256);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37);
  TensorWriter writer;
  for (int i = 0; i < kDTypeCount; ++i) {
    ASSERT_TRUE(
        writer.add(std::string("t.") + kDTypes[i].name, view(bytes.data(), static_cast<DType>(i), {2, 3, 4})).ok());
  }
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  const auto opened = Checkpoint::open(folder.path("x.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  EXPECT_EQ(opened.value().names().size(), static_cast<std::size_t>(kDTypeCount));
  for (int i = 0; i < kDTypeCount; ++i) {
    const FileTensor tensor = opened.value().tensor(std::string("t.") + kDTypes[i].name).value();
    const TensorView result = tensor_view(tensor).value();
    EXPECT_EQ(result.dtype, static_cast<DType>(i));
    EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 3, 4}));
    EXPECT_EQ(std::memcmp(tensor.data, bytes.data(), static_cast<std::size_t>(tensor.bytes)), 0) << kDTypes[i].name;
  }
}

TEST(TensorWriter, TheHeaderIsAlignedAndWideElementsStandFirst) {
  const TemporaryFolder folder;
  std::int64_t wide[2] = {1, 2};
  std::uint8_t narrow[3] = {1, 2, 3};
  TensorWriter writer;
  ASSERT_TRUE(writer.add("a", view(narrow, DType::u8, {3})).ok());
  ASSERT_TRUE(writer.add("z", view(wide, DType::i64, {2})).ok());
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  std::ifstream file(folder.path("x.safetensors"), std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(bytes.size(), 8 + length + 19);
  EXPECT_LT(bytes.find("\"z\""), bytes.find("\"a\""));
}

TEST(TensorWriter, StridedViewsAreWrittenDensely) {
  const TemporaryFolder folder;
  float values[24];
  for (int i = 0; i < 24; ++i) values[i] = static_cast<float>(i);
  TensorView transposed = view(values, DType::f32, {6, 4});
  std::swap(transposed.strides[0], transposed.strides[1]);
  std::swap(transposed.shape[0], transposed.shape[1]);
  TensorView columns = view(values, DType::f32, {6, 2});
  columns.strides[0] = 4;
  TensorWriter writer;
  ASSERT_TRUE(writer.add("transposed", transposed).ok());
  ASSERT_TRUE(writer.add("columns", columns).ok());
  std::fill(std::begin(values), std::end(values), -1.0f);  // add has copied
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  const auto opened = Checkpoint::open(folder.path("x.safetensors"));
  const TensorView back = tensor_view(opened.value().tensor("transposed").value()).value();
  EXPECT_EQ(back.row<float>(1)[2], 9.0f);  // row 2, column 1 of the view before
  EXPECT_EQ(back.row<float>(3)[5], 23.0f);
  const TensorView some = tensor_view(opened.value().tensor("columns").value()).value();
  EXPECT_EQ(some.row<float>(5)[1], 21.0f);
}

TEST(TensorWriter, OddNamesMetadataAndEmptyTensorsComeBack) {
  const TemporaryFolder folder;
  TensorWriter writer;
  ASSERT_TRUE(writer.add("a \"b\"\n\\\xc3\xa9", view(nullptr, DType::bf16, {0, 7})).ok());
  ASSERT_TRUE(writer.set_metadata("key", "first").ok());
  ASSERT_TRUE(writer.set_metadata("quote", "\"\n").ok());
  ASSERT_TRUE(writer.set_metadata("key", "second").ok());
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  const auto opened = Checkpoint::open(folder.path("x.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  EXPECT_EQ(opened.value().metadata("key"), "second");
  EXPECT_EQ(opened.value().metadata("quote"), "\"\n");
  EXPECT_EQ(opened.value().names(), (std::vector<std::string>{"a \"b\"\n\\\xc3\xa9"}));
}

TEST(TensorWriter, NothingAtAllIsAFileToo) {
  const TemporaryFolder folder;
  ASSERT_TRUE(TensorWriter().write(folder.path("x.safetensors")).ok());
  const auto opened = Checkpoint::open(folder.path("x.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  EXPECT_TRUE(opened.value().names().empty());
}

TEST(TensorWriter, BadTensorsAreRefusedAndNotAdded) {
  const TemporaryFolder folder;
  float value[4] = {};
  const TensorView good = view(value, DType::f32, {4});
  TensorWriter writer;
  ASSERT_TRUE(writer.add("a", good).ok());
  const auto refused = [&](const char* name, const TensorView& tensor, const char* expected) {
    const Status status = writer.add(name, tensor);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << expected;
    EXPECT_NE(std::string(status.text()).find(expected), std::string::npos) << status.text();
  };
  refused("a", good, "the tensor \"a\" is added twice");
  refused("__metadata__", good, "cannot be called __metadata__");
  refused("\xff", good, "is not UTF-8");
  refused("b", TensorView{}, "has rank 0");
  TensorView bad = good;
  bad.rank = 5;
  refused("b", bad, "has rank 5");
  bad = good;
  bad.device = DeviceKind::cuda;
  refused("b", bad, "lies on cuda");
  bad = good;
  bad.shape[0] = -1;
  refused("b", bad, "has the extent -1");
  bad.shape[0] = std::int64_t{1} << 60;
  refused("b", bad, "overflows 63 bits");
  constexpr std::int64_t kWide = std::int64_t{1} << 32;
  refused("b", view(nullptr, DType::u8, {0, kWide, kWide}), "overflows 63 bits");
  refused("b", view(nullptr, DType::u8, {kWide, kWide, 0}), "overflows 63 bits");
  refused("b", view(nullptr, DType::f32, {4}), "has null data");
  refused("b", view(value, DType::e2m1x2, {1, 3}), "even number");
  bad = good;
  bad.dtype = static_cast<DType>(99);
  refused("b", bad, "no known dtype");
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  EXPECT_EQ(Checkpoint::open(folder.path("x.safetensors")).value().names().size(), 1u);
}

TEST(TensorWriter, BadMetadataIsRefusedAndNotSet) {
  static_assert(noexcept(TensorWriter().set_metadata("", "")));
  const TemporaryFolder folder;
  const std::string largest((1 << 20) - 2, 'v'), too_large = largest + "v";  // two quotes belong to them
  const std::string escaped(200000, '\x01');                                 // six bytes each as JSON
  TensorWriter writer;
  ASSERT_TRUE(writer.set_metadata("key", largest).ok());
  const auto refused = [&](const std::string& key, const std::string& value, const char* expected) {
    const Status status = writer.set_metadata(key, value);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << expected;
    EXPECT_NE(std::string(status.text()).find(expected), std::string::npos) << status.text();
  };
  refused("key", "\xff", "the metadata value \"\xff\" is not UTF-8");
  refused("\xff", "value", "the metadata key \"\xff\" is not UTF-8");
  refused("key", too_large, "takes 1048577 bytes as JSON, expected at most 1048576");
  refused("key", escaped, "takes 1200002 bytes as JSON");
  refused(too_large, "value", "the metadata key \"vvv");
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  const auto opened = Checkpoint::open(folder.path("x.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status().text();
  EXPECT_EQ(opened.value().metadata("key"), largest);
}

TEST(TensorWriter, NamesAsLongAsTheReaderTakes) {
  const TemporaryFolder folder;
  const std::string largest((1 << 20) - 2, 'n');
  std::uint8_t byte = 1;
  TensorWriter writer;
  EXPECT_EQ(writer.add(largest + "n", view(&byte, DType::u8, {1})).code(), StatusCode::invalid_argument);
  ASSERT_TRUE(writer.add(largest, view(&byte, DType::u8, {1})).ok());
  ASSERT_TRUE(writer.write(folder.path("x.safetensors")).ok());
  const auto opened = Checkpoint::open(folder.path("x.safetensors"));
  ASSERT_TRUE(opened.ok()) << opened.status().text();
}

TEST(TensorWriter, LimitsOfAWholeFileAreKept) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x.safetensors", "before");
  const std::string large(1000000, 'x');
  const auto refused = [&](const TensorWriter& writer, const char* expected) {
    const Status status = writer.write(path);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << expected;
    EXPECT_TRUE(std::string(status.text()).starts_with("tensor_writer: ")) << status.text();
    EXPECT_NE(std::string(status.text()).find(expected), std::string::npos) << status.text();
    EXPECT_EQ(std::filesystem::file_size(path), 6u);
  };
  TensorWriter texts, names, escapes;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(texts.set_metadata(std::to_string(i), large).ok());
  refused(texts, "__metadata__ takes more than 4194304 bytes");
  const TensorView empty = view(nullptr, DType::u8, {0});
  for (int i = 0; i < 17; ++i) ASSERT_TRUE(names.add(std::to_string(i) + large, empty).ok());
  refused(names, "the names take more than 16777216 bytes");
  const std::string controls(170000, '\x01');
  for (int i = 0; i < 34; ++i) ASSERT_TRUE(escapes.add(std::to_string(i) + controls, empty).ok());
  refused(escapes, "expected at most 33554432");
}

TEST(TensorWriter, AFailedWriteLeavesWhatWasThere) {
  const TemporaryFolder folder;
  float value[4] = {1, 2, 3, 4};
  TensorWriter writer;
  ASSERT_TRUE(writer.add("a", view(value, DType::f32, {4})).ok());
  EXPECT_NE(std::string(writer.write(folder.path("none/x.safetensors")).text()).find("cannot create a file beside"),
            std::string::npos);
  ASSERT_EQ(::mkdir(folder.path("taken").c_str(), 0700), 0);
  folder.write("taken/something", "x");
  EXPECT_FALSE(writer.write(folder.path("taken")).ok());  // a folder cannot be replaced by a file
  EXPECT_TRUE(std::filesystem::is_directory(folder.path("taken")));
  int files = 0;
  for ([[maybe_unused]] const auto& file : std::filesystem::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 1) << "a partial file was left behind";
}

TEST(TensorWriter, AnOldFileIsReplacedWhole) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x.safetensors", std::string(100000, 'x'));
  float value[1] = {5};
  TensorWriter writer;
  ASSERT_TRUE(writer.add("a", view(value, DType::f32, {1})).ok());
  ASSERT_TRUE(writer.write(path).ok());
  EXPECT_TRUE(Checkpoint::open(path).ok());
}

}  // namespace
}  // namespace fathom
