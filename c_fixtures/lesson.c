/* The heap that docs/lesson.md walks through: a full tcache bin, a fastbin, a last remainder, a large bin.

   `first` is where the lesson begins, before the first malloc; stop_here is reached when the lists are as they are
   described there. */
#include "fixture.h"

static void *same[12], *first_large, *second_large, *source, *cut, *guards[4];

__attribute__((noinline)) void first(void)
{
    __asm__ volatile("" ::: "memory");
}

int main(void)
{
    int i;

    first();
    for (i = 0; i < 12; i++)
        same[i] = malloc(40); /* chunks of 0x30 */
    first_large = malloc(5000);
    guards[0] = malloc(24);
    second_large = malloc(5200);
    guards[1] = malloc(24);
    source = malloc(3000);
    guards[2] = malloc(24);
    free(first_large);
    free(second_large);
    guards[3] = malloc(70000); /* sorts the two into their large bins */
    for (i = 0; i < 11; i++)
        free(same[i]); /* seven go to the tcache, four to a fastbin */
    free(source);
    cut = malloc(200); /* cut from the first that is large enough; the rest is the last remainder */
    stop_here();
    return 0;
}
