// The strict reader against files made to harm it: every trick of design/reliability.md 5.3, and what each refusal
// costs.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_files.h"
#include "checkpoint/safetensors.h"
#include "fathom/checkpoint.h"
#include "support/cases.h"

namespace fathom {
namespace {

constexpr const char* kRightEntry = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";

std::string times(const std::string& piece, std::size_t count) {
  std::string text;
  text.reserve(piece.size() * count);
  for (std::size_t i = 0; i < count; ++i) text += piece;
  return text;
}

struct BadFile {
  const char* name;
  const char* expected;
  std::string bytes;
};

/// An entry called "a" over four bytes of data, with this body.
std::string one(const std::string& body) { return safetensors("{\"a\":{" + body + "}}", 4); }

std::vector<BadFile> bad_files() {
  const std::string right = std::string("{") + kRightEntry + "}";
  const std::string data_offsets = ",\"data_offsets\":[0,4]";
  const auto dtype = [&](const std::string& value) {
    return one("\"dtype\":" + value + ",\"shape\":[4]" + data_offsets);
  };
  const auto shape = [&](const std::string& value) {
    return one("\"dtype\":\"U8\",\"shape\":" + value + data_offsets);
  };
  const auto offsets = [&](const std::string& value) {
    return one("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + value);
  };
  const auto metadata = [&](const std::string& value) {
    return safetensors("{\"__metadata__\":" + value + "," + kRightEntry + "}", 4);
  };
  const auto sized = [&](const std::string& type, const std::string& extents, std::int64_t bytes) {
    return safetensors("{" + entry("a", type, extents, 0, bytes) + "}", static_cast<std::size_t>(bytes));
  };
  const auto two = [&](std::int64_t begin, std::int64_t end, std::size_t data_bytes) {
    return safetensors(std::string("{") + kRightEntry + "," +
                           entry("b", "U8", "[" + std::to_string(end - begin) + "]", begin, end) + "}",
                       data_bytes);
  };
  std::string large_metadata = "{";
  for (int i = 0; i < 6; ++i) large_metadata += "\"" + std::to_string(i) + "\":\"" + std::string(900000, 'v') + "\",";
  large_metadata += "}";
  std::string empty_metadata = "{";
  for (int i = 0; i < 100000; ++i) empty_metadata += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
  empty_metadata += "}";
  return {
      // The length and the frame.
      {"empty file", "has 0 bytes, expected at least the 8", ""},
      {"seven bytes", "has 7 bytes, expected at least the 8", std::string(7, '\0')},
      {"length zero", "does not start with '{'", little_endian(0)},
      {"length zero, then data", "does not start with '{'", little_endian(0) + "{}"},
      {"length past the file", "the header's length is 1000, but only 2 bytes follow", little_endian(1000) + "{}"},
      {"length one past the file", "the header's length is 3, but only 2 bytes follow", little_endian(3) + "{}"},
      {"length past 100 MB", "the header's length is 100000001, expected at most", little_endian(100000001) + "{}"},
      {"length past our limit", "the header's length is 33554433, expected at most 33554432",
       little_endian((32 << 20) + 1) + "{}"},
      {"length near 2^63", "the header's length is 9223372036854775807", little_endian(~std::uint64_t{0} >> 1) + "{}"},
      {"length 2^63", "the header's length is 9223372036854775808", little_endian(std::uint64_t{1} << 63) + "{}"},
      {"length near 2^64", "the header's length is 18446744073709551615", little_endian(~std::uint64_t{0}) + "{}"},
      {"git-LFS pointer", "is a git-LFS pointer, not the file itself",
       "version https://git-lfs.github.com/spec/v1\noid "
       "sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 12345\n"},
      // The header's text.
      {"header cut", "not valid JSON", safetensors(right.substr(0, right.size() - 3), 4)},
      {"header starts with a blank", "does not start with '{'", safetensors(" " + right, 4)},
      {"header starts with a byte order mark", "does not start with '{'", safetensors("\xef\xbb\xbf" + right, 4)},
      {"header is a list", "does not start with '{'", safetensors("[]", 0)},
      {"header is not UTF-8", "not valid UTF-8", safetensors("{\"\xff\xfe\":{}}", 0)},
      {"name is a lone surrogate", "not valid JSON", safetensors("{" + entry("\\ud800", "U8", "[0]", 0, 0) + "}", 0)},
      {"garbage after the header's object", "not valid JSON", safetensors(right + "x", 4)},
      {"second object after the first", "not valid JSON", safetensors(right + "{}", 4)},
      {"garbage behind a zero byte", "holds a zero byte", safetensors(right + std::string("\0x", 2), 4)},
      {"zero padding", "holds a zero byte", safetensors(right + std::string(8, '\0'), 4)},
      {"comment", "not valid JSON", safetensors("{/**/" + right.substr(1), 4)},
      {"comma at the end", "not valid JSON", safetensors(std::string("{") + kRightEntry + ",}", 4)},
      {"single quotes", "not valid JSON", safetensors("{'a':1}", 0)},
      {"deep lists", "nests more than 3 deep", safetensors("{\"a\":{\"shape\":" + times("[", 1000000), 0)},
      {"deep objects", "expected a string", safetensors("{\"a\":{\"dtype\":" + times("{\"x\":", 100000), 0)},
      {"deep objects in __metadata__", "__metadata__ holds an object", metadata("{\"k\":" + times("{\"x\":", 100000))},
      {"huge name", "bytes without structure", safetensors("{\"" + std::string(3 << 20, 'n') + "\":{}}", 0)},
      {"huge dtype", "bytes without structure",
       safetensors("{\"a\":{\"dtype\":\"" + std::string(3 << 20, 'n') + "\"}}", 0)},
      {"huge number", "bytes without structure",
       safetensors("{\"a\":{\"shape\":[" + std::string(3 << 20, '1') + "]}}", 0)},
      {"huge blank", "bytes without structure", safetensors("{" + std::string(3 << 20, ' ') + right.substr(1), 4)},
      // Entries.
      {"entry is a number", "entry \"a\" is 1, expected an object", safetensors("{\"a\":1}", 0)},
      {"entry is null", "entry \"a\" is null, expected an object", safetensors("{\"a\":null}", 0)},
      {"entry is a list", "entry \"a\" is a list, expected an object", safetensors("{\"a\":[]}", 0)},
      {"name twice", "names the tensor \"a\" twice",
       safetensors("{" + entry("a", "U8", "[0]", 0, 0) + "," + entry("a", "U8", "[4]", 0, 4) + "}", 4)},
      {"name twice, same place", "names the tensor \"a\" twice",
       safetensors(std::string("{") + kRightEntry + "," + kRightEntry + "}", 4)},
      {"name twice, once escaped", "names the tensor \"a\" twice",
       safetensors(std::string("{") + kRightEntry + "," + entry("\\u0061", "U8", "[0]", 4, 4) + "}", 4)},
      {"dtype missing", "has no dtype", one("\"shape\":[4]" + data_offsets)},
      {"shape missing", "has no shape", one("\"dtype\":\"U8\"" + data_offsets)},
      {"data_offsets missing", "has no data_offsets", one("\"dtype\":\"U8\",\"shape\":[4]")},
      {"entry empty", "has no dtype", one("")},
      {"dtype twice", "gives dtype twice", one("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4]" + data_offsets)},
      {"shape twice", "gives shape twice", one("\"dtype\":\"U8\",\"shape\":[4],\"sh\\u0061pe\":[4]" + data_offsets)},
      {"offsets twice", "gives data_offsets twice",
       one("\"dtype\":\"U8\",\"shape\":[4]" + data_offsets + data_offsets)},
      {"unknown key", "has the key \"strides\", expected dtype, shape or data_offsets",
       one("\"dtype\":\"U8\",\"strides\":[1]")},
      {"unknown dtype", "has the unknown dtype \"F9\"", dtype("\"F9\"")},
      {"dtype in lower case", "has the unknown dtype \"u8\"", dtype("\"u8\"")},
      {"dtype with a zero byte", "has the unknown dtype \"U8?\"", dtype("\"U8\\u0000\"")},
      {"dtype is a number", "has 8 in dtype, expected a string", dtype("8")},
      {"dtype is a list", "has a list in dtype, expected a string", dtype("[]")},
      {"shape is a number", "has 4 in shape, expected a list of integers", shape("4")},
      {"shape is an object", "has an object in shape, expected a list of integers", shape("{}")},
      {"shape is nested", "nests more than 3 deep", shape("[[4]]")},
      {"shape holds a negative", "has -4 in shape, expected an integer from 0", shape("[-4]")},
      {"shape holds a fraction", "has 4 in shape, expected an integer from 0", shape("[4.0]")},
      {"shape holds an exponent", "in shape, expected an integer from 0", shape("[4e0]")},
      {"shape holds a text", "has \"4\" in shape, expected an integer from 0", shape("[\"4\"]")},
      {"shape holds 2^63", "has 9223372036854775808 in shape, expected an integer", shape("[9223372036854775808]")},
      {"shape holds 2^64", "in shape, expected an integer from 0", shape("[18446744073709551616]")},
      {"shape of rank 65", "has a shape of more than 8 extents", shape("[" + times("1,", 64) + "1]")},
      {"shape product overflows", "overflows 63 bits", shape("[4294967296,4294967296]")},
      {"shape product wraps to the right size", "overflows 63 bits", shape("[4611686018427387905,4]")},
      {"shape times bits overflows", "overflows 63 bits", shape("[1152921504606846976]")},
      {"overflow behind a zero extent", "overflows 63 bits", sized("U8", "[0,4294967296,4294967296]", 0)},
      {"offsets negative", "has -1 in data_offsets, expected an integer from 0", offsets("[-1,3]")},
      {"offsets minus zero", "in data_offsets, expected an integer from 0", offsets("[-0,4]")},
      {"offsets fraction", "in data_offsets, expected an integer from 0", offsets("[0,4.5]")},
      {"offsets whole fraction", "has 4 in data_offsets, expected an integer from 0", offsets("[0,4.0]")},
      {"offsets exponent", "in data_offsets, expected an integer from 0", offsets("[0,4e0]")},
      {"offsets overflow", "in data_offsets, expected an integer from 0", offsets("[0,18446744073709551620]")},
      {"offsets null", "has null in data_offsets", offsets("[0,null]")},
      {"one offset", "has 1 data_offsets, expected 2", offsets("[4]")},
      {"no offsets", "has 0 data_offsets, expected 2", offsets("[]")},
      {"three offsets", "has more than 2 data_offsets", offsets("[0,2,4]")},
      {"end before begin", "ends at byte 0 before it begins at 4", offsets("[4,0]")},
      {"end past the file", "ends at byte 5 of 4 data bytes", offsets("[0,5]")},
      {"end far past the file", "ends at byte 9223372036854775807 of 4", offsets("[0,9223372036854775807]")},
      {"size does not fit the offsets", "takes 3 bytes by dtype and shape, but 4 by data_offsets", shape("[3]")},
      {"scalar does not fit", "takes 1 bytes by dtype and shape, but 4", shape("[]")},
      {"zero extent does not fit", "takes 0 bytes by dtype and shape, but 4", shape("[4,0]")},
      {"FP4 of odd size", "takes 12 bits of F4, expected whole bytes", sized("F4", "[3]", 2)},
      {"FP6 of odd size", "takes 6 bits of F6_E2M3, expected whole bytes", sized("F6_E2M3", "[1]", 1)},
      {"FP6 E3M2 of odd size", "takes 18 bits of F6_E3M2, expected whole bytes", sized("F6_E3M2", "[3]", 3)},
      // The cover.
      {"overlap", "\"b\" overlaps the one before it by 2 bytes", two(2, 6, 6)},
      {"the same bytes twice", "overlaps the one before it by 4 bytes", two(0, 4, 4)},
      {"overlap inside", "overlaps the one before it by 3 bytes", two(1, 3, 4)},
      {"hole between", "2 bytes before the tensor \"b\" belong to none (a hole)", two(6, 8, 8)},
      {"hole at the start", "4 bytes before the tensor \"a\" belong to none",
       safetensors("{" + entry("a", "U8", "[4]", 4, 8) + "}", 8)},
      {"tail", "the last 3 bytes belong to no tensor", safetensors(right, 7)},
      {"only a tail", "the last 9 bytes belong to no tensor", safetensors("{}", 9)},
      // __metadata__.
      {"metadata number", "__metadata__ holds 1 for \"k\", expected a string", metadata("{\"k\":1}")},
      {"metadata list", "__metadata__ holds a list for \"k\", expected a string", metadata("{\"k\":[]}")},
      {"metadata null", "__metadata__ holds null for \"k\"", metadata("{\"k\":null}")},
      {"metadata is a text", "entry \"__metadata__\" is \"x\", expected an object", metadata("\"x\"")},
      {"metadata is a list", "entry \"__metadata__\" is a list, expected an object", metadata("[]")},
      {"metadata twice", "gives __metadata__ twice",
       safetensors(std::string("{\"__metadata__\":{},\"__metadata__\":{},") + kRightEntry + "}", 4)},
      {"metadata key twice", "__metadata__ gives \"k\" twice", metadata("{\"k\":\"1\",\"k\":\"2\"}")},
      {"metadata as a tensor", "__metadata__ holds a list for \"shape\"", metadata(R"({"dtype":"U8","shape":[4]})")},
      {"metadata of many texts", "__metadata__ takes more than 4194304 bytes", metadata(large_metadata)},
      {"metadata of many empty texts", "__metadata__ takes more than 4194304 bytes", metadata(empty_metadata)},
  };
}

TEST(MaliciousFile, IsRefusedByName) {
  const TemporaryFolder folder;
  const std::vector<BadFile> files = bad_files();
  ASSERT_GE(files.size(), 60u);
  test::count_cases(static_cast<std::int64_t>(files.size()));
  for (const BadFile& bad : files) {
    const auto checkpoint = Checkpoint::open(folder.write("bad.safetensors", bad.bytes));
    ASSERT_FALSE(checkpoint.ok()) << bad.name;
    const std::string text = checkpoint.status().text();
    EXPECT_EQ(checkpoint.status().code(), StatusCode::invalid_argument) << bad.name;
    EXPECT_TRUE(text.starts_with("checkpoint: ")) << text;
    EXPECT_NE(text.find(folder.path("bad.safetensors")), std::string::npos) << text;
    EXPECT_NE(text.find(bad.expected), std::string::npos)
        << bad.name << "\n  got      " << text << "\n  expected " << bad.expected;
  }
}

TEST(MaliciousFile, EveryPrefixOfARightFileIsRefused) {
  const TemporaryFolder folder;
  const std::string right = safetensors(std::string("{") + kRightEntry + "}", 4);
  test::count_cases(static_cast<std::int64_t>(right.size()));
  for (std::size_t bytes = 0; bytes < right.size(); ++bytes) {
    EXPECT_FALSE(Checkpoint::open(folder.write("cut.safetensors", right.substr(0, bytes))).ok()) << bytes;
  }
  EXPECT_TRUE(Checkpoint::open(folder.write("cut.safetensors", right)).ok());
}

TEST(MaliciousFile, EveryFlippedBitIsAStatusOrARightFile) {
  const TemporaryFolder folder;
  const std::string right =
      safetensors("{" + entry("a", "BF16", "[2,1]", 0, 4) + "," + entry("b", "F4", "[8]", 4, 8) + "}", 8);
  const std::string path = folder.write("flipped.safetensors", right);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](std::size_t at, int byte) {
    file.seekp(static_cast<std::streamoff>(at)).put(static_cast<char>(byte)).flush();
  };
  test::count_cases(static_cast<std::int64_t>(8 * (right.size() - 8)));
  for (std::size_t bit = 0; bit < 8 * (right.size() - 8); ++bit) {
    put(bit / 8, right[bit / 8] ^ 1 << bit % 8);
    const auto checkpoint = Checkpoint::open(path);
    put(bit / 8, right[bit / 8]);
    if (!checkpoint.ok()) continue;
    ASSERT_EQ(checkpoint.value().names().size(), 2u);
    for (const std::string& name : checkpoint.value().names())
      EXPECT_EQ(checkpoint.value().tensor(name).value().bytes, 4);
  }
}

/// KiB of a line of /proc/self/status, or -1.
long memory_line(const char* name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name)) return std::strtol(line.c_str() + std::string(name).size(), nullptr, 10);
  }
  return -1;
}

/// Largest growth of resident memory, in KiB, while `path` is opened; -1 where the system does not tell.
long growth_of_opening(const std::string& path, const char* expected) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the high-water mark starts again at the current size
  const long before = memory_line("VmRSS:"), mark = memory_line("VmHWM:");
  const auto checkpoint = Checkpoint::open(path);
  const long after = memory_line("VmHWM:");
  EXPECT_NE(std::string(checkpoint.ok() ? "opened" : checkpoint.status().text()).find(expected), std::string::npos)
      << (checkpoint.ok() ? "opened" : checkpoint.status().text());
  return before < 0 || mark > before + 1024 ? -1 : after - before;
}

TEST(MaliciousFile, CostsLittleMemory) {
  if (kUnderSanitizer) GTEST_SKIP() << "a sanitizer keeps freed memory";
  const TemporaryFolder folder;
  const std::size_t most = static_cast<std::size_t>(kMostHeaderBytes);
  const auto grows_little = [&](const char* what, std::string header, std::size_t data_bytes, const char* expected) {
    const std::string path = folder.path("large.safetensors");
    {
      std::ofstream file(path, std::ios::binary);
      file << little_endian(header.size()) << header << std::string(data_bytes, '\0');
    }
    header = std::string();
    const long growth = growth_of_opening(path, expected);
    EXPECT_LT(growth, 64 * 1024) << what;
  };
  const auto many = [&](std::size_t count, std::size_t name_bytes) {
    std::string header = "{";
    for (std::size_t i = 0; i < count; ++i) {
      std::string name = std::to_string(i);
      name.insert(0, name_bytes - std::min(name_bytes, name.size()), 'n');
      header += (i > 0 ? "," : "") + entry(name, "U8", "[1,1,1,1,0]", 0, 0);
    }
    return header + "}";
  };
  grows_little("ten million entries",
               "{" + times(R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)", 600000) + "}", 0,
               "names more than 262144 tensors");
  grows_little("as many entries as are taken", many(kMostTensors, 60), 4, "the last 4 bytes belong to no tensor");
  grows_little("long names", many(30000, 1000), 0, "the names take more than 16777216 bytes");
  grows_little("one string", "{\"" + std::string(most - 10, 'n') + "\":1}", 0, "bytes without structure");
  grows_little("blanks", "{" + std::string(most - 10, ' ') + "}", 0, "bytes without structure");
  grows_little("lists", "{\"a\":{\"shape\":" + std::string(most - 100, '['), 0, "nests more than 3 deep");
  grows_little("extents", "{\"a\":{\"shape\":[" + times("1,", most / 2 - 100) + "1]}}", 0, "more than 8 extents");
  std::string keys = "{\"__metadata__\":{";
  for (int i = 0; i < 1000000; ++i) keys += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
  grows_little("metadata keys", keys + "}}", 0, "__metadata__ takes more than");
}

TEST(RightFile, EveryDTypeIsTaken) {
  const TemporaryFolder folder;
  for (const FileDType& dtype : kFileDTypes) {
    const std::size_t bytes = static_cast<std::size_t>(dtype.bits);  // of 8 elements
    const auto checkpoint = Checkpoint::open(
        folder.write("x.safetensors", safetensors("{" + entry("x", dtype.name, "[2,4]", 0, dtype.bits) + "}", bytes)));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().text();
    const FileTensor tensor = checkpoint.value().tensor("x").value();
    EXPECT_EQ(tensor.dtype, dtype.name);
    EXPECT_EQ(tensor.bytes, dtype.bits);
    EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 4}));
    EXPECT_EQ(static_cast<int>(tensor.data[bytes - 1]), 0x11);
  }
}

TEST(RightFile, HarmlessOdditiesAreTaken) {
  const TemporaryFolder folder;
  const auto opens = [&](const std::string& header, std::size_t data_bytes, std::size_t tensors) {
    const auto checkpoint = Checkpoint::open(folder.write("x.safetensors", safetensors(header, data_bytes)));
    ASSERT_TRUE(checkpoint.ok()) << header << "\n" << checkpoint.status().text();
    EXPECT_EQ(checkpoint.value().names().size(), tensors) << header;
  };
  opens("{}", 0, 0);
  opens("{}      ", 0, 0);
  opens("{\"__metadata__\":{}}", 0, 0);
  opens(std::string("{ \n ") + kRightEntry + "\t}\r\n", 4, 1);
  opens("{" + entry("", "U8", "[4]", 0, 4) + "}", 4, 1);
  opens("{" + entry("\\u00e9\\\"\\u0000", "U8", "[4]", 0, 4) + "}", 4, 1);
  opens("{" + entry("scalar", "F32", "[]", 0, 4) + "}", 4, 1);
  opens("{" + entry("none", "F32", "[0]", 4, 4) + "," + entry("some", "U8", "[4]", 0, 4) + "}", 4, 2);
  opens("{" + entry("none", "F32", "[3,0]", 0, 0) + "," + entry("some", "U8", "[4]", 0, 4) + "}", 4, 2);
  opens("{" + entry("b", "U8", "[2]", 4, 6) + "," + entry("a", "F32", "[1]", 0, 4) + "}", 6, 2);  // any order of names
  opens("{" + entry("a", "U8", "[1,1,1,1,1,1,1,4]", 0, 4) + "}", 4, 1);
  opens(R"({"a":{"data_offsets":[0,4],"shape":[4],"dtype":"U8"}})", 4, 1);
}

}  // namespace
}  // namespace fathom
