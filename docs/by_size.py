"""Group the chunks of the heap by size; in GDB: source docs/by_size.py."""

from collections import defaultdict

import gdbheap

heap = gdbheap.heap()
total = defaultdict(int)
for chunk in heap.chunks(state="used"):
    total[chunk.size] += chunk.size
print(f"arenas: {len(heap.arenas)}, top_pad: {heap.params.get('top_pad'):#x}, sizes in use: {len(total)}")
for size, used in sorted(total.items(), key=lambda item: -item[1])[:5]:
    print(f"{used // size:5} chunks of {size:#x}: {used:,} bytes")
for thread, tcache in heap.tcaches.items():
    print(f"thread {thread}: {len(tcache.chunks)} chunks in its tcache, {tcache.total:,} bytes")
for problem in heap.problems:
    print(problem)
