/* One malloc or realloc each on a heap that is corrupt: broken MODE damages a list, stops, and calls malloc(size), or
   realloc(pointer, size) where there is a pointer. */
#include "fixture.h"

#include <string.h>

enum { FULL = TCACHE_COUNT };

static size_t size = 40;
static char *pointer;
static void *kept[32];

/* The word `place` words behind a user pointer; -1 is the size word. */
#define WORD(memory, place) (((size_t *)(memory))[place])

static void *guarded(size_t bytes)
{
    void *memory = malloc(bytes);

    malloc(24);
    return memory;
}

/* `count` chunks behind each other in the same list of the arena: the tcache is full first, and empty again then. */
static void free_past_tcache(size_t bytes, int count)
{
    int i;

    for (i = 0; i < FULL; i++)
        kept[16 + i] = malloc(bytes);
    for (i = 0; i < count; i++)
        kept[i] = guarded(bytes);
    for (i = 0; i < FULL; i++)
        free(kept[16 + i]);
    for (i = 0; i < count; i++)
        free(kept[i]);
    for (i = 0; i < FULL; i++)
        kept[16 + i] = malloc(bytes);
}

static void tcache_unaligned(void)
{
    kept[0] = malloc(40);
    kept[1] = malloc(40);
    free(kept[0]);
    free(kept[1]);
    WORD(kept[1], 0) = STORED(kept[1], (size_t)kept[0] + 8);
    malloc(40);
}

static void fast_size(void)
{
    free_past_tcache(40, 2);
    WORD(kept[1], -1) = 0x51;
}

static void fast_unaligned(void)
{
    free_past_tcache(40, 2);
    WORD(kept[1], 0) = STORED(kept[1], (size_t)kept[0] - 8);
}

static void consolidated_size(void)
{
    fast_size();
    size = 5000;
}

static void small_links(void)
{
    free_past_tcache(400, 2);
    malloc(5000); /* sorts them */
    WORD(kept[1], 0) = (size_t)kept;
    size = 400;
    WORD(kept[0], 1) = (size_t)kept;
}

static void one_unsorted(void)
{
    kept[0] = guarded(2000);
    free(kept[0]);
    size = 3000;
}

static void unsorted_size(void)
{
    one_unsorted();
    WORD(kept[0], -1) = 0x7fffffffffffff01;
}

static void unsorted_next_size(void)
{
    one_unsorted();
    WORD(kept[0], 2008 / 8) = 0;
}

static void unsorted_prev_size(void)
{
    one_unsorted();
    WORD(kept[0], 2000 / 8) = 0x100;
}

static void unsorted_links(void)
{
    one_unsorted();
    WORD(kept[0], 0) = (size_t)kept;
}

static void unsorted_in_use(void)
{
    one_unsorted();
    WORD(kept[0], 2008 / 8) |= 1;
}

static void unsorted_unmapped(void)
{
    one_unsorted();
    WORD(kept[0], 1) = 0x10;
}

static void large_bin(void)
{
    kept[0] = guarded(5000);
    kept[1] = guarded(5100);
    kept[2] = guarded(5050);
    free(kept[0]);
    free(kept[1]);
    malloc(9000); /* sorts them */
    free(kept[2]);
    size = 9000;
}

static void large_sizes(void)
{
    large_bin();
    WORD(kept[0], 3) = (size_t)kept;
}

static void large_links(void)
{
    large_bin();
    WORD(kept[0], 1) = (size_t)kept;
}

static void unlinked_size(void)
{
    kept[0] = guarded(5000);
    free(kept[0]);
    malloc(9000);
    WORD(kept[0], 4992 / 8) = 0x20;
    size = 5000;
}

static void top_size(void)
{
    kept[0] = malloc(24);
    WORD(kept[0], 3) = 0x7fffffffffffff01;
    size = 200000;
}

static void realloc_pointer(void)
{
    pointer = (char *)malloc(100) + 8;
}

static void realloc_old_size(void)
{
    pointer = malloc(100);
    WORD(pointer, -1) = 0x7fffffff01;
}

static void realloc_next_size(void)
{
    pointer = guarded(104);
    WORD(pointer, 13) = 1;
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"tcache-unaligned", tcache_unaligned},
    {"fast-size", fast_size},
    {"fast-unaligned", fast_unaligned},
    {"consolidated-size", consolidated_size},
    {"small-links", small_links},
    {"unsorted-size", unsorted_size},
    {"unsorted-next-size", unsorted_next_size},
    {"unsorted-prev-size", unsorted_prev_size},
    {"unsorted-links", unsorted_links},
    {"unsorted-in-use", unsorted_in_use},
    {"unsorted-unmapped", unsorted_unmapped},
    {"large-sizes", large_sizes},
    {"large-links", large_links},
    {"unlinked-size", unlinked_size},
    {"top-size", top_size},
    {"realloc-pointer", realloc_pointer},
    {"realloc-old-size", realloc_old_size},
    {"realloc-next-size", realloc_next_size},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(argv[1], modes[i].name) == 0)
            modes[i].run();
    stop_here();
    kept[31] = pointer != NULL ? realloc(pointer, size) : malloc(size);
    stop_here();
    return 0;
}
