// What any view must be before its memory is walked: shared by ops, host row functions and tables.
#pragma once

#include <cstdint>
#include <span>

#include "fathom/core/status.h"
#include "fathom/core/tensor.h"

namespace fathom {

/// Refuses strides that are negative or reach past 2^56 elements; the status starts with "`call`: `argument`".
Status check_strides(const char* call, const char* argument, std::span<const std::int64_t> shape,
                     std::span<const std::int64_t> strides) noexcept;

/// Refuses a view whose elements cannot be addressed: by its strides, null data, or misaligned data. A
/// written view must not fold elements onto each other either. Rank (1 to 4) and dtype are the
/// caller's to check first, and so is whether the view lies where the caller can reach it.
Status check_memory(const char* call, const char* argument, const TensorView& view, bool is_written) noexcept;

}  // namespace fathom
