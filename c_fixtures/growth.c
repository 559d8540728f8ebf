/* growth N: each way in which one thread's malloc takes memory from the kernel and gives it back.
 *
 * N chunks of 100000 bytes are kept, so the break moves again and again; chunks of 1 MiB have mappings of their own,
 * one is freed and one grows in place; then the top is trimmed, by free and by malloc_trim.
 */
#include "fixture.h"

enum { MOST = 1000 };

static void *kept[MOST];
static void *mapped[3];

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 40;

    if (count < 1 || count > MOST)
        return 2;
    for (int i = 0; i < count; i++)
        kept[i] = malloc(100000); /* extends the heap */
    for (int i = 0; i < 3; i++)
        mapped[i] = malloc(1 << 20);            /* a mapping of its own */
    free(mapped[0]);                            /* gives the mapping back */
    mapped[1] = realloc(mapped[1], 5 << 20);    /* moves or extends the mapping */
    stop_here();
    for (int i = count - 1; i >= 0; i--)
        free(kept[i]); /* the top grows until it is trimmed */
    malloc_trim(0);
    stop_here();
    return 0;
}
