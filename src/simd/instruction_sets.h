// Instruction sets that implementations name ("cpu:amx"), and whether this machine runs their code.
#pragma once

#include <cstdint>

namespace fathom::simd {

enum class InstructionSet : std::uint8_t {
  avx2,        ///< with FMA and F16C
  avx512,      ///< F, BW, DQ, VL
  avx512bf16,  ///< AVX-512 with VBMI and BF16's dot products
  amx,         ///< all of the above and tiles of bf16
};

/// Null where this machine, its system included, runs code of the set; else why not, as the end of a sentence. Asking for
/// `amx` asks the system for the state of the tiles, which a process must do once before it uses them.
const char* why_not(InstructionSet set) noexcept;

/// The same as lists of implementations want it.
template <InstructionSet Set>
const char* lacks() noexcept {
  return why_not(Set);
}

}  // namespace fathom::simd
