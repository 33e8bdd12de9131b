// Status and Result: how every public function of Fathom reports.
#pragma once

#include "fathom/core/export.h"

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

namespace fathom FATHOM_PUBLIC {

/// What went wrong, in one word. `invalid_argument` is the caller's slip; `unsupported` is a correct request that
/// no implementation takes; the text names the argument, what came and what was expected.
enum class StatusCode : std::uint8_t {
  ok,
  invalid_argument,
  unsupported,
  insufficient_workspace,
  resource_exhausted,
  device_error,
};

/// The name of a code, as the program prints it ("invalid_argument").
constexpr const char* name_of(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::ok: return "ok";
    case StatusCode::invalid_argument: return "invalid_argument";
    case StatusCode::unsupported: return "unsupported";
    case StatusCode::insufficient_workspace: return "insufficient_workspace";
    case StatusCode::resource_exhausted: return "resource_exhausted";
    case StatusCode::device_error: return "device_error";
  }
  return "unknown";
}

/// A code and one clear sentence, kept in a fixed inline buffer: making a Status never allocates and never throws.
class [[nodiscard]] Status {
 public:
  static constexpr std::size_t kTextBytes = 1000;

  Status() noexcept : code_(StatusCode::ok) { text_[0] = '\0'; }
  Status(const Status& other) noexcept { *this = other; }
  Status& operator=(const Status& other) noexcept {
    code_ = other.code_;
    // An ok status carries no text: copying it costs two bytes, not the whole buffer.
    if (this != &other) std::memcpy(text_, other.text_, std::strlen(other.text_) + 1);
    return *this;
  }

  /// printf-style constructors, one for each code. Text past kTextBytes is cut.
  [[gnu::format(printf, 1, 2)]] static Status invalid(const char* format, ...) noexcept;
  [[gnu::format(printf, 1, 2)]] static Status unsupported(const char* format, ...) noexcept;
  [[gnu::format(printf, 1, 2)]] static Status insufficient_workspace(const char* format, ...) noexcept;
  [[gnu::format(printf, 1, 2)]] static Status exhausted(const char* format, ...) noexcept;
  [[gnu::format(printf, 1, 2)]] static Status device_error(const char* format, ...) noexcept;
  static Status make(StatusCode code, std::string_view text) noexcept;

  bool ok() const noexcept { return code_ == StatusCode::ok; }
  StatusCode code() const noexcept { return code_; }
  /// Zero-terminated; empty when ok.
  const char* text() const noexcept { return text_; }

 private:
  StatusCode code_;
  char text_[kTextBytes];
};

/// A value, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}           // NOLINT: conversion is the point
  Result(const Status& status) noexcept : status_(status) {}  // NOLINT

  bool ok() const noexcept { return value_.has_value(); }
  const Status& status() const noexcept { return status_; }
  T& value() & noexcept { return *value_; }
  const T& value() const& noexcept { return *value_; }
  T&& value() && noexcept { return std::move(*value_); }
  T* operator->() noexcept { return &*value_; }
  const T* operator->() const noexcept { return &*value_; }

 private:
  Status status_;
  std::optional<T> value_;
};

/// Runs `body` and turns the only exceptions the library can meet into statuses, so that public functions are
/// noexcept: bad_alloc becomes resource_exhausted, anything else device_error.
template <class Body>
auto guarded(const char* what, Body&& body) noexcept -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Status::exhausted("%s: out of host memory", what);
  } catch (const std::exception& error) {
    return Status::device_error("%s: %s", what, error.what());
  } catch (...) {
    return Status::device_error("%s: unknown exception", what);
  }
}

}  // namespace fathom

/// Returns the Status of `expression` to the caller unless it is ok.
#define FATHOM_TRY(expression)                                  \
  do {                                                          \
    if (::fathom::Status fathom_status_ = (expression); !fathom_status_.ok()) return fathom_status_; \
  } while (false)

#define FATHOM_CONCAT_(a, b) a##b
#define FATHOM_CONCAT(a, b) FATHOM_CONCAT_(a, b)
/// `FATHOM_ASSIGN(auto plan, plan_attend(...))`: the value, or return its Status to the caller.
#define FATHOM_ASSIGN(declaration, expression) \
  FATHOM_ASSIGN_(FATHOM_CONCAT(fathom_result_, __LINE__), declaration, expression)
#define FATHOM_ASSIGN_(result, declaration, expression) \
  auto result = (expression);                           \
  if (!result.ok()) return result.status();             \
  declaration = std::move(result).value()
