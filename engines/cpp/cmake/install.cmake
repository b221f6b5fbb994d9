include(CMakePackageConfigHelpers)
install(TARGETS clouds EXPORT clouds-targets)
install(DIRECTORY include/clouds DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT clouds-targets NAMESPACE clouds:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clouds)
configure_package_config_file(cmake/clouds-config.cmake.in clouds-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clouds)
write_basic_package_version_file(clouds-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/clouds-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/clouds-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/clouds)
