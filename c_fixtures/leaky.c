/* A program that leaks, and knows what: messages that nobody freed, in known numbers with known contents, and pointers
 * whose places it notes.
 *
 *   MESSAGES  chunks of struct message, each with the mark and a link to the one before; every tenth was freed
 *   BLOCKS    larger buffers that begin with a text, every fourth with the needle across a page boundary
 *   config    the object that is pointed to from everywhere: a global, a static variable of a function, a thread-local
 *             variable, the stack of a waiting thread, a register of this one, other chunks, an mmapped chunk
 *
 * leaky ABORT ends with SIGABRT, for a core file.
 */
#include "fixture.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <string.h>

enum { MESSAGES = 3000, BLOCKS = 40, BLOCK = 9000, HOLDERS = 7, MARK = 0x5eed5eed };

struct message {
    struct message *before;
    uint64_t mark;
    uint64_t number;
};

struct config {
    char name[48];
    struct config *self;
    long values[6];
};

struct holder {
    long number;
    void *start, *inside;
};

static struct message *messages[MESSAGES];
static char *blocks[BLOCKS];
static struct holder *holders[HOLDERS];
static struct config *config;
static struct config **large; /* an mmapped chunk that points to it as well */
static struct message *last_message;
static size_t usable_bytes; /* of all messages that are left */
static int left_messages, needles;
static void *place_on_stack, *place_in_thread, *place_in_static;
static __thread struct config *of_thread;
static sem_t ready;
static pthread_barrier_t over;

static void *hold(void *argument)
{
    struct config *volatile on_stack = argument;

    of_thread = argument;
    place_on_stack = (void *)&on_stack;
    place_in_thread = &of_thread;
    sem_post(&ready);
    pthread_barrier_wait(&over);
    return on_stack;
}

static void remember(struct config *what)
{
    static struct config *remembered;

    remembered = what;
    place_in_static = &remembered;
}

/* Stops with its argument in a register that the called function saves or leaves alone. */
__attribute__((noinline)) static void stop_with(struct config *what)
{
#if defined(__x86_64__)
    __asm__ volatile("mov %0, %%r12\n\t"
                     ".globl stop_in_register\n"
                     "stop_in_register:\n\t"
                     "nop"
                     :
                     : "r"(what)
                     : "r12", "memory");
#else
    (void)what;
#endif
}

int main(int argc, char **argv)
{
    pthread_t thread;

    (void)argv;
    prepare_totals();
    config = calloc(1, sizeof *config);
    strcpy(config->name, "the one configuration");
    config->self = config;
    for (int i = 0; i < MESSAGES; i++) {
        messages[i] = malloc(sizeof *messages[i]);
        messages[i]->before = last_message;
        messages[i]->mark = MARK;
        messages[i]->number = i;
        last_message = messages[i];
    }
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = calloc(1, BLOCK);
        sprintf(blocks[i], "block number %d", i);
        if (i % 4 == 0) { /* over a page boundary */
            char *place = (char *)(((uintptr_t)blocks[i] + 4096 + 4095) & ~(uintptr_t)4095) - 5;

            memcpy(place, "needle-in-block", 15);
            needles++;
        }
    }
    for (int i = 0; i < HOLDERS; i++) {
        holders[i] = malloc(sizeof *holders[i]);
        holders[i]->number = i;
        holders[i]->start = config;
        holders[i]->inside = i % 2 ? &config->values[3] : NULL;
    }
    large = calloc(1, 300000);
    large[20000] = config;
    for (int i = 0; i < MESSAGES; i += 10) {
        free(messages[i]);
        messages[i] = NULL;
    }
    for (int i = 0; i < MESSAGES; i++)
        if (messages[i] != NULL) {
            left_messages++;
            usable_bytes += malloc_usable_size(messages[i]);
        }
    remember(config);
    sem_init(&ready, 0, 0);
    pthread_barrier_init(&over, NULL, 2);
    pthread_create(&thread, NULL, hold, config);
    sem_wait(&ready);

    record_totals();
    stop_here();
    stop_with(config);
    if (argc > 1)
        abort();
    pthread_barrier_wait(&over);
    pthread_join(thread, NULL);
    return 0;
}
