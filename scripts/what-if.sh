#!/bin/sh
# The comparison that docs/predicting.md shows: a program's allocations recorded, run under other settings in the
# simulated malloc, and then the program itself under one of them:  sh scripts/what-if.sh PROGRAM TUNABLE=VALUE...
# TUNABLE is top_pad, mmap_threshold ... ; the first one is what the program then really runs under.
set -eu

program=$1
shift
root=$(dirname "$(dirname "$(readlink -f "$0")")")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

gdb="gdb -nx -q -batch -iex 'set debuginfod enabled off'"
eval "$gdb" -ex "'source $root/gdbheap'" -ex "'heap trace -allocations $folder/run.ops -o $folder/report'" \
    --args "$program" >"$folder/output" 2>&1
echo "\$ gdbheap trace -allocations run.ops $program"
tail -n 1 "$folder/report" | sed "s,$folder/,,; s, [0-9]*\. The run took.*,,"
echo
echo "(gdb) heap what-if run.ops $*"
eval "$gdb" -ex "'source $root/gdbheap'" -ex "'break main'" -ex run -ex "'heap what-if $folder/run.ops $*'" \
    --args "$program" 2>"$folder/errors" | sed -n '/operations, from/,$p'
echo
echo "\$ GLIBC_TUNABLES=glibc.malloc.$1 strace $program"
# The loader asks for the break once more than malloc; its mappings are those that the program makes with any settings.
calls() {
    GLIBC_TUNABLES=$1 strace -f -o "$folder/strace" -e trace=brk,mmap,munmap,mremap "$program" >"$folder/output" 2>&1
    grep -c "^[0-9]* *$2(0x" "$folder/strace" || true
}
echo "brk was moved $(calls "glibc.malloc.$1" brk) times"
