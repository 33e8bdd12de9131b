// Costs: the bytes a run of an op must move and the arithmetic it must do. The roofline's numerator, not a guess: each
// op's count stands in one table (costs.cpp) and depends on the case's own lists and lengths.
#pragma once

#include "harness/op_case.h"

namespace fathom::harness {

struct Cost {
  double read_bytes = 0;     ///< every input once; of caches only the rows that are read
  double written_bytes = 0;  ///< every output once; of caches only the rows that are written
  double operations = 0;     ///< floating-point multiplications and additions

  double bytes() const noexcept { return read_bytes + written_bytes; }
};

/// The cost of one run; an op without a line in the table is unsupported.
Result<Cost> cost_of(const OpCase& built);

}  // namespace fathom::harness
