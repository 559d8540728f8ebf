/* Chunks whose contents would do harm on a terminal or in a report if they were shown as they are. */
#include "fixture.h"

#include <string.h>

static const char *contents[] = {
    "a plain sentence, to be read as it is",
    "\x1b]0;a new title for your terminal\x07",
    "\x1b[2J\x1b[31mred on a cleared screen",
    "\xc2\x9b" "31mred by a C1 control",
    "to the \xe2\x80\xae left \xe2\x80\xac and \xe2\x81\xa6isolated\xe2\x81\xa9 \xe2\x80\x8f",
    "not UTF-8: \xff\xfe\xc3\x28 \xed\xa0\x80",
    "<script>alert(1)</script> & \"quoted\" </script>",
    "a line\nand another\rover it\tafter a tab\b\b\v\f\x7f",
};

enum { COUNT = sizeof contents / sizeof contents[0] };

static char *pointers[COUNT];

int main(void)
{
    for (int i = 0; i < COUNT; i++) {
        pointers[i] = malloc(120);
        memset(pointers[i], 0, 120);
        strcpy(pointers[i], contents[i]);
    }
    stop_here();
    return 0;
}
