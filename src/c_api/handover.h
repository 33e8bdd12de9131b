// What the files of the C interface share: the opaque objects, and how statuses, views and texts are handed out.
#pragma once

#include <bit>
#include <cstring>
#include <string>

#include "fathom/c/fathom.h"
#include "fathom/core/plan.h"

struct fathom_device {
  fathom::Device device;
};
struct fathom_plan {
  fathom::AnyPlan plan;
};

namespace fathom::c_api {

inline fathom_code report(const Status& from, fathom_status* to) noexcept {
  const auto code = static_cast<fathom_code>(from.code());
  if (to != nullptr) {
    to->code = code;
    std::memcpy(to->text, from.text(), std::strlen(from.text()) + 1);
  }
  return code;
}

template <class Body>
fathom_code reported(const char* function, fathom_status* status, Body&& body) noexcept {
  return report(guarded(function, [&]() -> Status { return body(); }), status);
}

inline Status is_null(const char* function, const char* argument) noexcept {
  return Status::invalid("%s: %s is NULL", function, argument);
}

inline TensorView to_view(const fathom_tensor& tensor) noexcept { return std::bit_cast<TensorView>(tensor); }

/// Hands `count` items out through the buffer, capacity and size of the caller, each of them in items.
template <class Item>
Status copy_items(const char* function, const Item* items, std::int64_t count, Item* buffer, std::int64_t capacity,
                  std::int64_t* size) noexcept {
  const bool asks_for_size = buffer == nullptr && capacity == 0 && size != nullptr;
  if (!asks_for_size && buffer == nullptr) return is_null(function, "buffer");
  if (!asks_for_size && capacity < count) {
    return Status::invalid("%s: buffer has %lld %s, expected at least %lld", function, static_cast<long long>(capacity),
                           sizeof(Item) == 1 ? "bytes" : "numbers", static_cast<long long>(count));
  }
  if (!asks_for_size && count > 0) std::memcpy(buffer, items, sizeof(Item) * static_cast<std::size_t>(count));
  if (size != nullptr) *size = count;
  return {};
}

/// A text and its terminator; `text` is zero-terminated.
inline Status copy_text(const char* function, const std::string& text, char* buffer, std::int64_t capacity,
                        std::int64_t* size) noexcept {
  return copy_items(function, text.c_str(), static_cast<std::int64_t>(text.size()) + 1, buffer, capacity, size);
}

}  // namespace fathom::c_api
