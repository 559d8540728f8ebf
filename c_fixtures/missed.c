/* Memory that moves while GDB is not told of the calls, and what the program itself knows of it.
 *
 * missed HOW: "steps" writes to a variable that is too large for debug registers, between calls of malloc; "vfork" has
 * a child use its memory; "clone" has a process with the same memory (CLONE_VM) use it; "refused" misses nothing, but
 * asks for more than malloc can give. Each prints where the break was and is, as ORACLE LINE FROM TO.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct {
    long words[20];
} wide;

enum { SIZE = 100000, COUNT = 5, LARGE = 200000, STACK = 1 << 16 };

static void *kept[64];
static int kept_count;

static void take(void)
{
    for (int i = 0; i < COUNT; i++)
        kept[kept_count++] = malloc(SIZE);
}

static int other(void *nothing)
{
    (void)nothing;
    take();
    _exit(0);
}

int main(int argc, char **argv)
{
    static char stack[STACK] __attribute__((aligned(16)));
    const char *how = argc > 1 ? argv[1] : "steps";
    volatile size_t impossible = (size_t)-1;
    char *start;
    int status;
    pid_t child;

    setvbuf(stdout, NULL, _IONBF, 0);
    kept[kept_count++] = malloc(SIZE);
    start = sbrk(0);
    stop_here();
    if (strcmp(how, "vfork") == 0) {
        child = vfork();
        if (child == 0)
            other(NULL);
    } else if (strcmp(how, "clone") == 0) {
        child = clone(other, stack + STACK, CLONE_VM | SIGCHLD, NULL);
    } else if (strcmp(how, "refused") == 0) {
        kept[kept_count++] = malloc(impossible);
        child = 0;
    } else {
        kept[kept_count++] = malloc(LARGE);
        take();
        wide.words[3] = 1;
        child = 0;
    }
    if (child > 0)
        waitpid(child, &status, 0);
    printf("ORACLE meanwhile %p %p\n", (void *)start, sbrk(0));
    stop_here();
    start = sbrk(0);
    take();
    printf("ORACLE then %p %p\n", (void *)start, sbrk(0));
    stop_here();
    return 0;
}
