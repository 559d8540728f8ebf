/* Four threads, each with an arena and a tcache of its own; the first one's arena is made of several heaps.
 *
 * They build their heaps one after the other, so that each run makes the same system calls in the same order. At the
 * first stop_here() every thread waits, and what mallinfo2 and malloc_info say holds; before the second one, the first
 * thread frees its chunks, so that its arena gives memory back.
 */
#include "fixture.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>

enum { THREADS = 4, LARGE_CHUNKS = 700, LARGE_SIZE = 100000, SMALL_CHUNKS = 40, FAST_CHUNKS = 10 };

static sem_t built, over[THREADS];
static pthread_barrier_t seen, shrunk;
static void *large_chunks[LARGE_CHUNKS]; /* 70 MB in all: a heap of an arena has 64 MiB */
static void *small_chunks[THREADS][SMALL_CHUNKS];

static void build(int number)
{
    void **chunks = small_chunks[number], *fast[FAST_CHUNKS];

    for (int i = 0; i < FAST_CHUNKS; i++)
        fast[i] = malloc(24 + 16 * number);
    for (int i = 0; i < SMALL_CHUNKS; i++)
        chunks[i] = malloc(40 + 80 * (i % 4) + 500 * (i % 2) * number);
    for (int i = 0; i < SMALL_CHUNKS; i += 3)
        free(chunks[i]);
    for (int i = 0; i < FAST_CHUNKS; i++)
        free(fast[i]); /* seven go to the tcache */
    if (number == 0) {
        for (int i = 0; i < LARGE_CHUNKS; i++)
            large_chunks[i] = malloc(LARGE_SIZE);
        for (int i = 10; i < 30; i += 4) {
            free(large_chunks[i]);
            large_chunks[i] = NULL;
        }
        for (int i = 0; i < FAST_CHUNKS; i++)
            fast[i] = malloc(24);
        for (int i = 0; i < FAST_CHUNKS; i++)
            free(fast[i]); /* the large requests had merged the first ones */
    }
}

static void *work(void *argument)
{
    int number = (int)(intptr_t)argument;

    build(number);
    sem_post(&built);
    pthread_barrier_wait(&seen);
    if (number == 0)
        for (int i = LARGE_CHUNKS - 1; i >= 0; i--)
            free(large_chunks[i]);
    pthread_barrier_wait(&shrunk);
    sem_wait(&over[number]);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];

    prepare_totals();
    sem_init(&built, 0, 0);
    pthread_barrier_init(&seen, NULL, THREADS + 1);
    pthread_barrier_init(&shrunk, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        sem_init(&over[i], 0, 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i);
        sem_wait(&built);
    }

    record_totals();
    stop_here();
    pthread_barrier_wait(&seen);
    pthread_barrier_wait(&shrunk);
    stop_here();
    for (int i = 0; i < THREADS; i++) { /* they end in order: each run makes the same calls */
        sem_post(&over[i]);
        pthread_join(threads[i], NULL);
    }
    return 0;
}
