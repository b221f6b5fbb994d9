# Cross-compiling for 64-bit ARM with Debian's crossbuild-essential-arm64; programs run here under qemu-user, where it is.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(CLOUDS_QEMU qemu-aarch64)
if(CLOUDS_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${CLOUDS_QEMU} -L /usr/aarch64-linux-gnu)
endif()
# Libraries are those of the target only: named by their paths (ONNXRUNTIME_ROOT, TENSORRT_ROOT, CUDART_ROOT), in
# CMAKE_SYSROOT where one is given, such as a Jetson's copied files, or Debian's of arm64.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu ${CMAKE_SYSROOT})
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
