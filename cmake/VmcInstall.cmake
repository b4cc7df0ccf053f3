# SPDX-License-Identifier: BSD-2-Clause
# cmake --install: libraries, headers, package files for CMake and pkg-config.
include(CMakePackageConfigHelpers)

install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/vmcore DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        COMPONENT devel FILES_MATCHING PATTERN "*.h")

set(targets vmcore_static vmcore_shared vmcore_host)
if(TARGET vmcore_kvm)
  list(APPEND targets vmcore_kvm)
endif()
install(TARGETS ${targets} EXPORT vmcoreTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT devel
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime
                NAMELINK_COMPONENT devel)
install(EXPORT vmcoreTargets NAMESPACE vmcore:: FILE vmcoreTargets.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/vmcore COMPONENT devel)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/vmcoreConfig.cmake.in
                              ${CMAKE_BINARY_DIR}/vmcoreConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/vmcore)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/vmcoreConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/vmcoreConfig.cmake ${CMAKE_BINARY_DIR}/vmcoreConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/vmcore COMPONENT devel)

# pkg-config, relocatable: every path hangs on ${pcfiledir}.
file(RELATIVE_PATH VMC_PC_TO_PREFIX
     ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
foreach(pc vmcore vmcore-host vmcore-kvm)
  configure_file(${CMAKE_SOURCE_DIR}/cmake/${pc}.pc.in ${CMAKE_BINARY_DIR}/${pc}.pc @ONLY)
endforeach()
install(FILES ${CMAKE_BINARY_DIR}/vmcore.pc ${CMAKE_BINARY_DIR}/vmcore-host.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)
if(TARGET vmcore_kvm)
  install(FILES ${CMAKE_BINARY_DIR}/vmcore-kvm.pc
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)
endif()

install(FILES ${CMAKE_SOURCE_DIR}/docs/man/vmcore.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1
        COMPONENT runtime)
install(FILES ${CMAKE_SOURCE_DIR}/docs/man/vmcore-host.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5
        COMPONENT runtime)
install(FILES ${CMAKE_SOURCE_DIR}/tools/vmcore/completion.bash
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME vmcore
        COMPONENT runtime)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE ${CMAKE_SOURCE_DIR}/README.md
              ${CMAKE_SOURCE_DIR}/CONTRIBUTING.md
        DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT doc)
# Where README.md refers to it.
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT doc
        FILES_MATCHING PATTERN "*.md" PATTERN "*.svg" PATTERN man EXCLUDE)
