/* hostile: a program that calls its things what no terminal should ever see.
 *
 * Threads, a mapped file and the contents of chunks have names with escape sequences, controls of the C1 set, marks that
 * turn text around, markup, quotes, new lines, and bytes that are no UTF-8. So may have its functions and its own file,
 * by what a test does to it. It stops with a heap that is sound, and then damages it.
 */
#define _GNU_SOURCE
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NASTY "\033[31m\033]0;t\a\r\n\302\233\342\200\256<b>&\"'\377\200$(id);`id`"

static pthread_barrier_t ready;
void *volatile kept[64];

/* A test renames this function in the symbol table. */
__attribute__((noinline)) void *evil_function(size_t size)
{
    void *chunk = malloc(size);

    __asm__ volatile("" : "+r"(chunk));
    return chunk;
}

static void *work(void *argument)
{
    kept[60] = evil_function(100);
    pthread_barrier_wait(&ready);
    pause();
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int file;

    if (argc > 1) {
        file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (file >= 0 && ftruncate(file, 4096) == 0)
            kept[61] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    }
    pthread_barrier_init(&ready, NULL, 2);
    for (int i = 0; i < 40; i++) {
        kept[i] = evil_function(40 + 200 * i);
        memcpy(kept[i], NASTY, sizeof NASTY);
    }
    kept[62] = evil_function(300000);
    kept[63] = evil_function(500000);
    memcpy(kept[63], NASTY, sizeof NASTY);
    pthread_create(&thread, NULL, work, NULL);
    pthread_setname_np(thread, "\033[1m\302\233\377<b>");
    pthread_setname_np(pthread_self(), "\033]0;x\a\377");
    pthread_barrier_wait(&ready);
    for (int i = 0; i < 40; i += 3)
        free(kept[i]);
    stop_here();
    memcpy((char *)kept[1] + 240 - 8, NASTY NASTY, sizeof NASTY + 8); /* over the end, into the next header */
    stop_here();
    _exit(0);
}
