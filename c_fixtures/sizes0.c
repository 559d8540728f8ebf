/* sizes0 SIZE: the size word of one chunk in the middle of a sound heap is overwritten with SIZE. */
#include "fixture.h"

#include <unistd.h>

enum { COUNT = 20, VICTIM = 10 };

static size_t *pointers[COUNT];

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    for (int i = 0; i < COUNT; i++)
        pointers[i] = malloc(100);
    pointers[VICTIM][-1] = strtoull(argv[1], NULL, 0);
    stop_here();
    _exit(0); /* no more malloc: the heap is broken */
}
