/* Allocations of many sizes, and for each what malloc_usable_size says.
 *
 * Every size from 0 to 5000 bytes, larger ones, some beyond the threshold of mmap, and some from calloc, realloc and
 * aligned_alloc. Each pointer is still in use at stop_here().
 */
#include "fixture.h"

#include <stdint.h>

enum { EVERY = 5001, LARGER = 200, MAPPED = 5, ALIGNED = 40 };

struct allocation {
    void *pointer;
    size_t request, usable;
};

static struct allocation allocations[EVERY + LARGER + MAPPED + ALIGNED];
static int allocation_count;

static void note(void *pointer, size_t request)
{
    struct allocation *slot = &allocations[allocation_count++];

    slot->pointer = pointer;
    slot->request = request;
    slot->usable = malloc_usable_size(pointer);
}

int main(void)
{
    uint32_t state = 1;

    for (size_t size = 0; size < EVERY; size++)
        switch (size % 16) {
        case 3:
            note(calloc(1, size), size);
            break;
        case 9:
            note(realloc(malloc(size / 2), size), size);
            break;
        default:
            note(malloc(size), size);
        }
    for (int i = 0; i < LARGER; i++) {
        state = state * 1664525 + 1013904223;
        note(malloc(5000 + state % 100000), 5000 + state % 100000);
    }
    for (size_t i = 0; i < ALIGNED; i++)
        note(aligned_alloc((size_t)32 << i % 8, 4096 + 96 * i), 4096 + 96 * i);
    for (size_t i = 0; i < MAPPED; i++)
        note(malloc(200000 + 50001 * i), 200000 + 50001 * i);
    stop_here();
    return 0;
}
