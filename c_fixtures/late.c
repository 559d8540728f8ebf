/* For a debugger that comes late: the heap is there already, and grows after the debugger attached.
 *
 * Writes "ready", waits for a byte on standard input or for `go` to be set, grows the heap in main's thread, calls
 * stop_here(), waits for a second byte, writes "done" and ends.
 */
#include "fixture.h"

#include <poll.h>
#include <unistd.h>

static volatile int go;
static void *kept[8];

static void wait_for_byte(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;

    while (!go) {
        if (poll(&input, 1, 10) != 1)
            continue;
        if (read(STDIN_FILENO, &byte, 1) != 1)
            _exit(3); /* nobody is there any more */
        return;
    }
}

int main(void)
{
    alarm(300); /* a forgotten one ends by itself */
    kept[0] = malloc(5000);
    write(STDOUT_FILENO, "ready\n", 6);
    wait_for_byte();
    for (int i = 1; i <= 3; i++)
        kept[i] = malloc(100000); /* brk */
    kept[4] = malloc(1 << 20);    /* mmap */
    stop_here();
    go = 0;
    wait_for_byte();
    write(STDOUT_FILENO, "done\n", 5);
    return 0;
}
