/* Random calls of malloc and its like, as churn.c and damage.c make them. */
#ifndef CHURN_H
#define CHURN_H

#include "fixture.h"

#include <string.h>

enum { SLOTS = 200, MOST_THREADS = 8 };

static void *volatile shared[SLOTS]; /* freed by whichever thread comes by */

static unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static size_t random_size(unsigned *state)
{
    switch (next_random(state) % 16) {
    case 0:
        return 1024 + next_random(state) % 60000;
    case 1:
        return next_random(state) % 400 == 0 ? 200000 + next_random(state) % 300000 : 2000;
    case 2: case 3: case 4:
        return 1000 + next_random(state) % 3000;
    default:
        return next_random(state) % 300;
    }
}

static void step(void **own, unsigned *state)
{
    unsigned slot = next_random(state) % SLOTS;
    size_t size = random_size(state);
    void *chunk = own[slot];

    if (next_random(state) % 8 == 0)
        chunk = __atomic_exchange_n(&shared[slot], chunk, __ATOMIC_SEQ_CST);
    own[slot] = NULL;
    switch (next_random(state) % 16) {
    case 0:
        own[slot] = realloc(chunk, size + 1);
        break;
    case 1:
        free(chunk);
        own[slot] = memalign((size_t)16 << next_random(state) % 9, size);
        break;
    case 2:
        free(chunk);
        own[slot] = calloc(1, size);
        break;
    case 3: case 4: case 5: case 6: case 7:
        free(chunk);
        break;
    case 8:
        if (next_random(state) % 200 == 0)
            malloc_trim(0);
        /* fall through */
    default:
        free(chunk);
        own[slot] = malloc(size);
    }
    if (own[slot] != NULL)
        memset(own[slot], 0x41 + slot % 26, size < 64 ? size : 64);
}

#endif
