/* paths NAME: one branch of malloc's dealings with the kernel, or a few that belong together, by name.
 *
 * The comment above each function says what happens there and why. Threads take turns, so that each run of a mode makes
 * the same system calls in the same order. Each mode ends with status 0, also where malloc has to fail or to abort.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KIB = 1 << 10, MIB = 1 << 20, PAGE = 4096, MOST_THREADS = 8 };

static void *kept[64];
static sem_t turn;

struct worker {
    pthread_t thread;
    sem_t over;
    void (*work)(void);
};

static void *take_turn(void *argument)
{
    struct worker *self = argument;

    self->work();
    sem_post(&turn);
    sem_wait(&self->over);
    return NULL;
}

/* Runs work in `count` threads, one after another. All of them stay until the last one is done, and end in order. */
static void in_threads(int count, void (*work)(void))
{
    struct worker workers[MOST_THREADS];

    sem_init(&turn, 0, 0);
    for (int i = 0; i < count; i++) {
        sem_init(&workers[i].over, 0, 0);
        workers[i].work = work;
        if (pthread_create(&workers[i].thread, NULL, take_turn, &workers[i]) != 0)
            abort();
        sem_wait(&turn);
    }
    stop_here();
    for (int i = 0; i < count; i++) {
        sem_post(&workers[i].over);
        pthread_join(workers[i].thread, NULL);
    }
}

static void nothing(void)
{
}

static void limit(int which, rlim_t bytes)
{
    struct rlimit now;

    if (getrlimit(which, &now) != 0)
        abort();
    now.rlim_cur = bytes < now.rlim_max ? bytes : now.rlim_max;
    if (setrlimit(which, &now) != 0)
        abort();
}

/* The bytes of address space that the process has, asked without malloc. */
static rlim_t bytes_in_use(void)
{
    char text[256] = "";
    int file = open("/proc/self/statm", O_RDONLY);

    if (file < 0 || read(file, text, sizeof text - 1) <= 0)
        abort();
    close(file);
    return (rlim_t)strtoul(text, NULL, 10) * PAGE;
}

static void *take(size_t size)
{
    void *memory = malloc(size);

    if (memory == NULL)
        abort();
    return memory;
}

/* A request that malloc has to refuse, unless the settings (GLIBC_TUNABLES) or another arena left it memory enough. */
static void refused(size_t size)
{
    void *volatile memory = malloc(size);

    (void)memory;
}

/* A limit of 0 on data refuses brk alone (the kernel lets mmap pass then): a mapping takes the break's place. When the
 * limit is gone the break moves again, away from top. */
static void data_limit(void)
{
    kept[0] = take(120 * KIB);
    limit(RLIMIT_DATA, 0);
    for (int i = 1; i < 16; i++)
        kept[i] = take(100 * KIB);
    limit(RLIMIT_DATA, RLIM_INFINITY);
    for (int i = 16; i < 24; i++)
        kept[i] = take(100 * KIB);
}

/* A limit of a page refuses private mappings as well, and malloc fails. When the limit is gone the break moves again, and
 * the arena is as contiguous as it was. */
static void no_data(void)
{
    kept[0] = take(120 * KIB);
    limit(RLIMIT_DATA, PAGE);
    refused(100 * KIB);
    refused(1 * MIB);
    limit(RLIMIT_DATA, RLIM_INFINITY);
    kept[1] = take(120 * KIB);
    kept[2] = take(120 * KIB);
}

/* The same in a program that has had threads: malloc then tries another arena, for which there is no memory either. */
static void no_data_threads(void)
{
    kept[0] = take(120 * KIB);
    in_threads(1, nothing);
    limit(RLIMIT_DATA, PAGE);
    refused(100 * KIB);
    refused(1 * MIB);
    limit(RLIMIT_DATA, RLIM_INFINITY);
    kept[1] = take(120 * KIB);
    kept[2] = take(120 * KIB);
}

static void *obstacle;

/* Puts a page `distance` bytes behind the break. */
static void block(size_t distance)
{
    char *place = (char *)sbrk(0) + distance;

    place += -(uintptr_t)place % PAGE;
    obstacle = mmap(place, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (obstacle != place)
        abort();
}

/* A mapping is in the way of the break: a mapping takes its place, and does again for each later growth. Then the way is
 * free: the break moves, away from top; the next growth finds the break at top's end and extends it, uncounted. */
static void blocked(void)
{
    kept[0] = take(100);
    block(64 * KIB);
    for (int i = 1; i < 30; i++)
        kept[i] = take(100 * KIB);
    munmap(obstacle, PAGE);
    for (int i = 30; i < 45; i++)
        kept[i] = take(100 * KIB);
    for (int i = 44; i >= 0; i--)
        free(kept[i]);
    malloc_trim(0);
}

/* The same before malloc has had any memory: the very first top chunk is a mapping. */
static void blocked_first(void)
{
    block(0);
    for (int i = 0; i < 8; i++)
        kept[i] = take(100 * KIB);
    for (int i = 7; i >= 0; i--)
        free(kept[i]);
}

/* The same with a large request: with M_MMAP_MAX 0 nothing is a mapping of its own. */
static void blocked_large(void)
{
    mallopt(M_MMAP_MAX, 0);
    kept[0] = take(100);
    block(64 * KIB);
    for (int i = 1; i < 6; i++)
        kept[i] = take(3 * MIB + i);
}

/* M_TOP_PAD decides how much is asked for beyond the need, and what a trim leaves. */
static void top_pad(void)
{
    kept[0] = take(100);
    mallopt(M_TOP_PAD, 0);
    for (int i = 1; i < 6; i++)
        kept[i] = take(100 * KIB);
    mallopt(M_TOP_PAD, 1 * MIB);
    for (int i = 6; i < 24; i++)
        kept[i] = take(100 * KIB);
    mallopt(M_TRIM_THRESHOLD, 64 * KIB);
    mallopt(M_TOP_PAD, 12345);
    for (int i = 23; i > 0; i--)
        free(kept[i]);
}

/* Freeing a mapped chunk raises mmap_threshold to its size and trim_threshold to twice that. */
static void threshold(void)
{
    static const size_t sizes[] = {200 * KIB, 1 * MIB, 33 * MIB, 31 * MIB};

    for (int i = 0; i < 4; i++) {
        free(take(sizes[i])); /* a mapping, each but the third raises the threshold */
        kept[i] = take(sizes[i]);
    }
    for (int i = 3; i >= 0; i--)
        free(kept[i]);
}

/* A threshold that was set does not rise. */
static void fixed_threshold(void)
{
    mallopt(M_MMAP_THRESHOLD, 64 * KIB);
    mallopt(M_TOP_PAD, 0); /* little is left of top each time */
    kept[4] = take(60 * KIB);
    for (int i = 0; i < 3; i++)
        free(take(200 * KIB));
    kept[0] = take(64 * KIB - 9); /* a chunk of just the threshold */
    kept[1] = take(64 * KIB - 24);
    mallopt(M_MMAP_THRESHOLD, 4 * MIB);
    kept[2] = take(3 * MIB);
    kept[3] = take(4 * MIB);
}

/* At most two mappings at a time: the third large request comes from the break, until one is given back. */
static void mmap_max(void)
{
    mallopt(M_MMAP_MAX, 2);
    for (int i = 0; i < 4; i++)
        kept[i] = take(1 * MIB);
    free(kept[0]);
    kept[0] = take(5 * MIB);
    for (int i = 0; i < 4; i++)
        free(kept[i]);
    mallopt(M_MMAP_MAX, 0);
    for (int i = 0; i < 4; i++)
        kept[i] = take(1 * MIB);
}

/* Aligned requests, mapped and from the break: malloc asks for more and gives back what is before and behind. */
static void aligned(void)
{
    void *memory = NULL;

    kept[0] = memalign(64, 1000); /* before there is a tcache */
    kept[1] = take(100);
    kept[2] = memalign(4096, 1 * MIB);
    kept[3] = aligned_alloc(64 * KIB, 256 * KIB);
    if (posix_memalign(&memory, 2 * MIB, 1 * MIB) != 0)
        abort();
    kept[4] = memory;
    kept[5] = valloc(300 * KIB);
    kept[6] = pvalloc(300 * KIB);
    kept[7] = memalign(1 * MIB, 100); /* the padding alone makes it a mapping */
    kept[8] = memalign(32 * KIB, 90 * KIB); /* from the break */
    kept[9] = aligned_alloc(64 * KIB, 64 * KIB - 1);
    kept[2] = realloc(kept[2], 3 * MIB); /* resizes a mapping whose chunk is not at its start */
    kept[4] = realloc(kept[4], 200 * KIB);
    for (int i = 0; i < 10; i++) {
        if (kept[i] == NULL)
            abort();
        free(kept[i]);
    }
}

/* The functions that are malloc by another name, each with a request that needs a system call. */
static void callers_of_malloc(void)
{
    char *text, *printed = NULL, *line = NULL;
    size_t size = 0;
    FILE *file;

    kept[0] = calloc(3, 50 * KIB); /* mapped */
    kept[1] = calloc(1000, 100);
    kept[2] = calloc(1000, 100);
    kept[3] = reallocarray(NULL, 4, 40 * KIB);
    kept[3] = reallocarray(kept[3], 40, 40 * KIB);
    kept[1] = reallocarray(kept[1], 1000, 120);
    text = take(500 * KIB);
    memset(text, 'x', 500 * KIB - 1);
    text[500 * KIB - 1] = 0;
    kept[4] = strdup(text);
    kept[5] = strndup(text, 90 * KIB);
    kept[6] = strndup(text, 400 * KIB); /* mapped */
    if (asprintf(&printed, "%s%s", text, text) < 0)
        abort();
    file = open_memstream(&line, &size);
    if (file == NULL)
        abort();
    for (int i = 0; i < 5; i++)
        fputs(text, file);
    fclose(file);
    file = fmemopen(text, 400 * KIB, "r");
    if (file == NULL)
        abort();
    free(line);
    line = NULL;
    size = 0;
    if (getdelim(&line, &size, '\n', file) < 0)
        abort();
    fclose(file);
    free(line);
    free(printed);
    free(text);
    for (int i = 0; i < 7; i++)
        free(kept[i]);
}

/* realloc of a mapping: in place where there is room behind it, moved where there is none, smaller, refused. */
static void resize(void)
{
    char *upper = take(1 * MIB), *lower = take(1 * MIB);

    lower = realloc(lower, 3 * MIB); /* upper is behind it: it moves */
    upper = realloc(upper, 1 * MIB + 100); /* the mapping is long enough */
    lower = realloc(lower, 2 * MIB); /* in place */
    lower = realloc(lower, 3 * MIB); /* in place, what was just given back is free */
    upper = realloc(upper, 10 * KIB); /* below the threshold, but a mapping it stays */
    limit(RLIMIT_AS, bytes_in_use() + MIB / 2);
    if (realloc(lower, 30 * MIB) != NULL) /* neither mremap nor a new chunk */
        abort();
    limit(RLIMIT_AS, RLIM_INFINITY);
    free(upper);
    free(lower);
    kept[0] = take(100 * KIB);
    kept[0] = realloc(kept[0], 150 * KIB); /* top is behind it, too small: a new chunk */
    kept[0] = realloc(kept[0], 5 * MIB); /* from the heap to a mapping */
    free(kept[0]);
}

static void some_chunks(void)
{
    void *mine[6];

    for (int i = 0; i < 6; i++)
        mine[i] = take(60 * KIB);
    for (int i = 5; i >= 0; i -= 2)
        free(mine[i]);
}

/* Six threads, each with an arena of its own. */
static void arenas(void)
{
    kept[0] = take(100);
    in_threads(6, some_chunks);
}

/* Six threads, three arenas: the fourth thread shares main_arena, and so on around. */
static void arena_max(void)
{
    mallopt(M_ARENA_MAX, 3);
    in_threads(6, some_chunks);
}

/* All threads on main_arena. */
static void one_arena(void)
{
    mallopt(M_ARENA_MAX, 1);
    in_threads(3, some_chunks);
}

/* After one arena beside main_arena the processors are counted: eight arenas each are allowed. */
static void arena_test(void)
{
    mallopt(M_ARENA_TEST, 1);
    in_threads(6, some_chunks);
}

/* An arena whose thread has ended serves the next thread. */
static void arena_again(void)
{
    for (int i = 0; i < 3; i++)
        in_threads(1, some_chunks);
}

static void *large[12];

static void several_heaps(void)
{
    for (int i = 0; i < 12; i++)
        large[i] = take(19 * MIB + i); /* three to a heap */
    for (int i = 11; i >= 0; i--)
        free(large[i]); /* heaps go whole, then the last one's end */
    for (int i = 0; i < 4; i++)
        large[i] = take(19 * MIB); /* accessible still, but for the next heap */
    for (int i = 0; i < 4; i++)
        free(large[i]); /* in the other order */
}

/* An arena of several heaps of 64 MiB, which go again. The end of a heap's top is given back by madvise. */
static void heaps(void)
{
    mallopt(M_MMAP_THRESHOLD, 32 * MIB);
    in_threads(1, several_heaps);
}

/* The same with two threads: their heaps lie side by side, and the second one gets a hint. */
static void heaps_of_two(void)
{
    mallopt(M_MMAP_THRESHOLD, 32 * MIB);
    in_threads(2, several_heaps);
}

static void too_large_for_a_heap(void)
{
    kept[0] = take(100);
    kept[1] = take(80 * MIB); /* no heap can hold it */
    kept[2] = take(80 * MIB);
    free(kept[1]);
}

/* A request that no heap can hold gets a mapping of its own even where there may be none (M_MMAP_MAX 0). */
static void larger_than_heaps(void)
{
    mallopt(M_MMAP_MAX, 0);
    in_threads(2, too_large_for_a_heap);
}

/* The same below a threshold that was set above the size of a heap. */
static void larger_than_heaps_mapped(void)
{
    mallopt(M_MMAP_THRESHOLD, 256 * MIB);
    in_threads(2, too_large_for_a_heap);
}

static void no_room_for_a_heap(void)
{
    limit(RLIMIT_AS, bytes_in_use() + 30 * MIB);
    for (int i = 0; i < 4; i++)
        kept[i] = take(50 * KIB + i);
    for (int i = 0; i < 4; i++)
        free(kept[i]);
    limit(RLIMIT_AS, RLIM_INFINITY);
    for (int i = 0; i < 4; i++)
        kept[i] = take(50 * KIB + i);
}

/* The address space is limited: no arena can be made for the thread, and each of its chunks is a mapping. */
static void no_arena(void)
{
    in_threads(2, no_room_for_a_heap);
}

static void room_for_one_heap(void)
{
    limit(RLIMIT_AS, bytes_in_use() + 100 * MIB);
    kept[0] = take(50 * KIB);
    limit(RLIMIT_AS, RLIM_INFINITY);
    kept[1] = take(100 * KIB);
}

/* The address space is limited to one heap: twice that is refused, and once that is of no use where not aligned. */
static void one_heap(void)
{
    in_threads(1, room_for_one_heap);
}

static void no_second_heap(void)
{
    kept[0] = take(100 * KIB);
    limit(RLIMIT_AS, bytes_in_use() + 40 * MIB);
    for (int i = 1; i < 5; i++)
        kept[i] = malloc(20 * MIB); /* the last one fails */
    limit(RLIMIT_AS, RLIM_INFINITY);
    for (int i = 0; i < 5; i++)
        free(kept[i]);
}

/* The arena has a heap but cannot get the next one: a request below the threshold gets a mapping of its own. */
static void second_heap_refused(void)
{
    mallopt(M_MMAP_THRESHOLD, 32 * MIB);
    in_threads(1, no_second_heap);
}

/* The break goes down by free, by malloc_trim with a pad, and not at all where someone else moved it. */
static void trims(void)
{
    for (int i = 0; i < 20; i++)
        kept[i] = take(100 * KIB);
    for (int i = 19; i >= 10; i--)
        free(kept[i]);
    malloc_trim(64 * KIB);
    malloc_trim(0);
    malloc_trim(0); /* nothing left to give back */
    for (int i = 10; i < 20; i++)
        kept[i] = take(100 * KIB);
    free(kept[3]); /* in the middle: only its pages go */
    malloc_trim(0);
    kept[20] = sbrk(100);
    for (int i = 19; i >= 10; i--)
        free(kept[i]); /* the break is not where top ends */
    malloc_trim(0);
}

/* Leaves free chunks of many sizes behind, between chunks in use: some too small for a whole page, some merged of
 * fastbin chunks, some in bins that a larger request has sorted them into. */
static void leave_holes(void)
{
    static const size_t sizes[] = {100,       3000,     4000,     4096,         4150,          5000,
                                   8 * KIB,   8200,     12345,    20 * KIB,     33333,         60 * KIB,
                                   100 * KIB, 4600,     9 * KIB,  100 * KIB,    4 * KIB + 100, 70 * KIB};
    enum { COUNT = sizeof sizes / sizeof sizes[0], SMALL = 200 };
    void *holes[COUNT], *fast[SMALL];

    for (int i = 0; i < COUNT; i++) {
        holes[i] = take(sizes[i]);
        take(24);
    }
    for (int i = 0; i < SMALL; i++)
        fast[i] = take(40);
    take(24);
    for (int i = 0; i < COUNT; i++) {
        free(holes[i]);
        if (i == COUNT / 2)
            take(2000); /* sorts what is free by now, and is cut from it */
    }
    for (int i = 0; i < SMALL; i++)
        free(fast[i]);
}

static void holes_and_trim(void)
{
    leave_holes();
    malloc_trim(0);
}

/* malloc_trim gives back the pages inside free chunks: in main_arena and in the arenas of three threads, each time again
 * for those that have gone already. */
static void trim_arenas(void)
{
    leave_holes();
    malloc_trim(100 * KIB);
    in_threads(3, holes_and_trim);
    for (int i = 0; i < 3; i++) /* from the same place each time */
        malloc_trim(0);
    take(70 * KIB);
    malloc_trim(0);
}

static void grow_and_shrink(void)
{
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 12; i++)
            large[i] = take(100 * KIB + i);
        for (int i = 11; i >= 0; i--)
            free(large[i]); /* from trim_threshold on, the end of top goes with each */
    }
}

/* The end of a thread's heap is given back by madvise, and stays accessible: growing again takes no call at first. */
static void heap_trims(void)
{
    mallopt(M_TRIM_THRESHOLD, 300 * KIB);
    mallopt(M_TOP_PAD, 50 * KIB);
    in_threads(2, grow_and_shrink);
}

/* top is as small as it can be, and malloc_trim moves the break up instead of down. */
static void trim_grows(void)
{
    size_t rest;

    kept[0] = take(24);
    /* all of top but MINSIZE */
    rest = (size_t)((char *)sbrk(0) - (char *)kept[0]) - 24;
    if (rest > MIB)
        return; /* top is not where the break is (glibc.malloc.hugetlb=2) */
    kept[1] = take(rest - 32 - 8);
    malloc_trim(0);
    kept[2] = take(100);
}

/* Someone moves the break before malloc does, by a number that is no multiple of anything. */
static void foreign_before(void)
{
    kept[0] = sbrk(12345);
    for (int i = 1; i < 6; i++)
        kept[i] = take(100 * KIB);
}

/* Someone moves the break between: nothing, small and large free space in the old top, and back down above top. */
static void foreign_between(void)
{
    static const intptr_t steps[] = {100, 4096, 77777, 64 * KIB, 16};

    kept[0] = take(100);
    for (int i = 0; i < 5; i++) {
        if (sbrk(steps[i]) == (void *)-1)
            abort();
        for (int j = 1; j < 5; j++)
            kept[5 * i + j] = take(50 * KIB + 1000 * i + j);
        if (i == 2)
            sbrk(0);
    }
    sbrk(4096);
    sbrk(-4096); /* as if nothing had been */
    kept[40] = take(120 * KIB);
    kept[41] = take(120 * KIB);
}

/* A large old top is closed after someone moved the break: freeing it trims the new top before the request is served,
 * so that malloc can fail although there is memory. */
static void foreign_trimmed(void)
{
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 128 * KIB);
    mallopt(M_TOP_PAD, 512 * KIB);
    kept[0] = take(100);
    mallopt(M_TOP_PAD, 128 * KIB);
    sbrk(5000);
    kept[1] = malloc(1 * MIB); /* fails in glibc 2.36 */
    kept[2] = malloc(1 * MIB);
    kept[3] = malloc(1 * MIB);
}

static void end_quietly(int number)
{
    (void)number;
    _exit(0);
}

/* Someone moves the break down into top: malloc notices at the next growth, and aborts. */
static void foreign_down(void)
{
    signal(SIGABRT, end_quietly);
    kept[0] = take(100);
    sbrk(-2 * PAGE);
    kept[1] = take(120 * KIB);
    kept[2] = take(120 * KIB);
}

/* Someone moves the break with the system call itself, behind libc's back. */
static void foreign_raw(void)
{
    kept[0] = take(100);
    kept[1] = (void *)sbrk(0);
    syscall(SYS_brk, (char *)kept[1] + 8 * PAGE);
    kept[2] = take(120 * KIB);
    kept[3] = take(120 * KIB);
}

/* Requests that no machine can serve: a mapping, the break and the mapping in its place are all refused. */
static void impossible(void)
{
    volatile size_t most = PTRDIFF_MAX;

    refused(most - 4096);
    refused((size_t)1 << 60);
    kept[0] = take(100);
    refused((size_t)1 << 50);
    refused(most);
    mallopt(M_MMAP_MAX, 0);
    refused((size_t)1 << 50);
    refused(most - 200000);
    refused(most - 100);
    kept[1] = take(120 * KIB);
}

static void impossible_here(void)
{
    volatile size_t most = PTRDIFF_MAX;

    kept[0] = take(100);
    refused((size_t)1 << 50);
    refused(most - 4096);
    kept[1] = take(120 * KIB);
}

/* The same in a thread, whose arena is tried first; then main_arena. */
static void impossible_threads(void)
{
    kept[9] = take(100);
    in_threads(2, impossible_here);
}

static void larger_than_a_heap(void)
{
    kept[1] = take(100);
    limit(RLIMIT_AS, bytes_in_use() + 1 * MIB);
    refused(70 * MIB);
    limit(RLIMIT_AS, RLIM_INFINITY);
}

/* A thread asks for more than a heap can hold while the address space is limited, so that there is no mapping either.
 * malloc then tries main_arena, whose top chunk is almost large enough. */
static void arena_retry(void)
{
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 128 * MIB);
    mallopt(M_TOP_PAD, 0);
    free(take(70 * MIB - 64 * KIB)); /* top keeps it */
    in_threads(1, larger_than_a_heap);
}

/* All of top but a little. */
static void use_up_top(void)
{
    size_t rest = (size_t)HEAP_TOTALS().keepcost;

    if (rest > KIB)
        kept[0] = take(rest - 256);
}

/* Much is free, but in pieces of 4000 bytes with something in use between: a request that all of them together could
 * serve needs more memory from the kernel (fragmentation), and so does one that is larger than all of them (need). Each
 * time the C library's own figures are in totals_before when the program stops. */
static void fragmented(void)
{
    mallopt(M_MMAP_THRESHOLD, 32 * MIB);
    for (int i = 1; i < 64; i++)
        kept[i] = take(4000);
    use_up_top();
    for (int i = 1; i < 64; i += 2)
        free(kept[i]);
    totals_before = HEAP_TOTALS();
    stop_here();
    kept[1] = take(100000);
    use_up_top();
    totals_before = HEAP_TOTALS();
    stop_here();
    kept[3] = take(200000);
}

/* A thread frees what another thread's arena gave it: the arena of the chunk shrinks, not the thread's. */
static void fill(void)
{
    for (int i = 0; i < 12; i++)
        large[i] = take(100 * KIB);
}

static void empty(void)
{
    for (int i = 11; i >= 0; i--)
        free(large[i]);
    kept[0] = take(100 * KIB);
}

static void cross_free(void)
{
    fill();
    in_threads(1, empty);
    in_threads(1, fill);
    empty();
}

/* Small chunks only, many of them: what an ordinary program does. */
static void small(void)
{
    void **list = NULL;

    for (int i = 0; i < 20000; i++) {
        void **next = take(24 + i % 200);

        *next = list;
        list = next;
    }
    while (list != NULL) {
        void **next = *list;

        free(list);
        list = next;
    }
    malloc_trim(0);
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"data-limit", data_limit},
    {"no-data", no_data},
    {"no-data-threads", no_data_threads},
    {"blocked", blocked},
    {"blocked-first", blocked_first},
    {"blocked-large", blocked_large},
    {"top-pad", top_pad},
    {"threshold", threshold},
    {"fixed-threshold", fixed_threshold},
    {"mmap-max", mmap_max},
    {"aligned", aligned},
    {"callers", callers_of_malloc},
    {"resize", resize},
    {"arenas", arenas},
    {"arena-max", arena_max},
    {"one-arena", one_arena},
    {"arena-test", arena_test},
    {"arena-again", arena_again},
    {"arena-retry", arena_retry},
    {"heaps", heaps},
    {"heaps-of-two", heaps_of_two},
    {"larger-than-heaps", larger_than_heaps},
    {"larger-than-heaps-mapped", larger_than_heaps_mapped},
    {"no-arena", no_arena},
    {"one-heap", one_heap},
    {"second-heap-refused", second_heap_refused},
    {"trims", trims},
    {"trim-grows", trim_grows},
    {"trim-arenas", trim_arenas},
    {"heap-trims", heap_trims},
    {"foreign-before", foreign_before},
    {"foreign-between", foreign_between},
    {"foreign-trimmed", foreign_trimmed},
    {"foreign-down", foreign_down},
    {"foreign-raw", foreign_raw},
    {"impossible", impossible},
    {"impossible-threads", impossible_threads},
    {"cross-free", cross_free},
    {"fragmented", fragmented},
    {"small", small},
};

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(argv[1], modes[i].name) == 0) {
            modes[i].run();
            stop_here();
            return 0;
        }
    return 2;
}
