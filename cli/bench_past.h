// A past for a decode step: sequences of some length whose cached rows are random, without the time it takes to prefill.
#pragma once

#include <cstdint>
#include <vector>

#include "fathom/pool.h"

namespace fathom::cli {

struct Past {
  PagePool pool;
  std::vector<int> sequences;
};

/// `sequences` sequences of `tokens` tokens each on `device`, with room for one step of one token more.
Result<Past> make_past(LayerProblem problem, std::int64_t sequences, std::int64_t tokens, const Device& device);

}  // namespace fathom::cli
