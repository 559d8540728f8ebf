/* A heap that the kernel refuses to extend by brk: malloc maps its memory instead, in many regions.
 *
 *   refused            some chunks are used, some free; nothing is damaged
 *   refused again      the same, and then the break works again for a while
 *   refused first      malloc gets nothing by brk at all
 *   refused WHICH      a size word of the `damaged` chunk is overwritten: it is in the region of the top chunk (top), in
 *                      one amid the others (amid), or in the break's own (break)
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { COUNT = 2000, SIZE = 5000 };

static char *blocks[COUNT];
static char *damaged;
static int used_blocks;

static void *block(void)
{
    return mmap((char *)sbrk(0) + 0x40000, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void take(int from, int to)
{
    for (int i = from; i < to; i++) {
        blocks[i] = malloc(SIZE);
        memset(blocks[i], 1, SIZE);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    void *obstacle = MAP_FAILED;

    if (strcmp(mode, "first") == 0)
        obstacle = mmap((char *)sbrk(0), 1 << 20, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    else
        free(malloc(10));
    if (obstacle == MAP_FAILED)
        obstacle = block();
    take(0, COUNT / 2);
    if (strcmp(mode, "again") == 0)
        munmap(obstacle, 1 << 20);
    take(COUNT / 2, COUNT);
    for (int i = 0; i < COUNT; i++)
        if (i % 10)
            free(blocks[i]);
        else
            used_blocks++;
    if (strcmp(mode, "top") == 0)
        damaged = blocks[COUNT - 10];
    else if (strcmp(mode, "amid") == 0)
        damaged = blocks[COUNT / 2];
    else if (strcmp(mode, "break") == 0)
        damaged = blocks[10];
    if (damaged != NULL)
        ((size_t *)damaged)[-1] = 0x4141414141414141;
    prepare_totals();
    if (damaged == NULL)
        record_totals();
    stop_here();
    return 0;
}
