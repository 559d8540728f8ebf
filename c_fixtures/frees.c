/* One free each: frees MODE builds a heap, stops, frees `victim`, and stops again, if free lets it get there.
 *
 * Some modes write over the heap's own words, or free what they must not, so that the C library aborts.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { KIB = 1 << 10, FULL = TCACHE_COUNT };

static void *victim;
static void *kept[64];

/* The word `place` words behind a user pointer; -1 is the size word. */
#define WORD(pointer, place) (((size_t *)(pointer))[place])

static void *guarded(size_t size)
{
    void *chunk = malloc(size);

    malloc(24);
    return chunk;
}

/* Fills the tcache list of this size, so that the next chunk goes elsewhere. */
static void fill(size_t size)
{
    void *chunks[FULL];

    for (int i = 0; i < FULL; i++)
        chunks[i] = malloc(size);
    for (int i = 0; i < FULL; i++)
        free(chunks[i]);
}

static void nothing(void)
{
    malloc(24);
    victim = NULL;
}

static void to_tcache(void)
{
    kept[0] = malloc(100);
    victim = malloc(100);
    free(kept[0]);
}

static void fastbin(void)
{
    victim = guarded(40);
    kept[0] = guarded(40);
    fill(40);
    free(kept[0]);
}

static void unsorted(void)
{
    victim = guarded(3000);
}

static void small_chunk(void)
{
    victim = guarded(200);
    fill(200);
}

static void merged_before(void)
{
    kept[0] = malloc(3000);
    victim = guarded(2000);
    free(kept[0]);
}

static void merged_behind(void)
{
    victim = malloc(3000);
    kept[0] = guarded(2000);
    free(kept[0]);
}

static void merged_both(void)
{
    kept[0] = malloc(3000);
    victim = malloc(4000);
    kept[1] = guarded(2000);
    free(kept[0]);
    free(kept[1]);
}

/* The neighbours are in large bins, in runs of equal sizes. */
static void merged_sorted(void)
{
    for (int i = 0; i < 6; i++)
        kept[i] = guarded(5000);
    kept[6] = malloc(5000);
    victim = malloc(3000);
    kept[7] = guarded(5000);
    for (int i = 0; i < 8; i++)
        free(kept[i]);
    malloc(50000);
}

static void top(void)
{
    malloc(24);
    kept[0] = malloc(3000);
    victim = malloc(5000);
    free(kept[0]);
}

static void trim(void)
{
    for (int i = 0; i < 10; i++)
        kept[i] = malloc(30 * KIB);
    victim = malloc(100 * KIB);
    for (int i = 1; i < 10; i++)
        free(kept[i]);
}

/* Between the victim and top are fastbin chunks, which free merges before it looks at top. */
static void trim_after_merging(void)
{
    mallopt(M_TRIM_THRESHOLD, 64 * KIB);
    for (int i = 0; i < FULL; i++)
        kept[i] = malloc(40);
    kept[FULL] = malloc(60 * KIB);
    victim = malloc(100 * KIB);
    for (int i = FULL + 1; i < FULL + 13; i++)
        kept[i] = malloc(40);
    for (int i = 0; i < FULL; i++)
        free(kept[i]);
    for (int i = FULL + 1; i < FULL + 13; i++)
        free(kept[i]);
}

/* Something else moved the break: the end of top cannot go back. */
static void trim_blocked(void)
{
    kept[0] = malloc(100 * KIB);
    victim = malloc(120 * KIB);
    sbrk(4096);
}

static void mapped(void)
{
    victim = malloc(300 * KIB);
}

static void mapped_aligned(void)
{
    victim = aligned_alloc(64 * KIB, 256 * KIB);
}

static void mapped_fixed(void)
{
    mallopt(M_MMAP_THRESHOLD, 200 * KIB);
    victim = malloc(300 * KIB);
}

static void *allocate(void *argument)
{
    kept[0] = malloc(100);
    kept[1] = malloc(3000);
    for (int i = 2; i < 12; i++)
        kept[i] = malloc(100 * KIB);
    return argument;
}

static void in_thread(void *(*work)(void *))
{
    pthread_t thread;

    pthread_create(&thread, NULL, work, NULL);
    pthread_join(thread, NULL);
}

/* The chunk is of the arena of a thread that has ended. */
static void thread_small(void)
{
    in_thread(allocate);
    victim = kept[0];
}

static void thread_unsorted(void)
{
    in_thread(allocate);
    victim = kept[1];
}

static void thread_top(void)
{
    in_thread(allocate);
    for (int i = 11; i > 3; i--)
        free(kept[i]);
    victim = kept[3];
}

static void *several_heaps(void *argument)
{
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    for (int i = 0; i < 4; i++)
        kept[i] = malloc(19 << 20); /* three to a heap */
    return argument;
}

static void thread_heap(void)
{
    in_thread(several_heaps);
    victim = kept[3];
}

/* A thread that has not called malloc frees what another one allocated: glibc makes its tcache first. */
static void *free_it(void *argument)
{
    stop_here();
    free(victim);
    stop_here();
    return argument;
}

static void no_tcache(void)
{
    victim = malloc(100);
    in_thread(free_it);
    exit(0);
}

static void middle(void)
{
    victim = (char *)malloc(100) + 8;
}

/* The bytes there look like a chunk of 0x50. */
static void middle_forged(void)
{
    char *chunk = malloc(200);

    memset(chunk, 0, 200);
    WORD(chunk + 32, -1) = 0x51;
    victim = chunk + 32;
}

static void middle_zero(void)
{
    victim = (char *)memset(malloc(200), 0, 200) + 32;
}

static void variable(void)
{
    static size_t words[4] __attribute__((aligned(16)));

    malloc(24);
    victim = &words[2];
}

static void unmapped(void)
{
    malloc(24);
    victim = (void *)0x10;
}

static void double_tcache(void)
{
    to_tcache();
    free(victim);
}

static void double_fast(void)
{
    victim = guarded(40);
    fill(40);
    free(victim);
}

static void double_merged(void)
{
    victim = guarded(3000);
    free(victim);
}

static void of_top(void)
{
    kept[0] = malloc(24);
    victim = (char *)kept[0] + 32;
}

static void out(void)
{
    victim = guarded(3000);
    WORD(victim, -1) = (1 << 30) + 1;
}

static void invalid_size(void)
{
    victim = guarded(40);
    WORD(victim, -1) = 0x39;
}

static void next_fast(void)
{
    victim = guarded(40);
    fill(40);
    WORD(victim, 5) = 1;
}

static void next_normal(void)
{
    victim = guarded(3000);
    WORD(victim, 3000 / 8) = (1 << 30) + 1;
}

static void previous(void)
{
    kept[0] = malloc(3000);
    victim = guarded(2000);
    free(kept[0]);
    WORD(victim, -2) = 0x100;
}

static void previous_size(void)
{
    victim = malloc(2000);
    kept[0] = guarded(3000);
    free(kept[0]);
    WORD(kept[0], 3000 / 8 - 1) = 0x40;
}

static void list_links(void)
{
    kept[0] = guarded(3000);
    kept[1] = malloc(3000);
    victim = guarded(2000);
    free(kept[0]);
    free(kept[1]);
    WORD(kept[1], 0) = (size_t)&kept[8];
}

static void list_sizes(void)
{
    kept[0] = guarded(5000);
    kept[1] = malloc(3000);
    victim = guarded(2000);
    free(kept[0]);
    free(kept[1]);
    malloc(50000);
    WORD(kept[1], 2) = (size_t)&kept[8];
}

static void unsorted_links(void)
{
    kept[0] = guarded(3000);
    victim = guarded(2000);
    free(kept[0]);
    WORD(kept[0], 1) = (size_t)&kept[8];
}

static void mapped_header(void)
{
    victim = malloc(300 * KIB);
    WORD(victim, -1) += 0x100;
}

/* The list is longer than it may be, as its first chunk leads to a loop. */
static void tcache_loop(void)
{
    kept[0] = malloc(100);
    kept[1] = malloc(100);
    victim = malloc(100);
    free(victim);
    free(kept[1]);
    free(kept[0]);
    WORD(kept[1], 0) = STORED(kept[1], kept[0]);
}

static void tcache_unaligned(void)
{
    kept[0] = malloc(100);
    victim = malloc(100);
    free(victim);
    free(kept[0]);
    WORD(kept[0], 0) = STORED(kept[0], (size_t)kept[0] + 8);
}

/* What was freed has the mark of chunks in the tcache, but is not there. */
static void key_by_chance(void)
{
    to_tcache();
    WORD(victim, 1) = WORD(kept[0], 1);
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"nothing", nothing},
    {"tcache", to_tcache},
    {"fastbin", fastbin},
    {"unsorted", unsorted},
    {"small", small_chunk},
    {"merged-before", merged_before},
    {"merged-behind", merged_behind},
    {"merged-both", merged_both},
    {"merged-sorted", merged_sorted},
    {"top", top},
    {"trim", trim},
    {"trim-after-merging", trim_after_merging},
    {"trim-blocked", trim_blocked},
    {"mapped", mapped},
    {"mapped-aligned", mapped_aligned},
    {"mapped-fixed", mapped_fixed},
    {"thread-small", thread_small},
    {"thread-unsorted", thread_unsorted},
    {"thread-top", thread_top},
    {"thread-heap", thread_heap},
    {"no-tcache", no_tcache},
    {"key-by-chance", key_by_chance},
    {"middle-forged", middle_forged},
    {"unmapped", unmapped},
    {"misaligned", middle},
    {"size-0", middle_zero},
    {"variable", variable},
    {"invalid-size", invalid_size},
    {"double-tcache", double_tcache},
    {"tcache-loop", tcache_loop},
    {"tcache-unaligned", tcache_unaligned},
    {"double-fastbin", double_fast},
    {"of-top", of_top},
    {"out", out},
    {"double-merged", double_merged},
    {"next-size-fast", next_fast},
    {"next-size", next_normal},
    {"prev-size", previous},
    {"unlink-size", previous_size},
    {"unlink-links", list_links},
    {"unlink-sizes", list_sizes},
    {"unsorted-links", unsorted_links},
    {"mapped-header", mapped_header},
};

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(argv[1], modes[i].name) == 0) {
            modes[i].run();
            stop_here();
            free(victim);
            stop_here();
            return 0;
        }
    return 2;
}
