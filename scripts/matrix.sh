#!/bin/sh
# Runs the tests of tests/gdb with other releases of glibc and GDB, with and without glibc's debug symbols, and prints
# one table: what passed, what was skipped and why.
#   sh scripts/matrix.sh [-quick] [-with|-without] [CELL ...] [-- ARGUMENTS OF PYTEST...]
# A CELL is a suite of Debian (bullseye, bookworm, trixie, forky: the default is these four), whose root folder is made
# from Debian's packages, or gdb-VERSION: a GDB of the PyPI package gdb-for-pwndbg, with the machine's own glibc (as
# gdb-16.3). -quick runs only the tests with that mark; -with and -without only those with, or without, debug symbols.
# Everything is made in $GDBHEAP_MATRIX, by default ~/.cache/gdbheap/matrix, outside this checkout, and used again.
# Roots need root, debootstrap (which is installed where it is missing) and about 700 MB each.
set -u
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
cache=${GDBHEAP_MATRIX:-${XDG_CACHE_HOME:-$HOME/.cache}/gdbheap/matrix}
kinds="with without"
marks=
cells=
while [ $# -gt 0 ]; do
    case $1 in
        -quick) marks=quick ;;
        -with) kinds=with ;;
        -without) kinds=without ;;
        --)
            shift
            break
            ;;
        -*)
            sed -n '2,10s/^# //p' "$0"
            exit 2
            ;;
        *) cells="$cells $1" ;;
    esac
    shift
done
[ -n "$cells" ] || cells="bullseye bookworm trixie forky"
[ $# -gt 0 ] || set -- tests/gdb

say() { printf 'matrix: %s\n' "$*" >&2; }
case $cache/ in
    "$here"/*) say "the cache folder $cache is inside the checkout: set GDBHEAP_MATRIX"; exit 2 ;;
esac
mkdir -p "$cache/roots" "$cache/results" || exit 1
results=$(mktemp -d "$cache/results/run.XXXXXX") || exit 1

# The files of the checkout as they are now, in a folder of their own: a run leaves no trace in the checkout.
copy_checkout() {
    rm -rf --one-file-system "$1"
    mkdir -p "$1" && (cd "$here" && git ls-files -coz --exclude-standard | tar -c --null --files-from=- 2>/dev/null) |
        tar -x -C "$1"
}

# pytest of a suite may be older than pyproject.toml is written for.
write_settings() {
    cat >"$1/matrix.ini" <<'INI'
[pytest]
addopts = -ra --strict-markers
xfail_strict = true
markers =
    slow: takes long
    quick: what scripts/matrix.sh -quick runs
INI
}

# run CELL with|without COMMAND...: pytest, by that command; its report becomes a file of the table.
run_tests() {
    cell=$1 kind=$2
    shift 2
    report=$results/$cell.$kind
    symbols=all
    [ "$kind" = without ] && symbols=none
    say "$cell, $kind glibc's debug symbols"
    began=$(date +%s)
    GDBHEAP_TEST_SYMBOLS=$symbols "$@" >"$report.txt" 2>&1 </dev/null
    status=$?
    say "$cell, $kind: $(tail -n 1 "$report.txt") ($(($(date +%s) - began)) s)"
    [ "$status" = 0 ] || failed=1
}

failed=0
for cell in $cells; do
    work=$cache/work/$cell.${results##*.}
    case $cell in
        gdb-*)
            tools=$cache/tools/$cell
            if [ ! -x "$tools/bin/gdb" ]; then
                say "installing gdb-for-pwndbg ${cell#gdb-}"
                python3 -m venv --clear "$tools" && "$tools/bin/python" -m pip install --quiet \
                    --disable-pip-version-check "gdb-for-pwndbg~=${cell#gdb-}.0" >"$cache/$cell.log" 2>&1 </dev/null ||
                    { say "that failed: see $cache/$cell.log"; failed=1; continue; }
            fi
            sh "$here/scripts/setup.sh" test || exit 1
            for kind in $kinds; do
                cd "$here" || exit 1
                run_tests "$cell" "$kind" env GDB="$tools/bin/gdb" .venv/bin/python -m pytest -p no:cacheprovider \
                    -m "${marks:-not slow}" --junitxml="$results/$cell.$kind.xml" "$@"
            done
            ;;
        *)
            sh "$here/scripts/matrix-root.sh" build "$cache/roots/$cell" "$cell" || { failed=1; continue; }
            copy_checkout "$work" && write_settings "$work" || exit 1
            for kind in $kinds; do
                run_tests "$cell" "$kind" sh "$here/scripts/matrix-root.sh" run "$cache/roots/$cell" "$work" \
                    env GDBHEAP_TEST_IN_ROOT=yes PYTHONPATH=src PYTHONDONTWRITEBYTECODE=1 python3 -m pytest -c matrix.ini --rootdir . \
                    -p no:cacheprovider -m "${marks:-not slow}" --junitxml=report.xml "$@"
                mv "$work/report.xml" "$results/$cell.$kind.xml" 2>/dev/null
            done
            rm -rf --one-file-system "$work"
            ;;
    esac
done
python3 "$here/scripts/matrix_table.py" "$results" || failed=1
say "what each run printed is in $results"
exit $failed
