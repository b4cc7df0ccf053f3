# SPDX-License-Identifier: BSD-2-Clause
# The modules of lib/, lowest floor first. A module is a folder lib/<name>; every .c and .S file
# below it belongs to it. Which module may include which is checked by tests/meta/check_floors.py.
set(VMC_MODULES base pack sched balloon pages sharing vmfs disk mmu cpu irq bus dev virtio boot vm gdb
    pc)

# Modules that may run while a guest's x87/SSE/AVX state is live in the host's registers: they are
# compiled without any use of those registers (docs/architecture.md, "Guest FPU state"). The scheduler
# is among them because interrupt handlers call it.
set(VMC_GENERAL_REGS_MODULES base sched pages mmu cpu irq bus dev virtio vm pc)

function(vmc_add_modules)
  foreach(m IN LISTS VMC_MODULES)
    file(GLOB_RECURSE src CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lib/${m}/*.c
         ${CMAKE_SOURCE_DIR}/lib/${m}/*.S)
    if(NOT src)
      continue()
    endif()
    list(FILTER src EXCLUDE REGEX "_small\\.c$") # see vmc_add_small_library
    add_library(vmc_${m} OBJECT ${src})
    target_include_directories(vmc_${m} PRIVATE ${CMAKE_SOURCE_DIR}/include
                                                ${CMAKE_SOURCE_DIR}/lib)
    target_compile_options(vmc_${m} PRIVATE ${VMC_WARNINGS} ${VMC_LIB_FLAGS})
    if(m IN_LIST VMC_GENERAL_REGS_MODULES AND NOT VMC_SANITIZE)
      target_compile_options(vmc_${m} PRIVATE -mgeneral-regs-only -DVMC_GENERAL_REGS)
    endif()
    set_property(GLOBAL APPEND PROPERTY VMC_MODULE_TARGETS vmc_${m})
  endforeach()
endfunction()

# The static library once more, optimised for size where speed does not matter: for the bare-metal
# image. What every exit of a guest goes through is as in the other one. A file x_small.c takes the
# place of x.c there.
set(VMC_SPEED_FILES "lib/cpu/hw/(hw_exit|svm_exit|vmx_exit)|lib/vm/vm_io|lib/bus/bus")
set(VMC_SPEED_CODE -O2)
if(NOT CMAKE_C_COMPILER_ID STREQUAL GNU)
  set(VMC_SPEED_FILES "lib/cpu/hw/(svm_exit|vmx_exit)|lib/bus/bus") # measured: docs/hardware.md
  set(VMC_SPEED_CODE -Os)
endif()
set(VMC_HOSTED_MODULES gdb snap) # no bare-metal program of ours uses them
# A processor of a bare machine calls these with a guest's vector registers live; a process does not.
set(VMC_SMALL_GENERAL_REGS_MODULES vmfs disk)
# Code of the image, which lies in the topmost 2 GiB: addresses are 32-bit constants (tables of jumps
# would be of 64-bit ones), and the whole is optimised once more when it is linked: by GCC, or by lld for
# Clang, where inlining has to make the code smaller (what is inlined within a file is decided before).
set(VMC_KERNEL_CODE -fno-pic -mcmodel=kernel -fno-jump-tables)
set(VMC_KERNEL_LINK -Wl,--no-warn-rwx-segments)
if(CMAKE_C_COMPILER_ID STREQUAL GNU)
  list(APPEND VMC_KERNEL_CODE -flto -flto-partition=one -fno-fat-lto-objects -malign-data=abi)
else()
  find_program(VMC_LLD ld.lld)
  if(VMC_LLD)
    list(APPEND VMC_KERNEL_CODE -flto)
    set(VMC_KERNEL_LINK -fuse-ld=lld -Wl,--icf=safe -Wl,--no-eh-frame-hdr -Wl,-mllvm,-inline-threshold=-25)
  else()
    message(STATUS "bare metal: no lld, the image is larger than with it")
  endif()
endif()

include(CheckCCompilerFlag)
check_c_compiler_flag(-Oz VMC_HAVE_OZ)
set(VMC_SMALL_CODE -Os)
if(VMC_HAVE_OZ)
  set(VMC_SMALL_CODE -Oz)
endif()

function(vmc_add_small_library)
  set(objs "")
  foreach(m IN LISTS VMC_MODULES)
    if(m IN_LIST VMC_HOSTED_MODULES OR NOT TARGET vmc_${m})
      continue()
    endif()
    get_target_property(src vmc_${m} SOURCES)
    get_target_property(options vmc_${m} COMPILE_OPTIONS)
    if(m IN_LIST VMC_SMALL_GENERAL_REGS_MODULES)
      list(APPEND options -mgeneral-regs-only)
    endif()
    file(GLOB_RECURSE instead CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lib/${m}/*_small.c)
    foreach(f IN LISTS instead)
      string(REPLACE _small.c .c replaced ${f})
      list(REMOVE_ITEM src ${replaced})
      list(APPEND src ${f})
    endforeach()
    add_library(vmc_small_${m} OBJECT ${src})
    target_include_directories(vmc_small_${m} PRIVATE ${CMAKE_SOURCE_DIR}/include
                                                      ${CMAKE_SOURCE_DIR}/lib)
    target_compile_definitions(vmc_small_${m} PRIVATE VMCI_SMALL VMCI_TLB_BITS=12)
    target_compile_options(vmc_small_${m} PRIVATE ${options} ${VMC_KERNEL_CODE} -g1
                           -fomit-frame-pointer
                           $<$<C_COMPILER_ID:GNU>:-fno-align-functions>
                           $<$<C_COMPILER_ID:GNU>:-fno-align-jumps>
                           $<$<C_COMPILER_ID:GNU>:-fno-align-loops>)
    foreach(f IN LISTS src)
      set(code ${VMC_SMALL_CODE})
      if(f MATCHES ${VMC_SPEED_FILES})
        set(code ${VMC_SPEED_CODE})
      endif()
      set_property(SOURCE ${f} APPEND PROPERTY COMPILE_OPTIONS
                   $<$<STREQUAL:$<TARGET_PROPERTY:NAME>,vmc_small_${m}>:${code}>)
    endforeach()
    list(APPEND objs $<TARGET_OBJECTS:vmc_small_${m}>)
  endforeach()
  add_library(vmcore_small STATIC EXCLUDE_FROM_ALL ${objs})
  set_property(GLOBAL PROPERTY VMC_SMALL_OBJECTS ${objs})
endfunction()

function(vmc_add_library)
  get_property(mods GLOBAL PROPERTY VMC_MODULE_TARGETS)
  set(objs "")
  foreach(m IN LISTS mods)
    list(APPEND objs $<TARGET_OBJECTS:${m}>)
  endforeach()
  foreach(kind STATIC SHARED)
    string(TOLOWER vmcore_${kind} t)
    add_library(${t} ${kind} ${objs})
    set_target_properties(${t} PROPERTIES OUTPUT_NAME vmcore VERSION ${PROJECT_VERSION}
                          SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
    target_include_directories(${t} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>
                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_link_libraries(${t} PRIVATE ${VMC_FOREIGN_LIBS})
    if(kind STREQUAL SHARED)
      target_link_options(${t} PRIVATE
        -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/vmcore.map)
      if(NOT VMC_SANITIZE AND NOT (VMC_BUILD_FUZZERS AND CMAKE_C_COMPILER_ID MATCHES "Clang"))
        # (the runtime of a sanitizer or fuzzer comes with the program)
        target_link_options(${t} PRIVATE -Wl,--no-undefined)
      endif()
      set_property(TARGET ${t} APPEND PROPERTY LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/vmcore.map)
    endif()
  endforeach()
endfunction()
