// The build has no CUDA: every question is answered with that.
#include "core/cuda_runtime.h"

namespace fathom::cuda {
namespace {

Status none() noexcept { return Status::unsupported("device: this libfathom was built without CUDA"); }

}  // namespace

const char* compiled_targets() noexcept { return ""; }
int device_count() noexcept { return 0; }
Result<DeviceLimits> limits_of(int) noexcept { return none(); }
Result<void*> allocate(int, std::int64_t) noexcept { return none(); }
void release(int, void*) noexcept {}
Status copy(int, void*, const void*, std::int64_t, Stream) noexcept { return none(); }
Status copy_rows(int, void*, const void*, std::int64_t, std::int64_t, std::int64_t, Stream) noexcept { return none(); }
Status fill(int, void*, int, std::int64_t, Stream) noexcept { return none(); }
Status synchronize(int, Stream) noexcept { return none(); }

}  // namespace fathom::cuda
