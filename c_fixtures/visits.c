/* Calls a function with pointers into chunks, and says itself what each of them is: for conditions of breakpoints.
 *
 * malloc_usable_size tells the size, and the program knows what it has freed: chunks of at most 1032 bytes are then in
 * the tcache, where no size ever has more than seven of them.
 */
#include "fixture.h"

#include <stdint.h>

enum { ROUNDS = 24, STEP = 60 };

static size_t chunk_bytes; /* size of the chunk that visit() is called about, header and all */

__attribute__((noinline)) static void visit(const char *p, int freed)
{
    __asm__ volatile("" ::"r"(p), "r"(freed) : "memory");
}

int main(void)
{
    char outside[16] = "";

    for (int i = 0; i < ROUNDS; i++) {
        char *p = malloc(STEP * (i % 18) + 8);
        uintptr_t again = (uintptr_t)p;

        chunk_bytes = malloc_usable_size(p) + sizeof(size_t);
        visit(p, 0);
        visit(p + 5, 0);
        free(p);
        visit((const char *)again, 1);
    }
    chunk_bytes = 0;
    visit(outside, 0);
    visit(NULL, 0);
    stop_here();
    return 0;
}
