/* A library for dlopen: it allocates while it is loaded, and has thread-local variables that are not small. */
#include <stdlib.h>
#include <string.h>

enum { SIZE = 200000 };

static __thread char of_thread[SIZE];
static void *kept;

__attribute__((constructor)) static void loaded(void)
{
    kept = malloc(150000);
}

__attribute__((destructor)) static void unloaded(void)
{
    free(kept);
}

/* The first use by a thread makes libc allocate the variables for it. */
size_t use_plugin(int value)
{
    memset(of_thread, value, SIZE);
    return (size_t)(unsigned char)of_thread[SIZE - 1];
}
