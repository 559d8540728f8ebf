/* callers: the same few system calls from callers that differ in ways that a stack's bytes hardly show.
 *
 * Requests of many sizes from one place; the same place at several depths of a recursion; through a function with a
 * buffer of variable size on its stack, and through a pointer to functions; mapped and given back in turns.
 */
#include "fixture.h"

#include <alloca.h>
#include <string.h>

enum { ROUNDS = 120 };

static void *take(size_t size)
{
    return malloc(size);
}

static void *deeper(int depth, size_t size)
{
    void *result = depth > 0 ? deeper(depth - 1, size) : take(size);
    __asm__ volatile("" ::: "memory"); /* no tail call */
    return result;
}

static void *with_buffer(size_t room, size_t size)
{
    char *buffer = alloca(room);
    memset(buffer, 1, room);
    return take(size);
}

static void *one(size_t size)
{
    return take(size);
}

static void *other(size_t size)
{
    void *result = take(size + 4096);
    __asm__ volatile("" ::: "memory");
    return result;
}

int main(void)
{
    void *(*const ways[])(size_t) = {one, other};

    for (int i = 0; i < ROUNDS; i++) {
        size_t size = 120000 + 16 * (size_t)(i * 37 % 600);
        if (take(size) == NULL || deeper(i % 5, size) == NULL || with_buffer(64 + 16 * (i % 7), size) == NULL)
            return 1;
        if (ways[i % 2](size) == NULL)
            return 1;
        free(deeper(i % 3, (1 << 20) + 4096 * (size_t)i));
    }
    stop_here();
    return 0;
}
