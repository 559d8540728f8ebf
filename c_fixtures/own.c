/* The program's own system calls, none of them malloc's: mappings over mappings, holes, failures, the break.
 *
 * What the process gains by each is known from the kernel's rules alone.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

int main(void)
{
    int access = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    char *base = mmap(NULL, 64 * PAGE, access, kind, -1, 0);        /* + 64 pages */

    mmap(base + 8 * PAGE, 8 * PAGE, PROT_NONE, kind | MAP_FIXED, -1, 0); /* over the old one: 0 */
    munmap(base + 32 * PAGE, 16 * PAGE);                            /* - 16: a hole */
    munmap(base + 32 * PAGE, 16 * PAGE);                            /* nothing is there: 0 */
    munmap(base + 24 * PAGE, 16 * PAGE);                            /* half of it is there: - 8 */
    mmap(base + 28 * PAGE, 8 * PAGE, access, kind | MAP_FIXED, -1, 0); /* into the hole: + 8 */
    mmap(base + 20 * PAGE, 8 * PAGE, access, kind | MAP_FIXED, -1, 0); /* 4 pages over, 4 into the hole: + 4 */
    mprotect(base, 4 * PAGE, PROT_READ);                            /* 0 */
    mprotect(base + 32 * PAGE, 32 * PAGE, PROT_READ);               /* fails: a hole is in it */
    mmap(NULL, 0, access, kind, -1, 0);                             /* fails: no length */
    mmap(NULL, (size_t)1 << 60, access, kind, -1, 0);               /* fails: too much */
    munmap(base + 1, PAGE);                                         /* fails: not aligned */
    base = mremap(base, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + 40 * PAGE); /* into the hole: 0 */
    base = mremap(base, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + 8 * PAGE); /* over others: - 4 */
    base = mremap(base, 4 * PAGE, 2 * PAGE, 0);                     /* - 2 */
    base = mremap(base, 2 * PAGE, 9 * PAGE, MREMAP_MAYMOVE);        /* + 7 */
    sbrk(3 * PAGE);                                                 /* + 3 */
    sbrk(-2 * PAGE);                                                /* - 2 */
    brk((void *)PAGE);                                              /* refused: 0 */
    stop_here();
    return 0;
}
