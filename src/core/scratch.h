// Scratch: cuts a workspace into typed pieces. The same function lays it out twice: over no memory when a plan measures
// it, over the caller's bytes when a run takes it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "fathom/core/plan.h"

namespace fathom {

class Scratch {
 public:
  Scratch() = default;  ///< measures only
  explicit Scratch(const Buffer& buffer) noexcept : base_(static_cast<std::byte*>(buffer.data)) {}

  template <class T>
  T* take(std::int64_t count) noexcept {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * static_cast<std::int64_t>(sizeof(T)) + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    return reinterpret_cast<T*>(at);
  }
  /// A part for another op, run between takes. Counters and schedule are the outer op's own: it asked for as many as
  /// any of its parts needs, and each part leaves the counters zero.
  Workspace take_workspace(const WorkspaceSize& size, const Workspace& outer = {}) noexcept {
    return {{take<std::byte>(size.scratch), size.scratch}, outer.counters, outer.schedule};
  }
  std::int64_t used() const noexcept { return used_; }

 private:
  std::byte* base_ = nullptr;
  std::int64_t used_ = 0;
};

/// The workspace that any one of several plans needs: they run one after the other.
inline WorkspaceSize largest(std::initializer_list<const AnyPlan*> plans) noexcept {
  WorkspaceSize size;
  for (const AnyPlan* plan : plans) {
    if (!*plan) continue;
    const WorkspaceSize needs = plan->workspace_size();
    size = {std::max(size.scratch, needs.scratch), std::max(size.counters, needs.counters), std::max(size.schedule, needs.schedule)};
  }
  return size;
}

/// Widens `count` elements of an f32 or bf16 row.
inline void load_row(const TensorView& tensor, std::int64_t at, std::int64_t count, float* out) noexcept {
  if (tensor.dtype == DType::f32) {
    const float* from = static_cast<const float*>(tensor.data) + at;
    for (std::int64_t i = 0; i < count; ++i) out[i] = from[i];
  } else {
    const bf16* from = static_cast<const bf16*>(tensor.data) + at;
    for (std::int64_t i = 0; i < count; ++i) out[i] = to_f32(from[i]);
  }
}
/// Stores a row as f32 or rounded to bf16.
inline void store_row(const TensorView& tensor, std::int64_t at, std::int64_t count, const float* values) noexcept {
  if (tensor.dtype == DType::f32) {
    float* to = static_cast<float*>(tensor.data) + at;
    for (std::int64_t i = 0; i < count; ++i) to[i] = values[i];
  } else {
    bf16* to = static_cast<bf16*>(tensor.data) + at;
    for (std::int64_t i = 0; i < count; ++i) to[i] = to_bf16(values[i]);
  }
}

}  // namespace fathom
