// Whether the tests run under a memory or thread sanitizer: gcc and clang say so in different ways.
#pragma once

namespace fathom {

/// Sanitizers keep freed memory and end the process on allocations that no machine can meet.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kUnderSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kUnderSanitizer = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool kUnderSanitizer = false;
#endif

}  // namespace fathom
