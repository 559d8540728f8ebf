// One chunk, and a pointer to it in every kind of variable: the program notes where each pointer is and what it is called.
//
// It stops once in a method, once in a signal's handler that has a stack of its own, with a thread waiting meanwhile.
// Built with -O2 as `pointers-o2` (see the Makefile), most variables are in registers that called functions save.
#include "fixture.h"

#include <cstdint>
#include <map>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>

enum { PLACES = 32 };

struct place {
    void *at;
    const char *name;
    const char *function;
};

// Tests read these: where the pointers are.
extern place places[PLACES]; // an optimiser drops from static ones what only tests read
place places[PLACES];
extern int count;
int count;
static char *wanted;
static sem_t ready, over;

__attribute__((noinline)) static void note(void *at, const char *name, const char *function)
{
    places[count++] = {at, name, function};
}

struct entry {
    int number;
    char *name;
};

static entry table[5];
static char *rows[3][4];
static char pool[4096] __attribute__((aligned(16)));

struct tagged {
    virtual ~tagged() {}
    char *tag = nullptr;
};

struct session : tagged {
    int number = 0;
    std::map<int, char *> map_;
    char *title = nullptr;
    char *names[4] = {};
    union {
        char *first;
        long second;
    };

    void work(char *&reference, char *argument, long, long, long, long, long, char *on_stack);
};

__attribute__((noinline)) void session::work(char *&reference, char *argument, long, long, long, long, long,
                                             char *on_stack)
{
    char buffer[64] __attribute__((aligned(16)));

    *(char **)(buffer + 0x10) = argument;
    note(buffer + 0x10, "buffer + 0x10", "session::work");
    note(&on_stack, "on_stack", "session::work");
    title = names[2] = tag = first = reference;
    map_[3] = argument;
    stop_here();
    __asm__ volatile("" : : "r"(buffer), "r"(argument), "r"(on_stack) : "memory");
}

static void *wait(void *argument)
{
    char *const volatile waiting = (char *)argument;

    note((void *)&waiting, "waiting", "wait");
    sem_post(&ready);
    sem_wait(&over);
    return waiting;
}

static void handle(int)
{
    char *volatile handled = wanted;

    note((void *)&handled, "handled", "handle");
    stop_here();
}

__attribute__((noinline)) static void keep(char *kept)
{
    raise(SIGUSR1);
    __asm__ volatile("" : : "r"(kept) : "memory");
}

int main()
{
    char *head = (char *)malloc(200);
    session *object = new session;
    session local;
    struct {
        int number;
        char *items[6];
    } group = {};
    static char *inside;
    pthread_t thread;
    stack_t stack = {};
    struct sigaction action = {};

    // Read-only since it was filled: malloc has no business there, but the pointer counts.
    char **sealed = (char **)aligned_alloc(4096, 4096);
    sealed[7] = head;
    mprotect(sealed, 4096, PROT_READ);
    note(sealed + 7, "sealed[7]", "main");

    wanted = head;
    table[2].name = rows[1][2] = inside = local.title = group.items[3] = head;
    *(char **)(pool + 0xa0) = head;
    note(&table[2].name, "table[2].name", "");
    note(&rows[1][2], "rows[1][2]", "");
    note(&inside, "main()::inside", "");
    note(pool + 0xa0, "pool + 0xa0", "");
    note(&wanted, "wanted", "");
    note(&local.title, "local.title", "main");
    note(&group.items[3], "group.items[3]", "main");
    note(&head, "head", "main");
    sem_init(&ready, 0, 0);
    sem_init(&over, 0, 0);
    pthread_create(&thread, nullptr, wait, head);
    sem_wait(&ready);
    object->work(head, head, 2, 3, 4, 5, 6, head);

    stack.ss_size = 1 << 16;
    stack.ss_sp = mmap(nullptr, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&stack, nullptr);
    action.sa_handler = handle;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &action, nullptr);
    keep(head);
    sem_post(&over);
    pthread_join(thread, nullptr);
    delete object;
    return 0;
}
