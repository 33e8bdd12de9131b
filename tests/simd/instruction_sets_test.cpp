// Which named instruction sets run here, and E4M3 in the registers of the widest.
#include "simd/instruction_sets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "simd/words.h"
#if defined(__x86_64__)
#include "simd/e4m3_bf16.h"
#endif

namespace fathom::simd {
namespace {

bool runs(InstructionSet set) { return why_not(set) == nullptr; }

TEST(NamedSets, EachNeedsTheOneBefore) {
  EXPECT_TRUE(!runs(InstructionSet::avx512) || runs(InstructionSet::avx2));
  EXPECT_TRUE(!runs(InstructionSet::avx512bf16) || runs(InstructionSet::avx512));
  EXPECT_TRUE(!runs(InstructionSet::amx) || runs(InstructionSet::avx512bf16));
}

TEST(NamedSets, AreThoseOfHighway) {
  const std::vector<const char*> names = target_names();
  const auto has = [&](const char* name) {
    return std::any_of(names.begin(), names.end(), [&](const char* each) { return std::strcmp(each, name) == 0; });
  };
  EXPECT_EQ(runs(InstructionSet::avx512), has("AVX3"));
  EXPECT_EQ(runs(InstructionSet::avx2), has("AVX3") || has("AVX2"));
}

TEST(NamedSets, AForcedTargetHoldsThemToo) {
  ASSERT_TRUE(force_target(target_names().back()));
  for (const InstructionSet set : {InstructionSet::avx512, InstructionSet::avx512bf16, InstructionSet::amx}) EXPECT_STRNE(why_not(set), nullptr);
  force_target(nullptr);
}

TEST(NamedSets, AReasonEndsASentence) {
  for (const InstructionSet set : {InstructionSet::avx2, InstructionSet::avx512, InstructionSet::avx512bf16, InstructionSet::amx}) {
    const char* reason = why_not(set);
    EXPECT_TRUE(reason == nullptr || std::string(reason).starts_with("needs ")) << reason;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vbmi"))) void widen_all(int exponent, std::uint16_t* words) {
  const E4m3Table table = e4m3_table(exponent);
  for (int begin = 0; begin < 256; begin += 64) {
    std::uint8_t codes[64];
    for (int i = 0; i < 64; ++i) codes[i] = static_cast<std::uint8_t>(begin + i);
    __m512i first, second;
    widen_e4m3(table, _mm512_loadu_si512(codes), first, second);
    _mm512_storeu_si512(words + begin, first);
    _mm512_storeu_si512(words + begin + 32, second);
  }
}

TEST(E4m3Bf16, EveryCodeTimesEveryScaleInRange) {
  if (!runs(InstructionSet::avx512bf16)) GTEST_SKIP() << why_not(InstructionSet::avx512bf16);
  for (int exponent = kLeastE4m3Exponent; exponent <= kMostE4m3Exponent; ++exponent) {
    std::uint16_t words[256];
    widen_all(exponent, words);
    for (int code = 0; code < 256; ++code) {
      const float value = decode_e4m3(static_cast<std::uint8_t>(code)) * exp2_of(exponent);
      EXPECT_EQ(words[code], std::bit_cast<std::uint32_t>(value) >> 16) << code << " times 2^" << exponent;
    }
  }
}
#endif

}  // namespace
}  // namespace fathom::simd
