// What each implementation promises about its bits, in cuDNN's five words. docs/ops/determinism.md is written from this
// table; tests prove every word that promises something, and that the table has exactly the implementations there are.
#pragma once

#include <span>

#include "fathom/core/device.h"

namespace fathom {

enum class Word : unsigned char {
  supported,       ///< always
  replay_only,     ///< when one captured graph is replayed
  not_guaranteed,  ///< known to depend on it
  unverified,      ///< believed, and held by no test
  unsupported,     ///< the question does not arise: the implementation refuses such calls
};
inline constexpr const char* kWords[] = {"Supported", "Replay only", "Not guaranteed", "Unverified", "Unsupported"};
constexpr const char* name_of(Word word) noexcept { return kWords[static_cast<int>(word)]; }

struct Determinism {
  const char* op;
  const char* implementation;
  DeviceKind device;
  Word repeatability;     ///< the same call again, on the same machine and build, gives the same bits; on CPUs with any
                          ///< number of threads
  Word batch_invariance;  ///< a token's bits do not depend on the other tokens of its step, their number or their order
  const char* condition = "";  ///< what the problem says where these words hold; empty: whatever no other row says
};

/// All implementations, those for other devices than this build's included. In the order of the op table.
std::span<const Determinism> determinism_table() noexcept;

}  // namespace fathom
