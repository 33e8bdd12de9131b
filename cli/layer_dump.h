// What happened inside a layer, read back for people: picks, scores, entries, keys, the window, the open group.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "fathom/pool.h"

namespace fathom::cli {

/// A dense tensor that owns its values; without a shape it is absent.
template <class T>
struct DumpTensor {
  std::vector<std::int64_t> shape;
  std::vector<T> values;

  bool given() const noexcept { return !shape.empty(); }
  void resize(std::vector<std::int64_t> extents, T value = T()) {
    shape = std::move(extents);
    std::size_t count = 1;
    for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
    values.assign(count, value);
  }
};

struct LayerDump {
  DumpTensor<std::int32_t> topk_entries;     ///< CSA: [T, topk] entry numbers, ascending, -1 at the tail
  DumpTensor<float> index_scores;            ///< CSA: [T, entries visible at the end], -inf = not visible
  DumpTensor<float> core_out;                ///< [T, heads, head_dim], before the inverse rotation
  DumpTensor<float> entries;                 ///< CSA, HCA: [n, head_dim], decoded
  DumpTensor<float> index_keys;              ///< CSA: [n, index_dim], decoded
  DumpTensor<float> window_ring;             ///< [window, head_dim]: token p in slot p mod window
  DumpTensor<float> compressor_kv_state;     ///< [state_tokens, width], spec 3.5; 0 where a row is not live
  DumpTensor<float> compressor_score_state;  ///< the same, ape added; -inf where a row is not live
};

/// Calls visit(name, tensor) for every tensor that is there.
template <class Visit>
void visit_tensors(const LayerDump& dump, Visit&& visit) {
  const auto offer = [&](std::string_view name, const auto& tensor) {
    if (tensor.given()) visit(name, tensor);
  };
  offer("topk_entries", dump.topk_entries);
  offer("index_scores", dump.index_scores);
  offer("core_out", dump.core_out);
  offer("entries", dump.entries);
  offer("index_keys", dump.index_keys);
  offer("window_ring", dump.window_ring);
  offer("compressor_kv_state", dump.compressor_kv_state);
  offer("compressor_score_state", dump.compressor_score_state);
}

/// The row of the reference's state buffers (spec 3.5) that holds position `position` after `num_tokens` tokens, or -1
/// if that token's row can no longer matter. `overlap` layers keep the last full group above the open one.
std::int64_t state_row(std::int64_t position, std::int64_t num_tokens, int ratio, bool overlap) noexcept;

/// Reads the caches of layer 0 of `pool`, which lie on `device`, after `num_tokens` tokens of `sequence`: entries, keys,
/// window, state.
Status read_caches(const PagePool& pool, const Device& device, int sequence, std::int64_t num_tokens, LayerDump* dump);

}  // namespace fathom::cli
