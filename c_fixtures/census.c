/* Sixteen threads on eight arenas, one of them made of several heaps, with full and part full tcaches, and chunks that
 * have mappings of their own, aligned ones among them, between the stacks of threads.
 *
 * The threads build their heaps one after the other and then wait, so that each run makes the same heap. census ABORT
 * ends with SIGABRT, for a core file.
 */
#include "fixture.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/mman.h>

enum { THREADS = 16, ARENAS = 8, LARGE_CHUNKS = 1500, LARGE_SIZE = 100000, CHUNKS = 60, MAPPED = 12 };

static sem_t built;
static pthread_barrier_t over;
static void *large_chunks[LARGE_CHUNKS]; /* 150 MB in all: a heap of an arena has 64 MiB */
static void *mapped[MAPPED];
static size_t mapped_usable[MAPPED]; /* what malloc_usable_size says of them */
static size_t mapped_count;

static void map(void *chunk)
{
    if (chunk == NULL || mapped_count >= MAPPED)
        abort();
    mapped_usable[mapped_count] = malloc_usable_size(chunk);
    mapped[mapped_count++] = chunk;
}

static void build(int number)
{
    void *chunks[CHUNKS], *tail[CHUNKS];

    for (int i = 0; i < CHUNKS; i++) {
        chunks[i] = malloc(24 + 16 * (i % 5) + 700 * (i % 3));
        tail[i] = malloc(40);
    }
    for (int i = 0; i < CHUNKS; i += 2)
        free(chunks[i]); /* seven of a size fill a tcache list, and the rest goes to fastbins and the unsorted list */
    for (int i = 0; i <= number; i++)
        free(tail[i]); /* from part full to full */
    if (number == 0)
        for (int i = 0; i < LARGE_CHUNKS; i++)
            large_chunks[i] = malloc(LARGE_SIZE);
    if (number == 0)
        for (int i = 10; i < 60; i += 3)
            free(large_chunks[i]);
    if (number == 3)
        for (int i = 0; i < 3; i++)
            map(malloc(200000 + 30000 * i)); /* in the map they are between the stacks of threads */
}

static void *work(void *argument)
{
    build((int)(intptr_t)argument);
    sem_post(&built);
    pthread_barrier_wait(&over);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    void *foreign;

    (void)argv;
    mallopt(M_ARENA_MAX, ARENAS);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    prepare_totals();
    sem_init(&built, 0, 0);
    pthread_barrier_init(&over, NULL, THREADS + 1);
    map(malloc(1 << 20));
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i);
        sem_wait(&built);
    }
    map(aligned_alloc(64, 150016));
    map(aligned_alloc(4096, 200704));
    foreign = mmap(NULL, 5 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (foreign == MAP_FAILED)
        return 2;
    ((uint64_t *)foreign)[1] = 0x2003; /* almost a header */
    map(aligned_alloc(65536, 262144));
    map(realloc(malloc(140000), 500000));
    map(calloc(1, 131072));
    mapped[0] = realloc(mapped[0], 3 << 20);
    mapped_usable[0] = malloc_usable_size(mapped[0]);

    record_totals();
    stop_here();
    if (argc > 1)
        abort();
    pthread_barrier_wait(&over);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
