// What this machine and this build are: processor, instruction sets, threads, memory, GPUs, compiler.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fathom/core/device.h"

namespace fathom::cli {

/// A GPU that the driver shows.
struct Gpu {
  std::string name;       ///< "cuda:0"
  DeviceLimits limits;
  std::string complaint;  ///< why it cannot be used; empty if it can
};

struct Machine {
  std::string processor;              ///< its own name, or the architecture's
  std::vector<std::string> features;  ///< instruction sets that matter here and that it has ("avx2", "avx512f", ...)
  int threads = 0;                    ///< that this process may use
  std::int64_t memory_bytes = 0;      ///< physical
  std::vector<std::string> cuda_targets;  ///< that kernels were compiled for
  std::vector<Gpu> gpus;
  std::string no_gpu;                     ///< why there is none; empty if there is
  std::string compiler;               ///< that built the program
  std::string version;                ///< of Fathom
};

Machine this_machine();

}  // namespace fathom::cli
