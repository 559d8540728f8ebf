/* churn SEED THREADS [STOPS]: threads that allocate, resize and free at random, for as long as a debugger likes.
 *
 * With STOPS, a timer interrupts the program (SIGALRM) so many times, each time after a random fraction of a
 * millisecond, wherever it is: a debugger that stops at the signal sees it in the middle of anything. Then it ends.
 */
#define _GNU_SOURCE
#include "churn.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>

static volatile int stops_left, over;
static unsigned timer_state;

static void *work(void *argument)
{
    unsigned state = (unsigned)(uintptr_t)argument;
    void *own[SLOTS] = {NULL};

    while (!over)
        step(own, &state);
    return NULL;
}

static void arm(void)
{
    struct itimerval when = {{0, 0}, {0, 20 + next_random(&timer_state) % 800}};

    setitimer(ITIMER_REAL, &when, NULL);
}

static void rung(int number)
{
    (void)number;
    if (--stops_left > 0)
        arm();
    else
        over = 1;
}

int main(int argc, char **argv)
{
    pthread_t threads[MOST_THREADS];
    int count;

    if (argc < 3)
        return 2;
    timer_state = (unsigned)atoi(argv[1]);
    count = atoi(argv[2]) - 1;
    free(malloc(24)); /* there is a heap from here on */
    signal(SIGALRM, rung);
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(timer_state + 77 * (i + 1)));
    stops_left = argc > 3 ? atoi(argv[3]) : 0;
    if (stops_left > 0)
        arm();
    stop_here();
    work((void *)(uintptr_t)timer_state);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
