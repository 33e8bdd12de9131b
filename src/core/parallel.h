// parallel_for: the one seam to the thread library.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/core/device.h"

namespace fathom {

namespace detail {
/// Runs task(context, i) for i in [0, count) on the arena's threads and waits. Exceptions pass to the caller.
void run_tasks(ThreadArena* arena, int count, void (*task)(void* context, int index), void* context);
}  // namespace detail

/// Splits [0, count) into one contiguous range per thread (at least `grain` items each) and calls body(begin, end,
/// part). The split depends on `count`, `grain` and the thread count only, never on timing.
template <class Body>
void parallel_for(const Device& device, std::int64_t count, std::int64_t grain, Body&& body) {
  if (count <= 0) return;
  const std::int64_t most = (count + grain - 1) / std::max<std::int64_t>(grain, 1);
  const int parts = static_cast<int>(std::min<std::int64_t>(most, device.num_threads()));
  if (parts <= 1) return body(std::int64_t{0}, count, 0);
  struct Context {
    Body* body;
    std::int64_t count;
    int parts;
  } context{&body, count, parts};
  detail::run_tasks(
      device.arena(), parts,
      [](void* opaque, int part) {
        auto& c = *static_cast<Context*>(opaque);
        const std::int64_t begin = c.count * part / c.parts;
        const std::int64_t end = c.count * (part + 1) / c.parts;
        (*c.body)(begin, end, part);
      },
      &context);
}

}  // namespace fathom
