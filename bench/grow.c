/* Grows the heap by brk once for each of N requests: each is a little less than mmap_threshold, and nothing is freed. */
#include <stdlib.h>

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 1;
    for (int i = 0; i < 2 * count; i++)
        if (malloc(130000) == NULL)
            return 1;
    return 0;
}
