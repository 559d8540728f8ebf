/* malloc grows the heap 300 calls below main: the chain of callers is long. */
#include "fixture.h"

enum { DEPTH = 300 };

static void *kept[DEPTH + 1];

static void descend(int depth)
{
    if (depth == DEPTH)
        kept[depth] = malloc(100000);
    else
        descend(depth + 1);
    __asm__ volatile("" ::: "memory"); /* no tail call, however it is compiled */
}

int main(void)
{
    kept[0] = malloc(100000);
#if defined(__GLIBC__) && !HAS_FASTBINS /* 2.43: no tcache was made before that chunk, so that top has room for more */
    kept[1] = malloc(100000);
#endif
    descend(0);
    stop_here();
    return 0;
}
