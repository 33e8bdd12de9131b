# FATHOM_CUDA: ON, OFF, or AUTO (the default): CUDA kernels are built where a compiler for them is found. Running needs no
# toolkit: the CUDA runtime is linked in, and loads the driver when it is first asked.
#   FATHOM_CUDA_TARGETS   compute targets, as CMake writes architectures; `all` is what releases ship
#   fathom_add_cuda(FILES...)         sources compiled for every target
#   fathom_add_cuda_sm90(FILES...)    sources compiled for sm_90a alone
set(FATHOM_CUDA AUTO CACHE STRING "Build CUDA kernels: ON, OFF or AUTO")
set(FATHOM_CUDA_TARGETS "80-real;90a-real" CACHE STRING "Compute targets, or `all`")
set(fathom_cuda_found OFF)
if(NOT FATHOM_CUDA STREQUAL OFF AND NOT FATHOM_SANITIZE)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(fathom_nvcc nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
    if(fathom_nvcc)
      set(CMAKE_CUDA_COMPILER ${fathom_nvcc})
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(fathom_cuda_found ON)
  elseif(FATHOM_CUDA STREQUAL ON)
    message(FATAL_ERROR "FATHOM_CUDA is ON, but no CUDA compiler was found; set CUDACXX or CUDA_HOME")
  endif()
endif()

if(fathom_cuda_found)
  set(targets ${FATHOM_CUDA_TARGETS})
  if(targets STREQUAL all)
    set(targets "80-real;89-real;90a-real;100a-real;120a-real;80-virtual;120-virtual")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${targets})
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  # "80-real;90a-real" -> "sm_80 sm_90a", for `fathom info`.
  string(REGEX REPLACE "([0-9]+a?)-real" "sm_\\1" fathom_cuda_names "${targets}")
  string(REGEX REPLACE "([0-9]+a?)-virtual" "compute_\\1" fathom_cuda_names "${fathom_cuda_names}")
  string(REPLACE ";" " " fathom_cuda_names "${fathom_cuda_names}")

  function(fathom_cuda_objects name)
    add_library(${name} OBJECT)
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden
      VISIBILITY_INLINES_HIDDEN ON)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(${name} PRIVATE fathom_headers CUDA::cudart_static)
    target_compile_definitions(${name} PRIVATE FATHOM_CUDA_TARGETS="${fathom_cuda_names}")
    # CMake 3.25 does not know how nvcc 13 spells C++20. The rules that CPU and GPU share are constexpr functions.
    # -fmad=false is left to the exact kernels' own intrinsics: an FMA is what a GPU does best.
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -Xcompiler=-Wall,-Wno-unknown-pragmas
      -Xcudafe --diag_suppress=20012>)
  endfunction()
  fathom_cuda_objects(fathom_cuda)
endif()

function(fathom_add_cuda)
  if(fathom_cuda_found)
    target_sources(fathom_cuda PRIVATE ${ARGN})
  endif()
endfunction()
function(fathom_add_cuda_sm90)
  if(fathom_cuda_found AND CMAKE_CUDA_ARCHITECTURES MATCHES 90a)
    if(NOT TARGET fathom_cuda_sm90)
      fathom_cuda_objects(fathom_cuda_sm90)
      set_target_properties(fathom_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real)
    endif()
    target_sources(fathom_cuda_sm90 PRIVATE ${ARGN})
    target_compile_definitions(fathom_objects PRIVATE FATHOM_WITH_SM90)
  endif()
endfunction()
