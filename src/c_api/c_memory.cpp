// The C interface of memory on a device, for callers that have no CUDA runtime of their own.
#include "fathom/core/memory.h"

#include <utility>

#include "c_api/handover.h"

using fathom::DeviceMemory;
using fathom::Status;
using fathom::Stream;
using fathom::c_api::is_null;
using fathom::c_api::reported;

struct fathom_memory {
  DeviceMemory memory;
};

fathom_code fathom_memory_create(const fathom_device* device, int64_t bytes, fathom_memory** memory,
                                 fathom_status* status) {
  constexpr const char* kFunction = "fathom_memory_create";
  return reported(kFunction, status, [&]() -> Status {
    if (device == nullptr) return is_null(kFunction, "device");
    if (memory == nullptr) return is_null(kFunction, "memory");
    FATHOM_ASSIGN(DeviceMemory made, DeviceMemory::allocate(device->device, bytes));
    *memory = new fathom_memory{std::move(made)};
    return {};
  });
}
void fathom_memory_destroy(fathom_memory* memory) { delete memory; }

void* fathom_memory_data(const fathom_memory* memory) { return memory == nullptr ? nullptr : memory->memory.data(); }

fathom_code fathom_copy(const fathom_device* device, void* to, const void* from, int64_t bytes, void* stream,
                        fathom_status* status) {
  constexpr const char* kFunction = "fathom_copy";
  return reported(kFunction, status, [&]() -> Status {
    if (device == nullptr) return is_null(kFunction, "device");
    if (to == nullptr && bytes > 0) return is_null(kFunction, "to");
    if (from == nullptr && bytes > 0) return is_null(kFunction, "from");
    return fathom::copy_bytes(device->device, to, from, bytes, Stream{stream});
  });
}

fathom_code fathom_synchronize(const fathom_device* device, void* stream, fathom_status* status) {
  constexpr const char* kFunction = "fathom_synchronize";
  return reported(kFunction, status, [&]() -> Status {
    if (device == nullptr) return is_null(kFunction, "device");
    return fathom::synchronize(device->device, Stream{stream});
  });
}
