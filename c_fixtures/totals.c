/* One arena with a chunk of every kind, and what mallinfo2 and malloc_info say of it.
 *
 * Used chunks, a full and a part full tcache list, fastbins, the unsorted list, a small and a large bin, and chunks
 * that have a mapping of their own. The program has one thread. Where a tcache list takes more than seven chunks, others
 * come before those that are told here.
 */
#include "fixture.h"

enum { COUNT = 9, LARGE = 4, MAPPED = 3, MORE = TCACHE_COUNT - 7 };

static void *more[2][MORE + 1];
static void *fast[COUNT];    /* chunks of 0x30: seven fill a tcache list, the rest go to a fastbin, if there are any */
static void *part[3];        /* chunks of 0x60: a tcache list with room left */
static void *small[COUNT];   /* chunks of 0x200: seven fill a tcache list, the rest go to a small bin */
static void *large[LARGE];   /* chunks of 3000 bytes and more: large bins */
static void *unsorted[2];    /* freed last: nothing has sorted them yet */
static void *mapped[MAPPED]; /* above the threshold of mmap */
static void *used[64];

/* Allocates and puts a used chunk behind it, so that nothing merges when it is freed. */
static void *guarded(size_t size)
{
    void *chunk = malloc(size);
    malloc(24);
    return chunk;
}

int main(void)
{
    prepare_totals();
    for (int i = 0; i < MORE; i++) {
        more[0][i] = malloc(40);
        more[1][i] = guarded(504);
    }
    for (int i = 0; i < COUNT; i++) {
        fast[i] = HAS_FASTBINS ? malloc(40) : guarded(40);
        small[i] = guarded(504);
    }
    for (int i = 0; i < 3; i++)
        part[i] = malloc(88);
    for (int i = 0; i < LARGE; i++)
        large[i] = guarded(3000 + 700 * i);
    for (int i = 0; i < 2; i++)
        unsorted[i] = guarded(2000 + 160 * i);
    for (int i = 0; i < MAPPED; i++)
        mapped[i] = malloc(200000 + 100000 * i);
    for (int i = 0; i < 64; i++)
        used[i] = malloc(i * 17);
    used[0] = aligned_alloc(4096, 8192);

    for (int i = 0; i < MORE; i++)
        free(more[1][i]);
    for (int i = 0; i < COUNT; i++)
        free(small[i]);
    for (int i = 0; i < LARGE; i++)
        free(large[i]);
    used[1] = malloc(20000); /* larger than every free chunk: the search for it sorts them into their bins */
    for (int i = 0; i < 3; i++)
        free(part[i]);
    for (int i = 0; i < MORE; i++)
        free(more[0][i]);
    for (int i = 0; i < COUNT; i++)
        free(fast[i]);
    for (int i = 0; i < 2; i++)
        free(unsorted[i]);

    record_totals();
    stop_here();
    return used[0] == NULL;
}
