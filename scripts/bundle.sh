#!/bin/sh
# Builds dist/gdbheap, the single file to carry to a machine that has only GDB:  sh scripts/bundle.sh [FILE]
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
sh "$root/scripts/setup.sh" use || exit 1
exec "$root/.venv/bin/python" "$root/scripts/bundle.py" "$@"
