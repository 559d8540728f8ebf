/* corrupt MODE: the program damages its own heap, stops, and then makes the call in which glibc notices.
 *
 * At stop_here() the damage is done and nothing has noticed it yet. expected_call is the function that is called next,
 * expected_pointer what it is given (or NULL) and expected_request the bytes that it is asked for. Then it is called,
 * and glibc prints its message and aborts. Modes that begin with "call-" damage nothing: the call itself is wrong.
 */
#include "fixture.h"

#include <gnu/libc-version.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wuse-after-free" /* it is what this program is for */
#pragma GCC diagnostic ignored "-Wstringop-overflow"

enum { MOST_CACHED = 16 };

/* How many chunks a bin of the tcache takes. */
static int cached(void)
{
    return strcmp(gnu_get_libc_version(), "2.43") < 0 ? 7 : MOST_CACHED;
}

const char *expected_call = "";
void *expected_pointer;
size_t expected_request;

static size_t buffer[64]; /* readable memory that is no chunk */
static void *result;

/* A word of a chunk, by its user pointer: -2 is prev_size, -1 the size word, 0 and 1 are fd and bk. */
static size_t *word(void *pointer, int index)
{
    return (size_t *)pointer + index;
}

static void *mangled(void *place, void *value)
{
    return (void *)((uintptr_t)value ^ ((uintptr_t)place >> 12));
}

/* Fills the tcache bin of chunks of this request, so that the next free goes to the arena. */
static void fill_tcache(size_t request)
{
    void *chunks[MOST_CACHED];

    for (int i = 0; i < cached(); i++)
        chunks[i] = malloc(request);
    for (int i = 0; i < cached(); i++)
        free(chunks[i]);
}

static void drain_tcache(size_t request)
{
    for (int i = 0; i < cached(); i++)
        result = malloc(request);
}

/* A chunk of this request that is free and unsorted, with a used chunk behind it. */
static void *unsorted_chunk(size_t request)
{
    void *chunk = malloc(request);

    result = malloc(24);
    free(chunk);
    return chunk;
}

/* Two chunks of 0x30 bytes in a fastbin, with an empty tcache bin: the first is its front. */
static void *fast_chunks(void **behind)
{
    void *chunks[MOST_CACHED + 2];
    int full = cached();

    for (int i = 0; i < full + 2; i++)
        chunks[i] = malloc(40);
    result = malloc(24);
    for (int i = 0; i < full + 2; i++)
        free(chunks[i]);
    drain_tcache(40);
    if (behind != NULL)
        *behind = chunks[full];
    return chunks[full + 1];
}

/* Where main_arena has its pointer to the top chunk: an unsorted chunk leads to the list, which begins there. */
static void **arena_top(void)
{
    void *chunk = unsorted_chunk(0x600);
    void **top = *(void ***)chunk;

    result = malloc(0x600); /* the list is empty again */
    return top;
}

static void will(const char *call, void *pointer, size_t request)
{
    expected_call = call;
    expected_pointer = pointer;
    expected_request = request;
    stop_here();
    if (strcmp(call, "free") == 0)
        free(pointer);
    else if (strcmp(call, "realloc") == 0)
        result = realloc(pointer, request);
    else if (strcmp(call, "malloc_trim") == 0)
        malloc_trim(request);
    else if (strcmp(call, "mallinfo") == 0)
        (void)HEAP_TOTALS();
    else if (strcmp(call, "malloc_info") == 0)
        malloc_info(0, stdout);
    else
        result = malloc(request);
}

/* --- free ----------------------------------------------------------------------------------------------------------*/

static void free_invalid_pointer(void)
{
    void *chunk = malloc(100);

    result = malloc(24);
    *word(chunk, -1) = (size_t)-0x1f; /* from 2.42 on that is a size's message */
    will("free", chunk, 0);
}

static void free_invalid_size(void)
{
    void *chunk = malloc(100);

    result = malloc(24);
    *word(chunk, -1) = strcmp(gnu_get_libc_version(), "2.42") < 0 ? 0x69 : (size_t)-0x1f;
    will("free", chunk, 0);
}

/* Two chunks in a tcache bin, and a third that is in use but has the mark of those. */
static void *marked_chunk(void **front)
{
    void *first = malloc(40), *second = malloc(40), *third = malloc(40);

    result = malloc(24);
    free(first);
    free(second);
    *word(third, 1) = *word(first, 1);
    *front = second;
    return third;
}

static void tcache_too_many(void)
{
    void *front, *chunk = marked_chunk(&front);

    *(void **)front = mangled(front, front);
    will("free", chunk, 0);
}

static void tcache_unaligned_free(void)
{
    void *front, *chunk = marked_chunk(&front);

    *(void **)front = mangled(front, (char *)front + 8);
    will("free", chunk, 0);
}

static void next_size_fast(void)
{
    void *chunk = malloc(40), *next = malloc(40);

    fill_tcache(40);
    *word(next, -1) = 0;
    will("free", chunk, 0);
}

static void free_top(void)
{
    void **top = arena_top();
    void *chunk = malloc(0x600);

    result = malloc(24);
    *top = (char *)chunk - 16;
    will("free", chunk, 0);
}

static void free_out(void)
{
    void *chunk = malloc(0x600);

    result = malloc(24);
    *word(chunk, -1) = 0x200001;
    will("free", chunk, 0);
}

static void free_prev(void)
{
    void *chunk = malloc(0x600), *next = malloc(0x600);

    result = malloc(24);
    ((char *)chunk)[0x608] = 0x10; /* one byte too many: PREV_INUSE is gone */
    (void)next;
    will("free", chunk, 0);
}

static void next_size_normal(void)
{
    void *chunk = malloc(0x600), *next = malloc(0x600);

    result = malloc(24);
    *word(next, -1) = 1;
    will("free", chunk, 0);
}

static void consolidating(void)
{
    void *chunk = malloc(0x600), *next = malloc(0x600);

    result = malloc(24);
    free(chunk);
    *word(next, -2) = 0x5f0;
    will("free", next, 0);
}

static void size_prev_size(void)
{
    void *before = malloc(0x600), *chunk = malloc(0x600), *next = malloc(24);

    free(chunk);
    *word(next, -2) = 0x5f0;
    will("free", before, 0);
}

static void linked_list(void)
{
    void *before = malloc(0x600), *chunk = malloc(0x600);

    result = malloc(24);
    free(chunk);
    *word(chunk, 0) = (size_t)buffer;
    will("free", before, 0);
}

static void not_small(void)
{
    void *before = malloc(0x600), *chunk = malloc(0x600), *other;

    result = malloc(24);
    other = malloc(0x610);
    result = malloc(24);
    free(chunk);
    free(other);
    result = malloc(0x1000); /* sorts them into their bin */
    *word(chunk, 2) = (size_t)buffer;
    will("free", before, 0);
}

static void free_unsorted(void)
{
    void *other = malloc(0x700), *chunk;

    result = malloc(24);
    chunk = unsorted_chunk(0x600);
    *word(chunk, 1) = (size_t)buffer;
    will("free", other, 0);
}

static void munmap_pointer(void)
{
    void *chunk = malloc(1 << 20);

    *word(chunk, -1) += 0x10;
    will("free", chunk, 0);
}

static void mremap_pointer(void)
{
    void *chunk = malloc(1 << 20);

    *word(chunk, -1) += 0x10;
    will("realloc", chunk, 1 << 21);
}

static void realloc_pointer(void)
{
    void *chunk = malloc(100);

    result = malloc(24);
    *word(chunk, -1) = (size_t)-0x1f;
    will("realloc", chunk, 200);
}

static void realloc_old_size(void)
{
    void *chunk = malloc(100);

    result = malloc(24);
    *word(chunk, -1) = 0x10;
    will("realloc", chunk, 200);
}

static void realloc_next_size(void)
{
    void *chunk = malloc(100), *next = malloc(100);

    result = malloc(24);
    *word(next, -1) = 0;
    will("realloc", chunk, 200);
}

/* --- malloc --------------------------------------------------------------------------------------------------------*/

static void tcache_unaligned(void)
{
    void *chunk = malloc(40);
    void **entry = (void **)((uintptr_t)chunk & ~(uintptr_t)0xfff), **end;

    result = malloc(24);
    free(chunk);
    for (end = sbrk(0); entry < end && *entry != chunk; entry++)
        ; /* the tcache is in the heap, wherever this release puts it */
    *entry = (char *)chunk + 8;
    will("malloc", NULL, 40);
}

static void tcache_unaligned_second(void)
{
    void *first = malloc(40), *second = malloc(40);

    result = malloc(24);
    free(first);
    free(second);
    *(void **)second = mangled(second, (char *)first + 8);
    will("malloc", NULL, 40);
    result = malloc(40);
}

static void fastbin_unaligned_2(void)
{
    void **top = arena_top();
    void *front = fast_chunks(NULL);

    top[-9] = (char *)front - 8; /* fastbinsY[1] */
    will("malloc", NULL, 40);
}

static void fastbin_unaligned_3(void)
{
    void *behind, *front = fast_chunks(&behind);

    *(void **)front = mangled(front, (char *)behind - 8);
    will("malloc", NULL, 40);
}

static pthread_mutex_t parked = PTHREAD_MUTEX_INITIALIZER;

static void *park(void *argument)
{
    pthread_mutex_lock(&parked);
    return argument;
}

static void fastbin_unaligned(void)
{
    pthread_t thread;
    void *behind, *front;

    pthread_mutex_lock(&parked);
    pthread_create(&thread, NULL, park, NULL);
    front = fast_chunks(&behind);
    *(void **)front = mangled(front, (char *)behind - 8);
    will("malloc", NULL, 40);
}

static void memory_corruption_fast(void)
{
    void *front = fast_chunks(NULL);

    *word(front, -1) = 0x41;
    will("malloc", NULL, 40);
}

static void fastbin_entry(void)
{
    void *front = malloc(40), *chunk;

    result = malloc(24);
    fill_tcache(40);
    chunk = malloc(40 + 48);
    result = malloc(24);
    free(front);
    *word(front, -1) = 0x41;
    will("realloc", chunk, 40);
}

static void smallbin(void)
{
    void *chunk = malloc(120);

    result = malloc(24);
    fill_tcache(120);
    free(chunk);
    result = malloc(0x600); /* sorts it into its bin */
    drain_tcache(120);
    *word(chunk, 1) = (size_t)buffer;
    will("malloc", NULL, 120);
}

static void smallbin_front(void)
{
    void *chunk = malloc(200), *other = malloc(24), *next;

    next = malloc(200);
    result = malloc(24);
    fill_tcache(200);
    free(chunk);
    result = malloc(0x600); /* sorts it into its bin */
    (void)other;
    *word(chunk, 1) = (size_t)buffer;
    will("free", next, 0);
}

static void unsorted_size(void)
{
    void *chunk = unsorted_chunk(0x600);

    *word(chunk, -1) = 0x11;
    will("malloc", NULL, 0x700);
}

static void unsorted_overrun(void)
{
    char *text = malloc(24);

    unsorted_chunk(0x600);
    memset(text, 'A', 32); /* eight bytes more than there are */
    will("malloc", NULL, 0x700);
}

static void unsorted_next_size(void)
{
    unsorted_chunk(0x600);
    *word(result, -1) = 0;
    will("malloc", NULL, 0x700);
}

static void unsorted_prev_size(void)
{
    unsorted_chunk(0x600);
    *word(result, -2) = 0x5f0;
    will("malloc", NULL, 0x700);
}

static void unsorted_links(void)
{
    void *chunk = unsorted_chunk(0x600);

    memset(chunk, 0, 8); /* written to after free */
    will("malloc", NULL, 0x700);
}

static void unsorted_prev_inuse(void)
{
    unsorted_chunk(0x600);
    *word(result, -1) |= 1;
    will("malloc", NULL, 0x700);
}

/* A chunk in a large bin and a somewhat larger one that is to be sorted into the same. */
static void *large_chunks(void)
{
    void *larger = malloc(0x610), *chunk;

    result = malloc(24);
    chunk = unsorted_chunk(0x600);
    result = malloc(0x1000);
    free(larger);
    return chunk;
}

static void largebin_nextsize(void)
{
    void *chunk = large_chunks();

    *word(chunk, 3) = (size_t)buffer;
    will("malloc", NULL, 0x1100);
}

static void largebin_bk(void)
{
    void *chunk = large_chunks();

    *word(chunk, 1) = (size_t)buffer;
    will("malloc", NULL, 0x1100);
}

static void unsorted_head(void)
{
    void **top = arena_top();

    unsorted_chunk(0x620);
    result = malloc(0x1000);
    top[2] = buffer; /* the front of the unsorted list, which is empty */
    will("malloc", NULL, 0x5f0);
}

static void unsorted_head_2(void)
{
    void **top = arena_top();

    unsorted_chunk(0x630);
    result = malloc(0x1000);
    top[2] = buffer;
    will("malloc", NULL, 0x200);
}

static size_t *top_size(void)
{
    void **top = arena_top();

    return (size_t *)*top + 1;
}

static void top_size_huge(void)
{
    *top_size() = (size_t)-1;
    will("malloc", NULL, 100);
}

static void consolidate_size(void)
{
    void *front = fast_chunks(NULL);

    *word(front, -1) = 0x41;
    will("malloc_trim", NULL, 0);
}

static void consolidate_unaligned(void)
{
    void *behind, *front = fast_chunks(&behind);

    *(void **)front = mangled(front, (char *)behind - 8);
    will("malloc_trim", NULL, 0);
}

static void consolidate_prev_size(void)
{
    void *front = fast_chunks(NULL);

    *word(front, -2) = 0x20;
    *word(front, -1) &= ~(size_t)1;
    will("malloc_trim", NULL, 0);
}

static void break_adjusted(void)
{
    size_t *size;

    result = malloc(24); /* the first request decides how long the heap is */
    result = malloc(0x8000);
    size = top_size();
    *size += 0x1000;
    will("malloc", NULL, 0x1fe00);
}

static void sysmalloc_assert(void)
{
    result = malloc(24);
    result = malloc(0x8000);
    *top_size() &= ~(size_t)1;
    will("malloc", NULL, 0x1fe00);
}

static void *shut_down(void *argument)
{
    void *chunk = malloc(40), *other = malloc(40);

    free(other);
    free(chunk);
    *(void **)chunk = mangled(chunk, (char *)other + 8);
    expected_call = "exit";
    stop_here();
    return argument;
}

static void thread_shutdown(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, shut_down, NULL);
    pthread_join(thread, NULL);
}

static void mallinfo_unaligned(void)
{
    void *behind, *front = fast_chunks(&behind);

    *(void **)front = mangled(front, (char *)behind - 8);
    will("mallinfo", NULL, 0);
}

static void malloc_info_unaligned(void)
{
    void *behind, *front = fast_chunks(&behind);

    *(void **)front = mangled(front, (char *)behind - 8);
    will("malloc_info", NULL, 0);
}

static void crash_link(void)
{
    void *before = malloc(0x600), *chunk = malloc(0x600);

    result = malloc(24);
    free(chunk);
    memset(chunk, 'A', 8);
    will("free", before, 0);
}

/* --- calls that are wrong, on a heap that is sound ------------------------------------------------------------------*/

static void call_double_free(void)
{
    void *chunk = malloc(100);

    result = malloc(24);
    free(chunk);
    will("free", chunk, 0);
}

static void call_fasttop(void)
{
    void *chunk = malloc(40);

    result = malloc(24);
    fill_tcache(40);
    free(chunk);
    will("free", chunk, 0);
}

static void call_invalid_pointer(void)
{
    char *chunk = malloc(100);

    result = malloc(24);
    will("free", chunk + 8, 0);
}

static void call_double_free_large(void)
{
    void *chunk = unsorted_chunk(0x600);

    will("free", chunk, 0);
}

/* --- for tests that damage the heap themselves ----------------------------------------------------------------------*/

char *low, *high;
size_t mapped; /* the length of each of their mappings */

/* Two chunks with mappings of their own, which the kernel puts side by side. */
static void mappings(void)
{
    low = malloc(1 << 18);
    high = malloc(1 << 18);
    mapped = (1 << 18) + 0x1000;
    stop_here();
}

static const struct mode {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"free-invalid-pointer", free_invalid_pointer},
    {"free-invalid-size", free_invalid_size},
    {"tcache-too-many", tcache_too_many},
    {"tcache-unaligned-free", tcache_unaligned_free},
    {"next-size-fast", next_size_fast},
    {"free-top", free_top},
    {"free-out", free_out},
    {"free-prev", free_prev},
    {"next-size-normal", next_size_normal},
    {"consolidating", consolidating},
    {"size-prev-size", size_prev_size},
    {"linked-list", linked_list},
    {"not-small", not_small},
    {"free-unsorted", free_unsorted},
    {"munmap-pointer", munmap_pointer},
    {"mremap-pointer", mremap_pointer},
    {"realloc-pointer", realloc_pointer},
    {"realloc-old-size", realloc_old_size},
    {"realloc-next-size", realloc_next_size},
    {"tcache-unaligned", tcache_unaligned},
    {"tcache-unaligned-second", tcache_unaligned_second},
    {"fastbin-unaligned-2", fastbin_unaligned_2},
    {"fastbin-unaligned-3", fastbin_unaligned_3},
    {"fastbin-unaligned", fastbin_unaligned},
    {"memory-corruption-fast", memory_corruption_fast},
    {"fastbin-entry", fastbin_entry},
    {"smallbin", smallbin},
    {"smallbin-front", smallbin_front},
    {"unsorted-size", unsorted_size},
    {"unsorted-overrun", unsorted_overrun},
    {"unsorted-next-size", unsorted_next_size},
    {"unsorted-prev-size", unsorted_prev_size},
    {"unsorted-links", unsorted_links},
    {"unsorted-prev-inuse", unsorted_prev_inuse},
    {"largebin-nextsize", largebin_nextsize},
    {"largebin-bk", largebin_bk},
    {"unsorted-head", unsorted_head},
    {"unsorted-head-2", unsorted_head_2},
    {"top-size-huge", top_size_huge},
    {"consolidate-size", consolidate_size},
    {"consolidate-unaligned", consolidate_unaligned},
    {"consolidate-prev-size", consolidate_prev_size},
    {"break-adjusted", break_adjusted},
    {"sysmalloc-assert", sysmalloc_assert},
    {"thread-shutdown", thread_shutdown},
    {"mallinfo-unaligned", mallinfo_unaligned},
    {"malloc-info-unaligned", malloc_info_unaligned},
    {"crash-link", crash_link},
    {"call-double-free", call_double_free},
    {"call-fasttop", call_fasttop},
    {"call-invalid-pointer", call_invalid_pointer},
    {"call-double-free-large", call_double_free_large},
    {"mappings", mappings},
};

int main(int argc, char **argv)
{
    static char output[1024];

    setvbuf(stdout, output, _IOFBF, sizeof output);
    for (size_t i = 0; argc == 2 && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(argv[1], modes[i].name) == 0) {
            modes[i].run();
            return 0; /* nothing was noticed */
        }
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        printf("%s\n", modes[i].name);
    return 2;
}
