// Folders: an index, one model file, or every file; and indexes made to lead elsewhere.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "checkpoint/checkpoint_files.h"
#include "checkpoint/shards.h"
#include "fathom/checkpoint.h"

namespace fathom {
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

/// A file of one tensor of four bytes.
std::string file_of(const std::string& name) { return safetensors("{" + entry(name, "U8", "[4]", 0, 4) + "}", 4); }

std::string refusal(const std::string& path) {
  const auto checkpoint = Checkpoint::open(path);
  return checkpoint.ok() ? "opened" : checkpoint.status().text();
}

TEST(Shards, AnIndexNamesTheFiles) {
  const TemporaryFolder folder;
  folder.write("one.safetensors", file_of("a"));
  folder.write("two.safetensors", file_of("b"));
  folder.write("not_named.safetensors", "garbage that nobody opens");
  folder.write(kIndex,
               R"({"metadata": {"total_size": 8, "more": [{"x": 1}]},
       "weight_map": {"b": "two.safetensors", "a": "one.safetensors"}})");
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().text();
  EXPECT_EQ(checkpoint.value().names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(checkpoint.value().tensor("b").ok());
}

TEST(Shards, AModelFileStandsAlone) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", file_of("a"));
  folder.write("expected.safetensors", file_of("a"));
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().text();
  EXPECT_EQ(checkpoint.value().names().size(), 1u);
}

TEST(Shards, OtherwiseEveryFileOfTheFolder) {
  const TemporaryFolder folder;
  folder.write("x.safetensors", file_of("a"));
  folder.write("y.safetensors", file_of("b"));
  folder.write(".hidden.safetensors", "garbage");
  folder.write("notes.txt", "garbage");
  ASSERT_TRUE(Checkpoint::open(folder.path()).ok());
  folder.write("z.safetensors", file_of("a"));
  EXPECT_NE(refusal(folder.path())
                .find("the tensor \"a\" stands in " + folder.path("x.safetensors") + " and in " +
                      folder.path("z.safetensors")),
            std::string::npos);
}

TEST(Shards, AFolderWithoutFilesIsRefused) {
  const TemporaryFolder folder;
  EXPECT_NE(refusal(folder.path()).find("holds no *.safetensors file"), std::string::npos);
  EXPECT_NE(refusal(folder.path("nothing")).find("No such file"), std::string::npos);
  EXPECT_NE(refusal("").find("cannot open"), std::string::npos);
}

TEST(Shards, LinksToRegularFilesAreFollowed) {
  const TemporaryFolder folder, blobs;
  const std::string blob = blobs.write("4665a5ea", file_of("a"));
  ASSERT_EQ(::symlink(blob.c_str(), folder.path("one.safetensors").c_str()), 0);
  folder.write(kIndex, R"({"weight_map": {"a": "one.safetensors"}})");
  EXPECT_EQ(refusal(folder.path()), "opened");
}

struct BadIndex {
  const char* expected;
  std::string text;
};

TEST(Shards, MaliciousIndexesAreRefusedByName) {
  const TemporaryFolder folder;
  folder.write("one.safetensors", file_of("a"));
  folder.write("two.safetensors", file_of("b"));
  folder.write("again.safetensors", file_of("a"));
  folder.write("pair.safetensors",
               safetensors("{" + entry("b", "U8", "[4]", 0, 4) + "," + entry("c", "U8", "[4]", 4, 8) + "}", 8));
  ASSERT_EQ(::mkdir(folder.path("sub").c_str(), 0700), 0);
  folder.write("sub/one.safetensors", file_of("a"));
  ASSERT_EQ(::mkfifo(folder.path("fifo.safetensors").c_str(), 0600), 0);
  ASSERT_EQ(::symlink("/dev/zero", folder.path("zero.safetensors").c_str()), 0);
  ASSERT_EQ(::symlink("fifo.safetensors", folder.path("to_fifo.safetensors").c_str()), 0);
  ASSERT_EQ(::symlink("gone", folder.path("dangling.safetensors").c_str()), 0);
  ASSERT_EQ(::mkdir(folder.path("folder.safetensors").c_str(), 0700), 0);
  const auto maps = [](const std::string& file) { return "{\"weight_map\":{\"a\":\"" + file + "\"}}"; };
  const auto outside = [](const std::string& file) {
    return "names the file \"" + file + "\", expected NAME.safetensors in the same folder";
  };
  const std::string parent = outside("../one.safetensors"), absolute = outside("/etc/one.safetensors");
  std::string many = "{\"weight_map\":{";
  for (int i = 0; i < 600; ++i)
    many += (i > 0 ? ",\"t" : "\"t") + std::to_string(i) + "\":\"f" + std::to_string(i) + ".safetensors\"";
  const BadIndex kCases[] = {
      {parent.c_str(), maps("../one.safetensors")},
      {absolute.c_str(), maps("/etc/one.safetensors")},
      {"expected NAME.safetensors in the same folder", maps("sub/one.safetensors")},
      {"expected NAME.safetensors in the same folder", maps("./one.safetensors")},
      {"expected NAME.safetensors in the same folder", maps("..\\\\one.safetensors")},
      {"expected NAME.safetensors in the same folder", maps("one.safetensors\\u0000.safetensors")},
      {"expected NAME.safetensors in the same folder", maps("one.bin")},
      {"expected NAME.safetensors in the same folder", maps("")},
      {"expected NAME.safetensors in the same folder", maps(".safetensors")},
      {"expected NAME.safetensors in the same folder", maps("..")},
      {"expected NAME.safetensors in the same folder", maps(std::string(300, 'x') + ".safetensors")},
      {"missing.safetensors: No such file", maps("missing.safetensors")},
      {"dangling.safetensors: No such file", maps("dangling.safetensors")},
      {"fifo.safetensors is a FIFO", maps("fifo.safetensors")},
      {"to_fifo.safetensors is a FIFO", maps("to_fifo.safetensors")},
      {"zero.safetensors is a device", maps("zero.safetensors")},
      {"folder.safetensors is a folder", maps("folder.safetensors")},
      {"puts the tensor \"a\" into", maps("two.safetensors")},
      {"which does not hold it", R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})"},
      {"puts the tensor \"0\" into", R"({"weight_map":{"a":"one.safetensors","0":"two.safetensors"}})"},
      {"holds the tensor \"b\", which", R"({"weight_map":{"a":"one.safetensors","c":"pair.safetensors"}})"},
      {"the tensor \"a\" stands in", R"({"weight_map":{"a":"one.safetensors","b":"again.safetensors"}})"},
      {"names the tensor \"a\" twice", R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})"},
      {"names the tensor \"a\" twice", R"({"weight_map":{"a":"one.safetensors","\u0061":"two.safetensors"}})"},
      {"gives weight_map twice", R"({"weight_map":{},"weight_map":{"a":"one.safetensors"}})"},
      {"maps a tensor to 1, expected a file name", R"({"weight_map":{"a":1}})"},
      {"maps a tensor to null", R"({"weight_map":{"a":null}})"},
      {"maps a tensor to a list or an object", R"({"weight_map":{"a":["one.safetensors"]}})"},
      {"has a list as weight_map", R"({"weight_map":["one.safetensors"]})"},
      {"has \"one.safetensors\" as weight_map", R"({"weight_map":"one.safetensors"})"},
      {"has no weight_map with tensors", R"({"weight_map":{}})"},
      {"has no weight_map with tensors", "{}"},
      {"is a list, expected an object", "[]"},
      {"not valid JSON", ""},
      {"not valid JSON", "{\"weight_map\":{\"a\":\"one.safetensors\"}"},
      {"nests more than 16 deep", "{\"metadata\":" + std::string(100000, '[')},
      {"names more than 512 files", many + "}}"},
      {"bytes without structure", "{\"" + std::string(3 << 20, 'n')},
  };
  for (const BadIndex& bad : kCases) {
    folder.write(kIndex, bad.text);
    const std::string text = refusal(folder.path());
    EXPECT_NE(text.find(bad.expected), std::string::npos) << text << "\nexpected: " << bad.expected;
  }
  ASSERT_EQ(::unlink(folder.path(kIndex).c_str()), 0);
  ASSERT_EQ(::symlink("/dev/zero", folder.path(kIndex).c_str()), 0);
  EXPECT_NE(refusal(folder.path()).find("is a device"), std::string::npos);
}

TEST(Shards, AnIndexPastTheLimitIsNotRead) {
  const TemporaryFolder folder;
  folder.write(kIndex, "{}");
  ASSERT_EQ(::truncate(folder.path(kIndex).c_str(), (64 << 20) + 1), 0);
  EXPECT_NE(refusal(folder.path()).find("has 67108865 bytes, expected at most 67108864"), std::string::npos);
}

TEST(Shards, AFileIsItself) {
  const auto list = find_shards("checkpoint", "/some/where.bin");
  ASSERT_TRUE(list.ok());
  EXPECT_EQ(list.value().paths, (std::vector<std::string>{"/some/where.bin"}));
}

}  // namespace
}  // namespace fathom
