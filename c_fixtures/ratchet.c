/* Threads that change what malloc decides by, while others decide.
 *
 * ratchet HOW: with "free" each thread frees ever larger mapped chunks, which raises mp_.mmap_threshold and
 * trim_threshold; with "option" one thread sets M_MMAP_THRESHOLD and M_TOP_PAD to and fro; with "count" no more than
 * two mapped chunks may exist, and all threads make some.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 60 };

static const char *how;

static void *work(void *argument)
{
    long number = (long)(intptr_t)argument;

    for (long i = 0; i < ROUNDS; i++) {
        size_t size = 150000 + (size_t)i * 12288 + (size_t)number * 3000;
        void *large, *small;

        if (strcmp(how, "option") == 0 && number == 0) {
            mallopt(M_MMAP_THRESHOLD, i % 2 ? 100000 : 400000);
            mallopt(M_TOP_PAD, i % 3 ? 0x20000 : 0x8000);
        }
        large = malloc(strcmp(how, "free") == 0 ? size : 200000);
        small = malloc(80000);
        free(large);
        free(small);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];

    how = argc > 1 ? argv[1] : "free";
    if (strcmp(how, "count") == 0)
        mallopt(M_MMAP_MAX, 2);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    stop_here();
    return 0;
}
