// libFuzzer's entry: one program for each target, which the build names in FATHOM_FUZZ_TARGET.
#include "fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fathom::fuzz::FATHOM_FUZZ_TARGET({data, size});
  return 0;
}
