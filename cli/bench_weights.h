// Seeded random weights of one layer, in the types of the released checkpoints.
#pragma once

#include <cstdint>

#include "fathom/checkpoint.h"

namespace fathom::cli {

/// E4M3 projections with 128x128 UE8M0 scales, bf16 compressors and norms, sized so that every stage's numbers stay
/// near 1.
LoadedLayer random_weights(const LayerConfig& config, std::uint64_t seed);
/// Normed hidden states, bf16 [num_tokens, hidden_size], packed.
std::vector<bf16> random_hidden(std::int64_t num_tokens, int hidden_size, std::uint64_t seed);

}  // namespace fathom::cli
