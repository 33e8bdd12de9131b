// What paged_cache asks of pages, for callers that were given a PagedCacheView.
#pragma once

#include "fathom/cache.h"

namespace fathom {

/// Page size, number of pages, stride, data and alignment; the status starts with "`call`: `argument`". The layout is
/// taken to be one of row_layout's.
Status check_paged_cache(const char* call, const char* argument, const PagedCacheView& cache) noexcept;

}  // namespace fathom
