# `cmake --install`: the library, its headers, the program, and what find_package(fathom) and pkg-config read.
include(CMakePackageConfigHelpers)

set(fathom_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fathom)
set_target_properties(fathom_headers PROPERTIES EXPORT_NAME headers)
install(TARGETS fathom fathom_headers EXPORT fathom_targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/fathom DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(EXPORT fathom_targets NAMESPACE fathom:: DESTINATION ${fathom_package_dir} FILE fathom-targets.cmake)

configure_package_config_file(cmake/fathom-config.cmake.in ${PROJECT_BINARY_DIR}/fathom-config.cmake
  INSTALL_DESTINATION ${fathom_package_dir} NO_SET_AND_CHECK_MACRO)
# Below 1.0 a minor version may break its users; SameMinorVersion says so.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/fathom-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/fathom-config.cmake ${PROJECT_BINARY_DIR}/fathom-config-version.cmake
  DESTINATION ${fathom_package_dir})

file(RELATIVE_PATH fathom_include_from_lib ${CMAKE_INSTALL_FULL_LIBDIR} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/fathom.pc.in ${PROJECT_BINARY_DIR}/fathom.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/fathom.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(TARGET fathom_program)
  # The installed program finds the library beside it wherever the prefix is moved to.
  file(RELATIVE_PATH fathom_lib_from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(fathom_program PROPERTIES INSTALL_RPATH "$ORIGIN/${fathom_lib_from_bin}")
  install(TARGETS fathom_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  # `fathom check` and `fathom bench` read them (harness/case_file.cpp).
  install(DIRECTORY cases DESTINATION ${CMAKE_INSTALL_DATADIR}/fathom FILES_MATCHING PATTERN "*.txt")
endif()

# The Python package carries the library beside its modules (python/fathom/_library.py looks there). A wheel holds no
# symbolic links, so it is one file under the plain name.
if(FATHOM_SHARED)
  install(FILES $<TARGET_FILE:fathom> DESTINATION fathom RENAME libfathom.so COMPONENT python EXCLUDE_FROM_ALL)
endif()
