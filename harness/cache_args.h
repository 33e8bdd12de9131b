// Which arguments are caches, and how their rows lie: the one thing ArgSpec does not say.
#pragma once

#include <optional>

#include "fathom/cache.h"
#include "harness/op_case.h"

namespace fathom::harness {

/// Argument `arg` of the case as pages, over the bytes of `view`; nothing where it is no cache (or an absent one).
std::optional<PagedCacheView> cache_of(const OpCase& built, std::size_t arg, const TensorView& view) noexcept;

}  // namespace fathom::harness
