/* Someone else moves the break: malloc finds a hole above its top, closes the top and starts anew behind it. */
#define _GNU_SOURCE
#include "fixture.h"

#include <unistd.h>

static void *before, *after[4], *hole;

int main(void)
{
    before = malloc(1000);
    hole = sbrk(12345);
    for (int i = 0; i < 4; i++)
        after[i] = malloc(60000); /* two fit into the old top, the third does not */
    stop_here();
    return before == hole;
}
