#!/bin/sh
# GDB's `catch syscall` sees nothing while a software watchpoint exists, and says nothing of it.
#
# Behaviour (gdb-for-pwndbg 18.1.0.post1 from PyPI, GDB 18.1, x86-64 Linux): a program makes 3 + 3 calls of getppid. With
# the catchpoint alone its hit count is 12: each call's entry and return. With `watch` on a struct of 160 bytes beside it,
# which no debug register can hold, GDB runs the program by single steps, and steps over the syscall instruction are not
# system call stops to the kernel's ptrace: the hit count stays 0. The catchpoint is listed as enabled in both runs, no
# warning is printed, and the watchpoint itself reports its change as it should.
# So a record that is made by catchpoints has a hole for as long as any software watchpoint lives, in any frame.
#
# Output seen:
#   catchpoint alone: 12 hits
#   beside a software watchpoint: 0 hits, watchpoint 1 hits
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check gdb-for-pwndbg==18.1.0.post1 2>"$work/pip.log"
gdb=$work/venv/bin/gdb

cat >"$work/p.c" <<'C'
#include <sys/syscall.h>
#include <unistd.h>
struct { long words[20]; } wide;
static void three_calls(void) { for (int i = 0; i < 3; i++) syscall(SYS_getppid); }
int main(void) { three_calls(); wide.words[0] = 1; three_calls(); return 0; }
C
gcc -g -O0 -o "$work/p" "$work/p.c"

# hits NUMBER: how often GDB says that this breakpoint was met, from its own listing.
hits() {
    awk -v number="$1" '$1 ~ /^[0-9]+$/ { at = $1 } /already hit/ && at == number { print $4 }' "$work/out"
}

run() {
    "$gdb" -nx -q -batch -iex 'set debuginfod enabled off' -ex 'break main' -ex run -ex 'catch syscall getppid' \
        -ex 'ignore 2 1000' "$@" -ex 'info breakpoints' "$work/p" >"$work/out" 2>&1 </dev/null || true
}

run -ex continue
alone=$(hits 2)
run -ex 'watch wide' -ex 'ignore 3 1000' -ex continue
beside=$(hits 2) watched=$(hits 3)
echo "catchpoint alone: ${alone:-0} hits"
echo "beside a software watchpoint: ${beside:-0} hits, watchpoint ${watched:-0} hits"
[ "${alone:-0}" = 12 ] && [ "${beside:-0}" = 0 ] && [ "${watched:-0}" = 1 ]
