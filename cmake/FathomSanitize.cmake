# FATHOM_SANITIZE=address,undefined or thread: every target of this build runs under those sanitizers.
if(FATHOM_SANITIZE)
  add_compile_options(-fsanitize=${FATHOM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${FATHOM_SANITIZE})
  if(FATHOM_SANITIZE MATCHES thread)
    # The system's oneTBB is not instrumented, so ThreadSanitizer cannot see that it orders our tasks.
    add_compile_definitions(FATHOM_PLAIN_THREADS)
  endif()
endif()

# With clang: everything carries libFuzzer's counters, and tests/CMakeLists.txt adds the fuzzers.
option(FATHOM_FUZZ "Build the fuzzers (clang)" OFF)
if(FATHOM_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "FATHOM_FUZZ needs clang, this is ${CMAKE_CXX_COMPILER_ID}")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
