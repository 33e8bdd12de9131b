# fathom_target(NAME): the language level, warnings and floating-point rules that every target of ours obeys.
function(fathom_target name)
  target_compile_features(${name} PUBLIC cxx_std_20)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  # No contraction: a*b+c rounds twice wherever the specification says so; kernels that want FMA ask for it by name.
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wvla -ffp-contract=off>)
  # g++ 12 warns of overlap in std::string's own operator+ (GCC bug 105651).
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
  endif()
  if(FATHOM_WERROR)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  endif()
endfunction()
option(FATHOM_WERROR "Treat warnings as errors" OFF)

# fathom_precompile(NAME): parses the standard headers that nearly every file reads once for the target. It saves a quarter
# of the build; the sanitizer presets leave it out, so that a file which forgets an include is found there.
option(FATHOM_PRECOMPILE "Precompile standard headers" ON)
function(fathom_precompile name)
  if(FATHOM_PRECOMPILE)
    target_precompile_headers(${name} PRIVATE
      <algorithm> <array> <memory> <optional> <span> <string> <string_view> <vector>)
    # g++ 12 forgets that precompiled headers are the system's, and shows its false alarms about std::string in them. The
    # builds without precompiled headers keep these warnings.
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      target_compile_options(${name} PRIVATE
        "$<$<COMPILE_LANGUAGE:CXX>:-Wno-stringop-overflow;-Wno-array-bounds>")
    endif()
  endif()
endfunction()
