/* damage SEED THREADS: a random heap, whose metadata is damaged word by word, each time in a child process of its own.
 *
 * When the heap is built, "ready KEY BREAK" is printed: the mark of chunks in a tcache, and the break. Then lines are
 * read: "dump FILE" writes the memory that can be written, as lines "start end name" followed by the bytes; "hit
 * ADDRESS VALUE" makes a child that writes the word and then uses the heap in every way, and answers how that ended:
 * "fine", "message TEXT" (glibc noticed), "signal N", or "hang". Nothing of this uses the heap itself.
 */
#define _GNU_SOURCE
#include "churn.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wuse-after-free"

enum { STEPS = 1500, PATIENCE = 2 };

static pthread_barrier_t built;
static void *slots[MOST_THREADS][SLOTS];
static unsigned seed;
static void *volatile sink;

static void *build(void *argument)
{
    int number = (int)(intptr_t)argument;
    unsigned state = seed + 77 * number;

    sink = malloc(24); /* makes the thread's tcache, in the first chunk of its arena */
    for (int i = 0; i < STEPS; i++)
        step(slots[number], &state);
    pthread_barrier_wait(&built);
    if (number != 0)
        pause();
    return NULL;
}

/* Every way to use the heap that the checks of malloc are on. */
static void use(int threads)
{
    static void *kept[2000];
    int count = 0;

    for (size_t size = 8; size < 1100; size += 16)
        for (int i = 0; i < 3; i++)
            kept[count++] = malloc(size);
    for (int thread = 0; thread < threads; thread++)
        for (int i = 0; i < SLOTS; i++) {
            if (i % 5 == 0)
                slots[thread][i] = realloc(slots[thread][i], 5000);
            if (i % 2 == 0) {
                free(slots[thread][i]);
                slots[thread][i] = NULL;
            }
        }
    for (size_t size = 1100; size < 70000; size += size / 9)
        kept[count++] = malloc(size);
    (void)HEAP_TOTALS();
    malloc_trim(0);
    for (int thread = 0; thread < threads; thread++)
        for (int i = 0; i < SLOTS; i++)
            free(slots[thread][i]);
    for (int i = 0; i < SLOTS; i++)
        free(shared[i]);
    for (size_t size = 8; size < 1100; size += 16)
        for (int i = 0; i < 8; i++)
            kept[count++] = malloc(size);
    for (int i = 0; i < count; i += 2)
        free(kept[i]);
    for (int i = 1; i < count; i += 2)
        free(kept[i]);
    sink = malloc(100000);
    malloc_trim(0);
}

static void say(const char *text)
{
    if (write(1, text, strlen(text)) < 0)
        _exit(3);
}

static void hit(size_t address, size_t value, int threads)
{
    char text[600] = "message ", *end = text + 8;
    int ends[2], status;
    pid_t child;

    if (pipe(ends) != 0)
        _exit(3);
    child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(1);
        alarm(PATIENCE);
        *(volatile size_t *)address = value;
        use(threads);
        _exit(0);
    }
    close(ends[1]);
    for (;;) {
        ssize_t got = read(ends[0], end, (size_t)(text + sizeof text - 2 - end));
        if (got <= 0)
            break;
        end += got;
    }
    close(ends[0]);
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        say("fine\n");
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        say("hang\n");
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && end > text + 8) {
        *strchrnul(text, '\n') = '\0';
        strcat(text, "\n");
        say(text);
    } else {
        snprintf(text, sizeof text, "signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        say(text);
    }
}

static void dump(const char *path)
{
    static char maps[1 << 16];
    int from = open("/proc/self/maps", O_RDONLY), to = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    size_t length = 0;

    for (;;) {
        ssize_t got = read(from, maps + length, sizeof maps - 1 - length);
        if (got <= 0)
            break;
        length += (size_t)got;
    }
    maps[length] = '\0';
    for (char *line = maps; *line != '\0'; line = strchr(line, '\n') + 1) {
        char *rest, *newline = strchr(line, '\n'), *name;
        size_t start = strtoul(line, &rest, 16), end = strtoul(rest + 1, &rest, 16);

        name = memchr(line, '/', (size_t)(newline - line));
        if (strncmp(rest, " rw-p", 5) != 0 || (name == NULL && memmem(line, newline - line, "[stack", 6) != NULL))
            continue;
        if (write(to, line, (size_t)(newline + 1 - line)) < 0)
            _exit(3);
        while (start < end) {
            ssize_t put = write(to, (void *)start, end - start);
            if (put <= 0)
                _exit(3);
            start += (size_t)put;
        }
    }
    close(from);
    close(to);
    say("dumped\n");
}

int main(int argc, char **argv)
{
    static char text[1024];
    size_t length = 0;
    int threads;
    pthread_t thread;
    void *marked;
    size_t key;

    if (argc != 3)
        return 2;
    seed = (unsigned)atoi(argv[1]);
    threads = atoi(argv[2]);
    pthread_barrier_init(&built, NULL, (unsigned)threads);
    for (int i = 1; i < threads; i++)
        pthread_create(&thread, NULL, build, (void *)(intptr_t)i);
    build(0);
    marked = malloc(24);
    free(marked);
    __asm__ volatile("" : "+r"(marked));
    key = ((volatile size_t *)marked)[1];
    snprintf(text, sizeof text, "ready %zu %zu\n", key, (size_t)sbrk(0));
    say(text);
    for (;;) {
        char *newline, *rest;
        ssize_t got = read(0, text + length, sizeof text - 1 - length);

        if (got <= 0)
            return 0;
        length += (size_t)got;
        text[length] = '\0';
        while ((newline = strchr(text, '\n')) != NULL) {
            *newline = '\0';
            if (strncmp(text, "dump ", 5) == 0)
                dump(text + 5);
            else if (strncmp(text, "hit ", 4) == 0) {
                size_t address = strtoul(text + 4, &rest, 0);
                hit(address, strtoul(rest, NULL, 0), threads);
            }
            length -= (size_t)(newline + 1 - text);
            memmove(text, newline + 1, length + 1);
        }
    }
}
