/* Does the allocations that a file lists and logs what each of them got: the oracle for the simulated allocator.

       ops OPERATIONS [LOG [threads]]

   OPERATIONS has one operation a line, in the format of docs/operations.md (names of memory are numbers below SLOTS).
   LOG gets a struct result for each of them. With `threads`, a second thread does them, in an arena of its own.
   Nothing but the operations calls malloc. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS (1 << 20)
#define BUFFERED 4096

struct result {
    uint64_t pointer;   /* what was returned */
    uint64_t usable;    /* malloc_usable_size of it */
    uint64_t size_word; /* its chunk's size word, flags included */
    uint64_t prev_size; /* and the word before that */
    uint64_t brk;       /* sbrk(0) afterwards */
};

static void *slots[SLOTS];
static struct result results[BUFFERED];
static int pending, log_fd = -1, count;
static const char *text, *end;

/* A debugger stops here before the first operation, */
__attribute__((noinline)) void before_operations(void)
{
    __asm__ volatile("" ::: "memory");
}

/* before each of them, */
__attribute__((noinline)) void before_operation(int number)
{
    __asm__ volatile("" ::"r"(number) : "memory");
}

/* after each of them, */
__attribute__((noinline)) void after_operation(void *pointer)
{
    __asm__ volatile("" ::"r"(pointer) : "memory");
}

/* and after the last. */
__attribute__((noinline)) void after_operations(void)
{
    __asm__ volatile("" ::: "memory");
}

static void flush(void)
{
    if (log_fd >= 0 && write(log_fd, results, pending * sizeof *results) < 0)
        abort();
    pending = 0;
}

static int is_word(const char *word)
{
    size_t length = strlen(word);
    if (strncmp(text, word, length) == 0 && text[length] == ' ') {
        text += length;
        return 1;
    }
    return 0;
}

static uint64_t number(void)
{
    uint64_t value = 0;
    int negative = 0;
    while (text < end && *text == ' ')
        text++;
    if (text < end && *text == '-') {
        negative = 1;
        text++;
    }
    while (text < end && *text >= '0' && *text <= '9')
        value = value * 10 + (*text++ - '0');
    return negative ? -value : value;
}

/* What memory is called follows "=". */
static uint64_t name(void)
{
    while (text < end && *text != '=' && *text != '\n')
        text++;
    if (text == end || *text != '=')
        abort();
    text++;
    return number();
}

static void log_result(void *pointer)
{
    struct result *result = &results[pending++];
    memset(result, 0, sizeof *result);
    result->pointer = (uintptr_t)pointer;
    if (pointer != NULL) {
        result->usable = malloc_usable_size(pointer);
        result->size_word = ((size_t *)pointer)[-1];
        result->prev_size = ((size_t *)pointer)[-2];
    }
    result->brk = (uintptr_t)sbrk(0);
    if (pending == BUFFERED)
        flush();
}

static void *operation(void)
{
    if (is_word("malloc")) {
        size_t size = number();
        return slots[name()] = malloc(size);
    }
    if (is_word("calloc")) {
        size_t n = number(), size = number();
        return slots[name()] = calloc(n, size);
    }
    if (is_word("realloc")) {
        uint64_t old = number();
        size_t size = number();
        void *pointer = realloc(slots[old], size);
        if (pointer == NULL && size != 0)
            return NULL; /* the old memory is as it was */
        slots[old] = NULL;
        return slots[name()] = pointer;
    }
    if (is_word("reallocarray")) {
        uint64_t old = number();
        size_t n = number(), size = number();
        void *pointer = reallocarray(slots[old], n, size);
        if (pointer == NULL && n != 0 && size != 0)
            return NULL;
        slots[old] = NULL;
        return slots[name()] = pointer;
    }
    if (is_word("free")) {
        uint64_t old = number();
        free(slots[old]);
        slots[old] = NULL;
        return NULL;
    }
    if (is_word("memalign")) {
        size_t alignment = number(), size = number();
        return slots[name()] = memalign(alignment, size);
    }
    if (is_word("aligned_alloc")) {
        size_t alignment = number(), size = number();
        return slots[name()] = aligned_alloc(alignment, size);
    }
    if (is_word("posix_memalign")) {
        size_t alignment = number(), size = number();
        void *pointer;
        if (posix_memalign(&pointer, alignment, size) != 0)
            pointer = NULL;
        return slots[name()] = pointer;
    }
    if (is_word("valloc")) {
        size_t size = number();
        return slots[name()] = valloc(size);
    }
    if (is_word("pvalloc")) {
        size_t size = number();
        return slots[name()] = pvalloc(size);
    }
    if (is_word("trim"))
        return (void *)(uintptr_t)malloc_trim(number());
    if (is_word("mallopt")) {
        int parameter = number(), value = number();
        return (void *)(uintptr_t)mallopt(parameter, value);
    }
    abort();
}

static void *all(void *unused)
{
    (void)unused;
    before_operations();
    while (text < end) {
        if (*text != '#' && *text != '\n') {
            int answers = *text == 't' || (*text == 'm' && text[5] == 'p'); /* trim and mallopt: a number */
            before_operation(count++);
            void *pointer = operation();
            after_operation(pointer);
            if (log_fd >= 0)
                log_result(answers ? NULL : pointer);
        }
        while (text < end && *text != '\n')
            text++;
        text++;
    }
    flush();
    after_operations();
    return NULL;
}

int main(int argc, char **argv)
{
    struct stat status;
    int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
    if (fd < 0 || fstat(fd, &status) != 0)
        return 2;
    text = mmap(NULL, status.st_size + 1, PROT_READ, MAP_PRIVATE, fd, 0);
    if (text == MAP_FAILED)
        return 2;
    end = text + status.st_size;
    if (argc > 2 && (log_fd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644)) < 0)
        return 2;
    sbrk(0); /* what log_result does after the first operation would change what libc knows before the second */
    if (argc > 3) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, all, NULL) != 0)
            return 2;
        pthread_join(thread, NULL);
    } else {
        all(NULL);
    }
    return 0;
}
