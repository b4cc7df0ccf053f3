# SPDX-License-Identifier: BSD-2-Clause
# Warnings, sanitizers and the flags that every module of lib/ is compiled with.
set(VMC_WARNINGS -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings
    -Wundef -Wvla -Wimplicit-fallthrough -Wformat=2 -Wpointer-arith)
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
  # How the headers of Linux and libseccomp are meant to be used.
  list(APPEND VMC_WARNINGS -Wno-gnu-variable-sized-type-not-at-end -Wno-missing-field-initializers)
endif()
if(VMC_WERROR)
  list(APPEND VMC_WARNINGS -Werror)
endif()

# lib/ is the same code in a process and in a kernel: freestanding, and without libc's idioms.
# Sections let a static link leave out what it does not use (the bare-metal image).
set(VMC_LIB_FLAGS -ffreestanding -fno-strict-aliasing -fno-omit-frame-pointer -ffunction-sections
    -fdata-sections)
if(VMC_DEBUG)
  list(APPEND VMC_LIB_FLAGS -DVMC_DEBUG)
endif()

if(VMC_SANITIZE)
  add_compile_options(-fsanitize=${VMC_SANITIZE} -fno-omit-frame-pointer)
  add_compile_definitions(VMC_SANITIZED)
  if(NOT VMC_SANITIZE MATCHES "thread")
    add_compile_options(-fno-sanitize-recover=all)
  endif()
  add_link_options(-fsanitize=${VMC_SANITIZE})
endif()
if(VMC_BUILD_FUZZERS AND CMAKE_C_COMPILER_ID MATCHES "Clang")
  add_compile_options(-fsanitize=fuzzer-no-link) # coverage of the library guides the fuzzer
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
if(VMC_COVERAGE)
  add_compile_options(--coverage -fprofile-update=atomic)
  add_link_options(--coverage)
endif()

# Libraries behind the funnels of lib/ (docs/architecture.md, "Third-party code").
find_package(PkgConfig REQUIRED)
pkg_check_modules(CAPSTONE REQUIRED IMPORTED_TARGET capstone)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
set(VMC_FOREIGN_LIBS PkgConfig::CAPSTONE PkgConfig::ZSTD)
