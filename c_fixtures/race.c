/* Four threads make system calls at the same time and write down what each of them got.
 *
 * The size of each mapping names the thread and the round, so that a recorder that mixes up two threads is found out.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 20, PAGE = 4096 };

struct mapping {
    long tid;
    size_t size;
    void *address;
};

static struct mapping mappings[THREADS * ROUNDS];
static pthread_barrier_t start;

static void *work(void *argument)
{
    int number = (int)(intptr_t)argument;
    long tid = syscall(SYS_gettid);

    pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        struct mapping *mapping = &mappings[number * ROUNDS + i];

        mapping->tid = tid;
        mapping->size = (size_t)(100 * (number + 1) + i) * PAGE;
        mapping->address = mmap(NULL, mapping->size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(mapping->address, mapping->size, PROT_READ | PROT_WRITE);
        munmap(mapping->address, mapping->size);
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];

    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    stop_here();
    return 0;
}
