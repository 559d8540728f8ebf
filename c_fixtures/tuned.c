/* tuned [PARAMETER=VALUE ...]: mallopt with each pair of numbers, then a heap that has been used in every way.
 *
 * There are chunks of all sizes, some of them freed; chunks with mappings of their own that were resized, freed and
 * aligned, so that the thresholds move where they may; a thread that has ended, and one that waits with memory of its
 * arena. At stop_here() that is so; then in a child of fork, which stops there as well.
 */
#include "fixture.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *kept[400];
static pthread_barrier_t ready;

static void use(void **slots)
{
    for (int i = 0; i < 100; i++)
        slots[i] = malloc(i * 37 + 1);
    for (int i = 0; i < 100; i += 2) {
        free(slots[i]);
        slots[i] = NULL;
    }
    slots[100] = malloc(3000000);
    slots[101] = realloc(malloc(200000), 900000);
    slots[102] = memalign(1 << 16, 400000);
    slots[103] = malloc(50000);
    free(slots[100]);
    slots[100] = malloc(150000);
}

static void *work(void *slots)
{
    use(slots);
    return slots;
}

static void *wait_with_memory(void *slots)
{
    use(slots);
    pthread_barrier_wait(&ready);
    pause();
    return slots;
}

int main(int argc, char **argv)
{
    pthread_t thread;

    for (int i = 1; i < argc; i++)
        mallopt(atoi(argv[i]), atoi(strchr(argv[i], '=') + 1));
    use(kept);
    pthread_create(&thread, NULL, work, kept + 110);
    pthread_join(thread, NULL);
    pthread_barrier_init(&ready, NULL, 2);
    pthread_create(&thread, NULL, wait_with_memory, kept + 220);
    pthread_barrier_wait(&ready);
    stop_here();
    if (fork() == 0) {
        kept[330] = malloc(40);
        stop_here();
        _exit(0);
    }
    wait(NULL);
    return 0;
}
