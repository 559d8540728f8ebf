/* Threads that call a function with pointers into their own chunks, while others keep calling malloc and free.
 *
 * For conditions of breakpoints, which GDB evaluates while the other threads run. The program says itself what each
 * pointer is: malloc_usable_size tells the size, and what is freed is in the thread's own tcache.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdint.h>

enum { VISITORS = 3, BYSTANDERS = 3, ROUNDS = 15 };

static volatile int over;

__attribute__((noinline)) static void visit(const char *p, size_t chunk_bytes, int freed)
{
    __asm__ volatile("" ::"r"(p), "r"(chunk_bytes), "r"(freed) : "memory");
}

static void *visitor(void *unused)
{
    for (int i = 0; i < ROUNDS; i++) {
        char *p = malloc(50 * i + 24);
        uintptr_t again = (uintptr_t)p;

        visit(p, malloc_usable_size(p) + sizeof(size_t), 0);
        free(p);
        visit((const char *)again, 0, 1);
    }
    return unused;
}

static void *bystander(void *unused)
{
    while (!over)
        free(malloc(64));
    return unused;
}

int main(void)
{
    pthread_t visitors[VISITORS], bystanders[BYSTANDERS];

    for (int i = 0; i < BYSTANDERS; i++)
        pthread_create(&bystanders[i], NULL, bystander, NULL);
    for (int i = 0; i < VISITORS; i++)
        pthread_create(&visitors[i], NULL, visitor, NULL);
    for (int i = 0; i < VISITORS; i++)
        pthread_join(visitors[i], NULL);
    over = 1;
    for (int i = 0; i < BYSTANDERS; i++)
        pthread_join(bystanders[i], NULL);
    stop_here();
    return 0;
}
