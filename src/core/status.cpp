#include "fathom/core/status.h"

#include <algorithm>

namespace fathom {
namespace {

Status format_status(StatusCode code, const char* format, std::va_list arguments) noexcept {
  char text[Status::kTextBytes];
  std::vsnprintf(text, sizeof(text), format, arguments);
  return Status::make(code, text);
}

}  // namespace

Status Status::make(StatusCode code, std::string_view text) noexcept {
  Status status;
  status.code_ = code;
  const std::size_t length = std::min(text.size(), kTextBytes - 1);
  std::memcpy(status.text_, text.data(), length);
  status.text_[length] = '\0';
  return status;
}

#define FATHOM_DEFINE_STATUS(function, code)                 \
  Status Status::function(const char* format, ...) noexcept { \
    std::va_list arguments;                                   \
    va_start(arguments, format);                              \
    Status status = format_status(code, format, arguments);   \
    va_end(arguments);                                        \
    return status;                                            \
  }
FATHOM_DEFINE_STATUS(invalid, StatusCode::invalid_argument)
FATHOM_DEFINE_STATUS(unsupported, StatusCode::unsupported)
FATHOM_DEFINE_STATUS(insufficient_workspace, StatusCode::insufficient_workspace)
FATHOM_DEFINE_STATUS(exhausted, StatusCode::resource_exhausted)
FATHOM_DEFINE_STATUS(device_error, StatusCode::device_error)
#undef FATHOM_DEFINE_STATUS

}  // namespace fathom
