/* many N: N chunks of mixed sizes, a fifth of them freed again, for measuring and for long listings. */
#include "fixture.h"

#include <stdint.h>

static void **chunks;
static size_t chunk_count;

int main(int argc, char **argv)
{
    uint32_t state = 1;

    chunk_count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000;
    chunks = calloc(chunk_count, sizeof *chunks);
    if (chunks == NULL)
        return 2;
    for (size_t i = 0; i < chunk_count; i++) {
        state = state * 1664525 + 1013904223;
        chunks[i] = malloc(16 + (state >> 8) % 368);
    }
    for (size_t i = 0; i < chunk_count; i += 5)
        free(chunks[i]);
    stop_here();
    return 0;
}
