/* A program with a malloc of its own, from one mapping: glibc's is never called.
 *
 * It is as simple as can be: what is freed is not used again.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <string.h>
#include <sys/mman.h>

enum { AREA = 1 << 20, HEADER = 16 };

static char *area;
static size_t used = AREA;

void *malloc(size_t size)
{
    size_t need = (size + HEADER + 15) & ~(size_t)15;
    char *chunk;

    if (need > AREA)
        return NULL;
    if (used + need > AREA) {
        area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (area == MAP_FAILED)
            return NULL;
        used = 0;
    }
    chunk = area + used;
    used += need;
    memcpy(chunk, &size, sizeof size);
    return chunk + HEADER;
}

void free(void *memory)
{
    (void)memory;
}

void *calloc(size_t count, size_t size)
{
    return malloc(count * size); /* a fresh mapping is zero */
}

void *realloc(void *memory, size_t size)
{
    void *larger = malloc(size);
    size_t before;

    if (memory != NULL && larger != NULL) {
        memcpy(&before, (char *)memory - HEADER, sizeof before);
        memcpy(larger, memory, before < size ? before : size);
    }
    return larger;
}

int main(void)
{
    for (int i = 0; i < 40; i++)
        if (malloc(100000) == NULL)
            return 1;
    stop_here();
    return 0;
}
