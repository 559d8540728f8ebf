"""What the tests that run GDB share: starting GDB, reading strace, reading the kernel's maps, building the fixtures."""
