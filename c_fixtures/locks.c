/* Locks of malloc's that are held, and threads that wait for them.
 *
 *   handler  a signal's handler calls malloc while the same thread is inside malloc with main_arena's lock
 *   waiters  a thread is inside malloc with main_arena's lock; WAITERS others wait for it
 *   child    a child that was made without fork's handlers: the thread with main_arena's lock was left behind
 *   runs     a thread calls malloc and free for ever
 *
 * The main thread stays inside malloc by a fault at the header of a free chunk, whose page was taken away: malloc looks
 * at it with the lock. A watcher waits until all that should wait does, and stops; in the child SIGUSR1 does.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WAITERS = 2, PAGE = 4096, BLOCK = 0x4000 };

static volatile int inside, begun;
static pid_t tids[WAITERS + 1];
static const char *mode;
static char *page, *blocks[64];
static void *volatile taken;

/* Whether the kernel says that a thread, or a process with one thread, sleeps. */
static int sleeps(pid_t tid)
{
    char path[64], line[128] = "";
    int file;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)tid);
    file = open(path, O_RDONLY);
    if (file < 0)
        return 0;
    if (read(file, line, sizeof line - 1) < 0)
        line[0] = 0;
    close(file);
    return strstr(line, ") S ") != NULL;
}

static void begin(int place)
{
    tids[place] = syscall(SYS_gettid);
    __sync_fetch_and_add(&begun, 1);
}

static void *want(void *argument)
{
    while (!inside)
        sched_yield();
    begin((int)(size_t)argument);
    malloc_trim(0); /* it takes the lock of each arena */
    return NULL;
}

static void *watch(void *argument)
{
    int wanted = strcmp(mode, "waiters") == 0 ? WAITERS : strcmp(mode, "handler") == 0 ? 1 : 0;

    while (!inside || begun < wanted)
        sched_yield();
    for (int i = 0; i < wanted; i++)
        while (!sleeps(tids[i]))
            sched_yield();
    if (strcmp(mode, "child") == 0) {
        pid_t made = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

        if (made == 0)
            malloc_trim(0);
        while (!sleeps(made))
            sched_yield();
        kill(made, SIGUSR1);
    }
    stop_here();
    _exit(0);
    return argument;
}

/* malloc has met the page, and holds the lock. */
static void on_fault(int number)
{
    (void)number;
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    if (strcmp(mode, "handler") == 0)
        begin(0);
    inside = 1;
    if (strcmp(mode, "handler") == 0)
        taken = malloc(2 * BLOCK);
    for (;;)
        pause();
}

static void *use(void *argument)
{
    for (unsigned size = 1;; size = size * 1103515245 + 12345) {
        free(taken);
        taken = malloc(size >> 8 & 0xffff);
        begun = 1;
    }
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    struct sigaction action;

    mode = argc > 1 ? argv[1] : "handler";
    for (int i = 0; i < 64; i++)
        blocks[i] = malloc(BLOCK);
    if (strcmp(mode, "runs") == 0) {
        pthread_create(&thread, NULL, use, NULL);
        while (!begun)
            sched_yield();
        stop_here();
        return 0;
    }
    pthread_create(&thread, NULL, watch, NULL); /* from here on malloc takes locks */
    for (size_t i = 0; i < WAITERS && strcmp(mode, "waiters") == 0; i++)
        pthread_create(&thread, NULL, want, (void *)i);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    free(blocks[31]);
    page = (char *)((size_t)blocks[31] & ~(size_t)(PAGE - 1));
    mprotect(page, PAGE, PROT_NONE);
    taken = malloc(BLOCK + 0x1000);
    return 1;
}
