#!/bin/sh
# Answers why a program's heap grew:  sh scripts/demo.sh [PROGRAM [ARGUMENTS...]]
# Without a program it is the one of the story: malloc(1000), and the break moves by 0x21000. What is missing is
# installed first (see scripts/setup.sh).
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1

fail() {
    status=$1
    shift
    printf 'demo: %s\n' "$*" >&2
    exit "$status"
}

# Where the shell would find a program, builtins of the shell left aside.
find_program() {
    case $1 in
        */*)
            [ -f "$1" ] && printf '%s\n' "$1"
            return
            ;;
    esac
    (
        IFS=:
        set -f
        for folder in $PATH; do
            if [ -f "${folder:-.}/$1" ] && [ -x "${folder:-.}/$1" ]; then
                printf '%s\n' "${folder:-.}/$1"
                return
            fi
        done
    )
}

if [ $# -gt 0 ]; then
    program=$(find_program "$1")
    [ -n "$program" ] || fail 127 "there is no program '$1'."
    [ -x "$program" ] || fail 126 "'$program' may not be executed."
    if [ "$(head -c 4 "$program" | tr -d '\177')" != ELF ]; then
        fail 126 "'$program' is a script, or no program for this machine: name its interpreter before it."
    fi
    shift
    set -- "$program" "$@"
    events='heap events'
else
    events=
fi

sh "$root/scripts/setup.sh" demo || exit 1

if [ $# -eq 0 ]; then
    make -s -C "$root/c_fixtures" ../build/seed || fail 1 "the story's program could not be built."
    set -- "$root/build/seed"
    cat "$root/c_fixtures/seed.c"
fi

# GDB asks before it downloads debug symbols; none are needed beyond libc6-dbg.
unset DEBUGINFOD_URLS
if [ -n "$events" ]; then
    exec "${GDB:-gdb}" -nx -batch -x "$root/gdbheap" -ex 'heap catch' -ex run -ex "$events" -ex 'heap why-grow' --args "$@"
fi
exec "${GDB:-gdb}" -nx -batch -x "$root/gdbheap" -ex 'heap catch' -ex run -ex 'heap why-grow' --args "$@"
