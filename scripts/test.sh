#!/bin/sh
# Runs the tests:  sh scripts/test.sh [ARGUMENTS OF PYTEST...]
# What is missing is installed first (see scripts/setup.sh). Paths are relative to the checkout's root.
set -u
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
sh "$root/scripts/setup.sh" test || exit 1
cd "$root" || exit 1
unset DEBUGINFOD_URLS
exec .venv/bin/python -m pytest "$@"
