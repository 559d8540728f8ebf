/* A library for LD_PRELOAD: makes calls of malloc's functions in a process that a debugger has stopped.
 *
 * The debugger goes on at make_calls(). It reads the file that CALLS names, of which each line is one case: calls after
 * each other, separated by ";". Each case is tried in a child process of its own, which is a copy of the stopped one
 * down to the locks of malloc (no handler of fork runs). How it ended is one line in the file that ENDS names: "fine",
 * "message TEXT", "signal N" or "hang". The calls: malloc N, free P, free last (what the call before returned),
 * realloc P N, memalign A N, trim N, mallinfo, malloc_info, and set16 ADDRESS N, which writes a 16-bit number.
 * Nothing here uses the heap itself.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 3 };

static char cases[1 << 18], text[1 << 12];
static char names[2][1 << 10]; /* of the two files: getenv may not work by then */
static void *volatile last;

__attribute__((constructor)) static void remember(void)
{
    strncpy(names[0], getenv("CALLS") ? getenv("CALLS") : "", sizeof names[0] - 1);
    strncpy(names[1], getenv("ENDS") ? getenv("ENDS") : "", sizeof names[1] - 1);
}

static size_t number(char **from)
{
    return strtoul(*from, from, 0);
}

static int is(char **call, const char *name)
{
    size_t length = strlen(name);

    *call += strspn(*call, " ");
    if (strncmp(*call, name, length) != 0 || ((*call)[length] != ' ' && (*call)[length] != '\0'))
        return 0;
    *call += length;
    return 1;
}

static void make(char *call)
{
    if (is(&call, "malloc"))
        last = malloc(number(&call));
    else if (is(&call, "free last"))
        free(last);
    else if (is(&call, "free"))
        free((void *)number(&call));
    else if (is(&call, "realloc")) {
        void *pointer = (void *)number(&call);
        last = realloc(pointer, number(&call));
    } else if (is(&call, "memalign")) {
        size_t alignment = number(&call);
        last = memalign(alignment, number(&call));
    } else if (is(&call, "trim"))
        malloc_trim(number(&call));
    else if (is(&call, "mallinfo"))
        (void)HEAP_TOTALS();
    else if (is(&call, "malloc_info")) {
        static char buffer[1 << 16];
        setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
        malloc_info(0, stdout);
    } else if (is(&call, "set16")) {
        unsigned short *place = (unsigned short *)number(&call);
        *place = (unsigned short)number(&call);
    } else
        _exit(4);
}

static void try_case(char *line, int ends)
{
    int status, pair[2];
    size_t length = strlen(strcpy(text, "message "));

    if (pipe(pair) != 0)
        _exit(3);
    if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
        dup2(pair[1], 2);
        close(pair[0]);
        close(1);
        alarm(PATIENCE);
        for (char *call = line, *next; call != NULL; call = next) {
            next = strchr(call, ';');
            if (next != NULL)
                *next++ = '\0';
            make(call);
        }
        _exit(0);
    }
    close(pair[1]);
    for (;;) {
        ssize_t got = read(pair[0], text + length, sizeof text - 2 - length);
        if (got <= 0)
            break;
        length += (size_t)got;
    }
    text[length] = '\0';
    close(pair[0]);
    waitpid(-1, &status, 0);
    if (WIFEXITED(status))
        strcpy(text, WEXITSTATUS(status) == 0 ? "fine" : "fine?");
    else if (WTERMSIG(status) == SIGALRM)
        strcpy(text, "hang");
    else if (WTERMSIG(status) == SIGABRT && length > strlen("message "))
        *strchrnul(text, '\n') = '\0';
    else
        snprintf(text, sizeof text, "signal %d", WTERMSIG(status));
    strcat(text, "\n");
    if (write(ends, text, strlen(text)) < 0)
        _exit(3);
}

__attribute__((force_align_arg_pointer)) void make_calls(void)
{
    int from = open(names[0], O_RDONLY), ends = open(names[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t got = read(from, cases, sizeof cases - 1);

    cases[got < 0 ? 0 : got] = '\0';
    for (char *line = cases, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        try_case(line, ends);
    }
    _exit(0);
}
