/* What the fixtures share: the place where a debugger stops them, and the C library's own figures about the heap. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

/* Tests put a breakpoint here: the heap is as the program's head comment says. */
__attribute__((noinline, unused)) static void stop_here(void)
{
    __asm__ volatile("" ::: "memory");
}

#if defined(__GLIBC__)

/* How many chunks a list of the tcache takes by default, and whether free has fastbins for what is beyond. */
#define TCACHE_COUNT (__GLIBC_PREREQ(2, 43) ? 16 : 7)
#define HAS_FASTBINS (!__GLIBC_PREREQ(2, 43))

/* How a link to `value` is stored at `place` in a tcache or fastbin: hidden from 2.32 on (safe-linking). */
#define STORED(place, value) (__GLIBC_PREREQ(2, 32) ? (size_t)(place) >> 12 ^ (size_t)(value) : (size_t)(value))

#if __GLIBC_PREREQ(2, 33)
typedef struct mallinfo2 heap_totals;
#define HEAP_TOTALS mallinfo2
#else
typedef struct mallinfo heap_totals;
#define HEAP_TOTALS mallinfo
#endif

/* mallinfo2 before and after malloc_info's text: equal, since asking allocates nothing. */
static heap_totals totals_before, totals_after;
static char info_xml[1 << 16];
static char info_buffer[1 << 16];
static FILE *info_stream;

/* Makes the stream that the text goes to: the only step that allocates, so call it before building the heap. */
__attribute__((unused)) static void prepare_totals(void)
{
    info_stream = fmemopen(info_xml, sizeof info_xml, "w");
    if (info_stream == NULL || setvbuf(info_stream, info_buffer, _IOFBF, sizeof info_buffer) != 0)
        abort();
}

/* Asks the C library. Nothing may touch the heap between this and stop_here(). */
__attribute__((unused)) static void record_totals(void)
{
    totals_before = HEAP_TOTALS();
    if (malloc_info(0, info_stream) != 0 || fflush(info_stream) != 0)
        abort();
    totals_after = HEAP_TOTALS();
}

#endif
#endif
