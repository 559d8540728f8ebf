/* crowd [N]: eight threads allocate at the same time, N rounds each, small and large chunks, and free in between.
 *
 * Each has an arena of its own and the threshold for mappings is fixed, so that what one does is the same in each run.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdint.h>

enum { THREADS = 8, SLOTS = 200 };

static pthread_barrier_t start, over;
static int rounds = 2000;

static void *work(void *argument)
{
    unsigned number = (unsigned)(uintptr_t)argument, random = number;
    void *slots[SLOTS] = {NULL};

    pthread_barrier_wait(&start);
    for (int i = 0; i < rounds; i++) {
        unsigned slot;

        random = random * 1103515245 + 12345;
        slot = (random >> 16) % SLOTS;
        free(slots[slot]);
        slots[slot] = malloc(i % 100 == 0 ? 150000 + 1000 * number : 16 + (random >> 8) % 3000);
    }
    for (int i = 0; i < SLOTS; i++)
        free(slots[i]);
    pthread_barrier_wait(&over); /* no thread gets the arena of one that has ended */
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];

    if (argc > 1)
        rounds = atoi(argv[1]);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    pthread_barrier_init(&start, NULL, THREADS);
    pthread_barrier_init(&over, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    stop_here();
    return 0;
}
