// How parts of the layer's arguments (weights, caches, a step's bookkeeping) reach a caller's array of all of them.
#pragma once

#include <cstddef>
#include <cstring>
#include <iterator>

#include "c_api/handover.h"
#include "fathom/layer.h"

namespace fathom::c_api {

/// That `args` is an array of every argument of the op "layer".
inline Status check_layer_args(const char* function, const fathom_tensor* args, std::int32_t count) noexcept {
  if (args == nullptr) return is_null(function, "args");
  if (count != static_cast<std::int32_t>(std::size(kLayerArgs))) {
    return Status::invalid("%s: count is %d, expected %zu, the arguments of layer", function, count,
                           std::size(kLayerArgs));
  }
  return {};
}

/// Copies `part`, a struct of views, to its place in `args`, which holds every argument of the op "layer" in order.
template <class Part>
Status place(const char* function, const Part& part, std::size_t offset, fathom_tensor* args,
             std::int32_t count) noexcept {
  static_assert(sizeof(Part) % sizeof(TensorView) == 0 && sizeof(TensorView) == sizeof(fathom_tensor));
  FATHOM_TRY(check_layer_args(function, args, count));
  std::memcpy(args + offset / sizeof(TensorView), &part, sizeof(Part));
  return {};
}

}  // namespace fathom::c_api
