// What this machine and this build are: processor, instruction sets, threads, memory, compiler.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::cli {

struct Machine {
  std::string processor;              ///< its own name, or the architecture's
  std::vector<std::string> features;  ///< instruction sets that matter here and that it has ("avx2", "avx512f", ...)
  int threads = 0;                    ///< that this process may use
  std::int64_t memory_bytes = 0;      ///< physical
  std::string compiler;               ///< that built the program
  std::string version;                ///< of Fathom
};

Machine this_machine();

}  // namespace fathom::cli
