# Helpers come from the system, or from FATHOM_<NAME>_DIR; nothing is ever downloaded (docs/design/0004-dependencies.md).
find_package(Threads REQUIRED)
find_package(TBB REQUIRED)
find_path(FATHOM_HWY_INCLUDE hwy/highway.h HINTS ${FATHOM_HWY_DIR}/include REQUIRED)
find_library(FATHOM_HWY_LIBRARY hwy HINTS ${FATHOM_HWY_DIR}/lib REQUIRED)
find_path(FATHOM_JSON_INCLUDE nlohmann/json.hpp HINTS ${FATHOM_JSON_DIR}/include REQUIRED)
