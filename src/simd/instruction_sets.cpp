// Asking the processor (CPUID) what it can do and the system (XGETBV, and Linux for tiles) what it keeps across switches.
#include "simd/instruction_sets.h"

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

/// Register files that the system saves.
unsigned saved_state() noexcept {
  if (!has(cpuid(1, 0).ecx, 27)) return 0;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

/// Linux grants the eight kilobytes of tile state to processes that ask.
bool grants_tiles() noexcept {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestState = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
#else
  return false;
#endif
}

struct Machine {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false, tiles_saved = false;
};
Machine ask() noexcept {
  const Leaf first = cpuid(1, 0), seventh = cpuid(7, 0), bf16 = cpuid(7, 1);
  const unsigned saved = saved_state();
  constexpr unsigned kAvx = 0x06, kAvx512 = 0xe6, kTiles = 0x60000;
  Machine m;
  m.avx2 = (saved & kAvx) == kAvx && has(first.ecx, 28) && has(first.ecx, 12) && has(first.ecx, 29) && has(first.ecx, 25) &&
           has(first.ecx, 1) && has(seventh.ebx, 5) && has(seventh.ebx, 3) && has(seventh.ebx, 8);
  m.avx512 = m.avx2 && (saved & kAvx512) == kAvx512 && has(seventh.ebx, 16) && has(seventh.ebx, 17) && has(seventh.ebx, 30) &&
             has(seventh.ebx, 31);
  m.avx512bf16 = m.avx512 && has(seventh.ecx, 1) && has(bf16.eax, 5);
  m.amx = m.avx512bf16 && has(seventh.edx, 22) && has(seventh.edx, 24);
  m.tiles_saved = m.amx && (saved & kTiles) == kTiles && grants_tiles();
  return m;
}

}  // namespace

const char* why_not(InstructionSet set) noexcept {
  static const Machine machine = ask();
  switch (set) {
    case InstructionSet::avx2: return machine.avx2 ? nullptr : "needs AVX2, FMA and F16C";
    case InstructionSet::avx512: return machine.avx512 ? nullptr : "needs AVX-512 (F, BW, DQ, VL)";
    case InstructionSet::avx512bf16: return machine.avx512bf16 ? nullptr : "needs AVX-512 with VBMI and BF16";
    case InstructionSet::amx:
      return !machine.amx ? "needs AMX-BF16" : machine.tiles_saved ? nullptr : "needs the system's leave to use AMX tiles";
  }
  return "names no instruction set";
}

#else

const char* why_not(InstructionSet) noexcept { return "needs an x86-64 processor"; }

#endif
}  // namespace fathom::simd
