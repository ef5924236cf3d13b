# Builds for AArch64 with Debian's cross compiler; ctest runs the programs under qemu. Used with
# -DKERNELS_ONLY=ON, as Debian has the other libraries for one architecture at a time.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu)
