// FuzzCorpus: every input that the fuzzers kept, and every one that once broke something, through its target.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "fuzz/targets.h"
#include "support/cases.h"

namespace fathom::fuzz {
namespace {

const std::filesystem::path kCorpora = FATHOM_SOURCE_DIR "/tests/fuzz/corpus";

class FuzzCorpus : public testing::TestWithParam<Target> {};

TEST_P(FuzzCorpus, EveryInputHolds) {
  const std::filesystem::path folder = kCorpora / GetParam().name;
  ASSERT_TRUE(std::filesystem::is_directory(folder)) << folder << " is missing";
  std::int64_t inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    try {
      GetParam().run({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
    } catch (const std::logic_error& broken) {
      ADD_FAILURE() << entry.path() << ": " << broken.what();
    }
    ++inputs;
  }
  EXPECT_GE(inputs, 10) << folder << " holds next to nothing";
  test::count_cases(inputs);
}

TEST_P(FuzzCorpus, NothingAndAnythingHold) {
  const Target& target = GetParam();
  target.run({});
  std::uint64_t state = 88172645463325252u;
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < 200; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    bytes.assign(state % 300, 0);
    for (std::uint8_t& byte : bytes)
      state ^= state << 13, state ^= state >> 7, state ^= state << 17, byte = static_cast<std::uint8_t>(state);
    EXPECT_NO_THROW(target.run(bytes)) << target.name << " " << i;
  }
  test::count_cases(201);
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzCorpus, testing::ValuesIn(kTargets),
                         [](const auto& target) { return std::string(target.param.name); });

TEST(FuzzCorpora, EachFolderHasItsTarget) {
  std::set<std::string> names;
  for (const Target& target : kTargets) names.insert(target.name);
  for (const auto& entry : std::filesystem::directory_iterator(kCorpora)) {
    EXPECT_TRUE(names.contains(entry.path().filename())) << entry.path() << " belongs to no target";
  }
}

}  // namespace
}  // namespace fathom::fuzz
