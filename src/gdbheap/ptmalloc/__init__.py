"""glibc's allocator, read from bytes: arenas, heaps, chunks, free lists, parameters."""
