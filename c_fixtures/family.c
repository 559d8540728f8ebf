/* Makes processes and other programs in the ways that there are; each grows its heap. What it does is its argument:
 *   grow         nothing but that
 *   fork         a child that fork makes; the parent waits for it
 *   fork-twice   the same two times, one after the other
 *   fork-exec    a child that runs this program anew, as `grow`
 *   vfork-exec   the same, made by vfork
 *   spawn        the same, made by posix_spawn
 *   thread-fork  a thread forks
 *   exec         runs this program anew, as `grow`, without a child
 *   exec-fails   tries to run what is not there
 *   exec-inside  the same as `exec`, while another thread is inside a long mmap
 *   fork-inside  forks while another thread is inside a long mmap, which then returns
 *   exit-inside  ends with status 7 while another thread is inside a long mmap
 *   crash        ends by SIGSEGV
 *   leave        a child goes on when the program has ended, until it reads an end of file
 *   interrupt    waits until a SIGINT ends it
 */
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

extern char **environ;

static char *own_path;
static int inside; /* a pipe's end that tells when the long mmap begins */
static size_t long_size = (size_t)1 << 30;

/* Grows the heap by brk, by a mapping, and gives the latter back. */
static void grow(int count)
{
    for (int i = 0; i < count; i++)
        if (malloc(100000) == NULL)
            abort();
    free(malloc(1 << 20));
}

static int wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        abort();
    return status;
}

static char *const *words(void)
{
    static char *list[3];
    list[0] = own_path;
    list[1] = "grow";
    return list;
}

static void fork_and_wait(void)
{
    pid_t child = fork();
    if (child == 0) {
        grow(4);
        _exit(3);
    }
    wait_for(child);
    grow(2);
}

static void *forks(void *nothing)
{
    (void)nothing;
    grow(1);
    fork_and_wait();
    return NULL;
}

static void *maps_for_long(void *nothing)
{
    (void)nothing;
    if (write(inside, "", 1) != 1)
        abort();
    mmap(NULL, long_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    pause();
    return NULL;
}

/* Returns while another thread is inside a call that takes long. */
static void begin_long_call(void)
{
    int ends[2];
    pthread_t thread;
    char byte;
    if (pipe(ends) != 0)
        abort();
    inside = ends[1];
    if (pthread_create(&thread, NULL, maps_for_long, NULL) != 0 || read(ends[0], &byte, 1) != 1)
        abort();
    usleep(20000);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "grow";
    pid_t child = -1;
    own_path = argv[0];
    grow(1);
    if (strcmp(mode, "grow") == 0) {
        grow(5);
    } else if (strcmp(mode, "fork") == 0) {
        fork_and_wait();
    } else if (strcmp(mode, "fork-twice") == 0) {
        fork_and_wait();
        fork_and_wait();
    } else if (strcmp(mode, "fork-exec") == 0) {
        child = fork();
        if (child == 0) {
            execv(own_path, words());
            _exit(127);
        }
        wait_for(child);
        grow(2);
    } else if (strcmp(mode, "vfork-exec") == 0) {
        char *const *list = words();
        child = vfork();
        if (child == 0) {
            execv(own_path, list);
            _exit(127);
        }
        wait_for(child);
        grow(2);
    } else if (strcmp(mode, "spawn") == 0) {
        if (posix_spawn(&child, own_path, NULL, NULL, words(), environ) != 0)
            abort();
        wait_for(child);
        grow(2);
    } else if (strcmp(mode, "thread-fork") == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, forks, NULL) != 0 || pthread_join(thread, NULL) != 0)
            abort();
        grow(2);
    } else if (strcmp(mode, "exec") == 0) {
        execv(own_path, words());
        abort();
    } else if (strcmp(mode, "exec-fails") == 0) {
        execv("/nonexistent", words());
        grow(5);
    } else if (strcmp(mode, "exec-inside") == 0) {
        begin_long_call();
        execv(own_path, words());
        abort();
    } else if (strcmp(mode, "fork-inside") == 0) {
        long_size = (size_t)1 << 28;
        begin_long_call();
        fork_and_wait();
    } else if (strcmp(mode, "exit-inside") == 0) {
        begin_long_call();
        _exit(7);
    } else if (strcmp(mode, "crash") == 0) {
        *(volatile int *)NULL = 1;
    } else if (strcmp(mode, "leave") == 0) {
        if (fork() == 0) {
            char byte;
            grow(4);
            while (read(0, &byte, 1) == 1)
                ;
            _exit(0);
        }
    } else if (strcmp(mode, "interrupt") == 0) {
        if (write(1, "ready\n", 6) != 6)
            abort();
        for (;;)
            pause();
    } else {
        return 2;
    }
    return 0;
}
