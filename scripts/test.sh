#!/bin/sh
# Runs the tests:  sh scripts/test.sh [ARGUMENTS OF PYTEST...]
# What is missing is installed first (see scripts/setup.sh). Paths are relative to the checkout's root.
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
sh "$root/scripts/setup.sh" test || exit 1
cd "$root" || exit 1
unset DEBUGINFOD_URLS
# A file is one processor's: what its tests have in common is made once.
exec .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
