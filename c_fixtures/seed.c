/* The question that gdbheap starts from: 1000 bytes are asked for, and the break moves by 0x21000. Why? */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main()
{
    printf("Heap Pointer locataion:\nBefore:%p", sbrk(0));
    malloc(1000);

    printf("\nAfter:%p", sbrk(0));

    return 0;
}
