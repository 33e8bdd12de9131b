// RowBytes: where one cached row lies, for loops over many rows of one format.
#pragma once

#include <cstddef>

namespace fathom {

struct RowBytes {
  const std::byte* row;
  const std::byte* footer;  ///< the row's part of it
};

}  // namespace fathom
