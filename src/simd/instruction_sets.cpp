// Highway asks the processor and the system for what it knows; the rest is asked here.
#include "simd/instruction_sets.h"

#include <hwy/targets.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace fathom::simd {
#if defined(__x86_64__)
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
Leaf cpuid(unsigned leaf, unsigned subleaf) noexcept {
  Leaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}
constexpr bool has(unsigned word, int bit) noexcept { return (word >> bit & 1u) != 0; }

/// Linux grants the eight kilobytes of tile state to processes that ask.
bool grants_tiles() noexcept {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestState = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
#else
  return false;
#endif
}

/// What Highway does not ask.
struct Machine {
  bool avx512bf16 = false, amx = false, tiles_granted = false;
};
Machine ask() noexcept {
  const Leaf seventh = cpuid(7, 0), bf16 = cpuid(7, 1);
  Machine m;
  m.avx512bf16 = has(seventh.ecx, 1) && has(bf16.eax, 5);
  m.amx = m.avx512bf16 && has(seventh.edx, 22) && has(seventh.edx, 24);
  m.tiles_granted = m.amx && grants_tiles();
  return m;
}

}  // namespace

const char* why_not(InstructionSet set) noexcept {
  static const Machine machine = ask();
  // What Highway is held to (force_target in words.h) holds here too.
  const std::int64_t targets = hwy::SupportedTargets();
  const bool avx2 = (targets & (HWY_AVX2 | HWY_AVX3)) != 0, avx512 = (targets & HWY_AVX3) != 0;
  switch (set) {
    case InstructionSet::avx2:
      return avx2 ? nullptr : "needs AVX2, FMA and F16C";
    case InstructionSet::avx512:
      return avx512 ? nullptr : "needs AVX-512 (F, BW, DQ, VL)";
    case InstructionSet::avx512bf16:
      return avx512 && machine.avx512bf16 ? nullptr : "needs AVX-512 with VBMI and BF16";
    case InstructionSet::amx:
      return !avx512 || !machine.amx ? "needs AMX-BF16"
             : machine.tiles_granted ? nullptr
                                     : "needs the system's leave to use AMX tiles";
  }
  return "names no instruction set";
}

#else

const char* why_not(InstructionSet) noexcept { return "needs an x86-64 processor"; }

#endif
}  // namespace fathom::simd
