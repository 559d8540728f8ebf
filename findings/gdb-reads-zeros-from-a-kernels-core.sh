#!/bin/sh
# The same page that a program excludes from dumps reads as zeros in the kernel's core and as an error in GDB's own.
#
# Behaviour (gdb-for-pwndbg 18.1.0.post1 from PyPI, GDB 18.1, Linux): a program fills a page with 'A' and marks it
# MADV_DONTDUMP. The kernel's core keeps a program header for that page with p_filesz 0. GDB takes the difference to
# p_memsz for zeros, as in a .bss: `x` prints 0x00 and gdb.Inferior.read_memory returns zero bytes, without a warning.
# `generate-core-file` of the same GDB leaves the whole program header out: in that core the same read is an error.
# So whoever judges memory in a core by what GDB returns must look at p_filesz first; an allocator's page of zeros looks
# like damage.
#
# Output seen:
#   the kernel's core: 0x00
#   GDB's core: Cannot access memory
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $(cat /proc/sys/kernel/core_pattern) in
    '|'* | */*) echo "This needs a kernel that writes cores into the current folder (kernel.core_pattern)."; exit 2 ;;
esac
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check gdb-for-pwndbg==18.1.0.post1 2>"$work/pip.log"
gdb=$work/venv/bin/gdb

cat >"$work/p.c" <<'C'
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
char *excluded;
static void ready(void) {}
int main(void) {
    excluded = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(excluded, 'A', 4096);
    madvise(excluded, 4096, MADV_DONTDUMP);
    ready();
    abort();
}
C
gcc -g -O0 -o "$work/p" "$work/p.c"
cd "$work"
(ulimit -c unlimited && ./p) 2>/dev/null || true
mv core* kernel.core
"$gdb" -nx -q -batch -iex 'set debuginfod enabled off' -ex 'break ready' -ex run \
    -ex 'generate-core-file own.core' ./p >make.log 2>&1 </dev/null

first_byte() {
    "$gdb" -nx -q -batch -iex 'set debuginfod enabled off' -ex 'x/1bx excluded' ./p "$1" 2>&1 </dev/null |
        sed -n 's/^0x[0-9a-f]*:[[:space:]]*\(0x[0-9a-f]*\|Cannot access memory\).*/\1/p'
}
kernel=$(first_byte kernel.core) own=$(first_byte own.core)
echo "the kernel's core: $kernel"
echo "GDB's core: $own"
[ "$kernel" = 0x00 ] && [ "$own" = "Cannot access memory" ]
