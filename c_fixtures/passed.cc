// Passes what is no pointer of malloc's to free, realloc or delete, and knows what it is: `wanted`, and `inside` of what.
//
//   array       into an array of its own           first      the same before any malloc
//   stack       into an array on the stack         member     what a struct's member points to: inside a chunk
//   wrapper     by a function that passes it on    jump       by a function that jumps to free
//   remove      delete of it                       resize     realloc of it
//   fastbin     nothing: a fastbin's link was written, and malloc empties it
//   unlisted    nothing: a free chunk's link was written, and free puts another chunk before it
//   late        nothing: a freed chunk was written to by another thread, and its own thread ends
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wuse-after-free"
#pragma GCC diagnostic ignored "-Wfree-nonheap-object"
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#include "fixture.h"

#include <pthread.h>
#include <string.h>

struct record {
    long words[4];
    char *data;
    record *next;
};

extern void *wanted, *inside, *holder;
void *wanted, *inside, *holder; // tests read these; so no optimiser may drop them
static char pool[4096] __attribute__((aligned(16)));
static record records[4];
static char *blocks[40];
static pthread_barrier_t barrier;

__attribute__((noinline)) static void keep(void *what)
{
    __asm__ volatile("" : : "r"(what) : "memory");
}

__attribute__((noinline)) static void pass_on(const char *why, void *what)
{
    keep((void *)why);
    free(what);
    keep(what);
}

__attribute__((noinline)) static void jump(record *which, int number)
{
    free(which[number].data);
}

__attribute__((noinline)) static void drop(record *which)
{
    keep(which);
    free(which->data);
    keep(which);
}

static void fill(int size, int freed)
{
    for (char *&block : blocks) {
        block = (char *)malloc(size);
        memset(block, 0, size);
    }
    for (int i = 0; i < freed; i++)
        free(blocks[i]);
}

static void *work(void *)
{
    fill(200, 20);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return nullptr;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "array";
    char local[512] __attribute__((aligned(16)));

    auto is = [mode](const char *name) { return strcmp(mode, name) == 0; };
    memset(local, 0, sizeof local);
    keep(local);
    if (is("first")) {
        ((size_t *)pool)[17] = 0x23; // as the size word of a chunk with a mapping of its own
        wanted = pool + 0x90;
        free(pool + 0x90);
    }
    char *block = (char *)malloc(600);
    memset(block, 0, 600);
    inside = block;
    if (is("array")) {
        wanted = pool + 0xb0;
        free(pool + 0xb0);
    } else if (is("stack")) {
        wanted = local + 0x40;
        free(local + 0x40);
    } else if (is("member")) {
        records[2].data = block + 0x30;
        wanted = block + 0x30;
        drop(&records[2]);
    } else if (is("wrapper")) {
        wanted = block + 0x40;
        pass_on("why", block + 0x40);
    } else if (is("jump")) {
        records[3].data = block + 0x50;
        wanted = block + 0x50;
        keep(records);
        jump(records, 3);
    } else if (is("remove")) {
        wanted = block + 0x60;
        ::operator delete(wanted);
    } else if (is("resize")) {
        wanted = block + 0x70;
        keep(realloc(wanted, 7777));
    } else if (is("fastbin")) {
        fill(0x60, 20);
        holder = blocks[13]; // seven went to the tcache, so that this one is amid the fastbin
        *blocks[13] += 3;
        keep(malloc(100000));
    } else if (is("unlisted")) {
        fill(2000, 0);
        free(blocks[4]);
        holder = blocks[4];
        ((size_t *)blocks[4])[1] = 0x4f4b4f4b4f4b;
        wanted = blocks[10];
        free(blocks[10]);
    } else if (is("late")) {
        pthread_t thread;

        pthread_barrier_init(&barrier, nullptr, 2);
        pthread_create(&thread, nullptr, work, nullptr);
        pthread_barrier_wait(&barrier);
        holder = blocks[2];
        ((size_t *)blocks[2])[0] = 0x55aa;
        pthread_barrier_wait(&barrier);
        pthread_join(thread, nullptr);
    }
    return 0;
}
