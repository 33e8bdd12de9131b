// Asking the processor (CPUID on x86-64), the system and the compiler what they are.
#include "cli/machine.h"

#include <unistd.h>

#include <cstring>
#include <sstream>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fathom::cli {
namespace {

#if defined(__x86_64__)
/// Registers of one CPUID leaf; zeros where the processor does not have it.
struct Leaf {
  unsigned registers[4] = {};  ///< eax, ebx, ecx, edx
};
Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf result;
  unsigned* r = result.registers;
  if (__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) == 0) return {};
  return result;
}

std::string processor_name() {
  char name[49] = {};
  for (unsigned i = 0; i < 3; ++i) {
    const Leaf leaf = cpuid(0x80000002u + i, 0);
    std::memcpy(name + 16 * i, leaf.registers, 16);
  }
  std::string text(name);
  text.erase(0, text.find_first_not_of(' '));
  return text.empty() ? "x86-64" : text;
}

std::vector<std::string> processor_features() {
  enum Register { kEax, kEbx, kEcx, kEdx };
  struct Feature {
    const char* name;
    unsigned leaf, subleaf;
    Register where;
    int bit;
  };
  constexpr Feature kFeatures[] = {
      {"sse4.2", 1, 0, kEcx, 20},    {"avx", 1, 0, kEcx, 28},      {"f16c", 1, 0, kEcx, 29},
      {"fma", 1, 0, kEcx, 12},       {"avx2", 7, 0, kEbx, 5},      {"avx512f", 7, 0, kEbx, 16},
      {"avx512bw", 7, 0, kEbx, 30},  {"avx512vl", 7, 0, kEbx, 31}, {"avx512vnni", 7, 0, kEcx, 11},
      {"avx512bf16", 7, 1, kEax, 5}, {"avxvnni", 7, 1, kEax, 4},   {"amx-bf16", 7, 0, kEdx, 22},
      {"amx-int8", 7, 0, kEdx, 25},
  };
  std::vector<std::string> features;
  for (const Feature& feature : kFeatures) {
    const Leaf leaf = cpuid(feature.leaf, feature.subleaf);
    if ((leaf.registers[feature.where] >> feature.bit & 1u) != 0) features.push_back(feature.name);
  }
  return features;
}
#else
std::string processor_name() {
#if defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}
std::vector<std::string> processor_features() { return {}; }
#endif

std::string compiler_name() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

}  // namespace

Machine this_machine() {
  Machine machine;
  machine.processor = processor_name();
  machine.features = processor_features();
  const Result<Device> device = Device::cpu();
  machine.threads = device.ok() ? device->num_threads() : 0;
  machine.memory_bytes = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  std::istringstream targets(cuda_targets());
  for (std::string target; targets >> target;) machine.cuda_targets.push_back(target);
  for (int i = 0; i < Device::cuda_count(); ++i) {
    const Result<Device> gpu = Device::cuda(i);
    machine.gpus.push_back({"cuda:" + std::to_string(i), gpu.ok() ? gpu->limits() : DeviceLimits(), gpu.status().text()});
  }
  if (machine.gpus.empty()) machine.no_gpu = Device::cuda().status().text();
  machine.compiler = compiler_name();
  machine.version = FATHOM_VERSION;
  return machine;
}

}  // namespace fathom::cli
