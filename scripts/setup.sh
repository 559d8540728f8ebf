#!/bin/sh
# Installs what gdbheap needs, where it is missing:  sh scripts/setup.sh [use|demo|test]
#   use   (the default) what the commands need: GDB, glibc's debug symbols, and .venv with pygments and tabulate
#   demo  also a C compiler for the story's program
#   test  also what the tests need, and the development tools in .venv
# Debian packages come through apt-get, as root; Python packages go into .venv in this checkout. It says what it
# installs, and where it may not, what to run by hand. A second run changes nothing and is quick.
set -u
purpose=${1:-use}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
venv=$root/.venv

say() { printf 'set-up: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

case $purpose in
    use | demo | test) ;;
    *)
        say "the purpose is one of use, demo and test, not '$purpose'."
        exit 2
        ;;
esac

# One set-up of a checkout at a time.
if have flock && mkdir -p "$root/build" 2>/dev/null && : 2>/dev/null >>"$root/build/set-up.lock"; then
    exec 9>>"$root/build/set-up.lock"
    flock 9
fi

# --- Debian packages -------------------------------------------------------------------------------------------------

# A Python from 3.9 on that can make a virtual environment. GDB's own is most often the one in /usr/bin.
find_python() {
    for candidate in /usr/bin/python3 python3; do
        if have "$candidate" && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' \
            >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

venv_works() { [ -x "$venv/bin/python" ] && [ -e "$venv/set-up.use" ]; }

# The file that holds the debug symbols of the libc in use, by that libc's build-id. Fails where there is no readelf.
libc_debug_file() {
    libc=$(ldd /bin/sh 2>/dev/null | sed -n 's/^[[:space:]]*libc\.so\.6 => \([^ ]*\).*/\1/p')
    id=$(LC_ALL=C readelf -n "${libc:-/nonexistent}" 2>/dev/null | sed -n 's/.*Build ID: \([0-9a-f]*\).*/\1/p')
    [ -n "$id" ] || return 1
    rest=${id#??}
    printf '/usr/lib/debug/.build-id/%s/%s.debug\n' "${id%"$rest"}" "$rest"
}

libc_has_symbols() {
    file=$(libc_debug_file) && [ -e "$file" ]
}

have_library() { PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -qF "$1 "; }

# The packages that `purpose` needs and that are missing.
missing_packages() {
    have "${GDB:-gdb}" || echo gdb
    have readelf || echo binutils
    libc_has_symbols || echo libc6-dbg
    venv_works || [ -n "$(find_python)" ] || echo python3 python3-venv
    [ "$purpose" = use ] && return
    have gcc || echo gcc
    [ -e /usr/include/stdlib.h ] || echo libc6-dev
    have make || echo make
    [ "$purpose" = demo ] && return
    have g++ || echo g++
    have strace || echo strace
    have sqlite3 || echo sqlite3
    have perl || echo perl
    have xz || echo xz-utils
    have awk || echo mawk
    have gdbserver || echo gdbserver
    have musl-gcc || echo musl-tools
    # For programs of 64-bit ARM.
    have gdb-multiarch || echo gdb-multiarch
    have qemu-aarch64 || echo qemu-user
    have aarch64-linux-gnu-gcc || echo gcc-aarch64-linux-gnu
    [ -e /usr/aarch64-linux-gnu/include/stdlib.h ] || echo libc6-dev-arm64-cross
    have_library libjemalloc.so.2 || echo libjemalloc2
    have_library libtcmalloc_minimal.so.4 || echo libtcmalloc-minimal4
}

apt() {
    DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get "$@" </dev/null >"$log" 2>&1
}

# Takes the lists that apt has, and fetches new ones only where those do not do.
install_packages() {
    say "installing Debian packages through apt-get: $*"
    apt install -y -qq --no-install-recommends "$@" && return
    apt update -qq && apt install -y -qq --no-install-recommends "$@" && return
    cat "$log" >&2
    return 1
}

# libc6-dbg must be of the very version of libc6: that one, where apt has it, or else both in the newest version.
install_libc_symbols() {
    libc6=libc6:$(dpkg --print-architecture)
    version=$(dpkg-query -W -f '${Version}' "$libc6")
    offered() { apt-cache madison libc6-dbg | grep -qF " $version "; }
    offered || apt update -qq
    if offered; then
        install_packages "libc6-dbg=$version" && libc_has_symbols && return
    fi
    say "there are no debug symbols for libc6 $version: upgrading libc6 to the version that has them"
    if dpkg-query -W libc6-dev >/dev/null 2>&1; then
        install_packages libc6 libc6-dev libc6-dbg
    else
        install_packages libc6 libc6-dbg
    fi
}

list_missing() { missing_packages | tr '\n' ' ' | sed 's/ $//'; }

packages=$(list_missing)
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && have apt-get; then
    log=$(mktemp) || exit 1
    others=$(missing_packages | tr ' ' '\n' | grep -vx libc6-dbg | tr '\n' ' ')
    # shellcheck disable=SC2086  # a list of words
    [ -z "$others" ] || install_packages $others
    libc_has_symbols || install_libc_symbols
    rm -f "$log"
    packages=$(list_missing)
fi
if [ -n "$packages" ]; then
    say "these Debian packages are missing: $packages"
    if have apt-get; then
        say "run as root: apt-get update && apt-get install $packages"
        case " $packages " in
            *" libc6-dbg "*)
                say "libc6-dbg must be of the version of libc6; if apt has another one: apt-get install libc6 libc6-dbg"
                ;;
        esac
    else
        say "this machine has no apt-get: install what corresponds to them with its own package manager."
    fi
    for package in $packages; do
        case $purpose:$package in
            *:libc6-dbg | *:binutils) say "going on without $package: explanations will be less exact" ;;
            test:gdbserver | test:musl-tools | test:sqlite3 | test:perl | test:xz-utils | test:mawk \
                | test:gdb-multiarch | test:qemu-user | test:gcc-aarch64-linux-gnu | test:libc6-dev-arm64-cross \
                | test:libjemalloc2 | test:libtcmalloc-minimal4)
                say "going on without $package: its tests will be skipped" ;;
            *) exit 1 ;;
        esac
    done
fi

# --- Python packages -------------------------------------------------------------------------------------------------

# GDB may have them already, and needs no .venv then.
gdb_has_needs() {
    "${GDB:-gdb}" -nx -batch -ex 'python import pygments, tabulate; print("found")' 2>/dev/null | grep -q found
}

# GDB caches compiled modules unless it is told not to or cannot write here: do it for those GDBs, and for the first run.
compile_package() {
    (cd "$root" && env -u PYTHONDONTWRITEBYTECODE "${GDB:-gdb}" -nx -batch \
        -ex 'python import compileall; compileall.compile_dir("src/gdbheap", quiet=2)') >/dev/null 2>&1
}

# What pyproject.toml asks for, one requirement a line; with `dev`, what its extra of that name asks for too.
# pip brings a reader for Pythons that have none. tabulate 0.10 no longer runs on Python 3.9, which a GDB that takes it
# from .venv may have.
requirements() {
    "$venv/bin/python" - "$root/pyproject.toml" "$1" <<'PYTHON'
import sys
try:
    from tomllib import loads
except ImportError:
    try:
        from pip._vendor.tomli import loads
    except ImportError:
        from pip._vendor.toml import loads
with open(sys.argv[1], encoding="utf-8") as file:
    project = loads(file.read())["project"]
extra = project["optional-dependencies"]["dev"] if sys.argv[2] == "dev" else []
print("\n".join([*project["dependencies"], *extra, "tabulate<0.10"]))
PYTHON
}

kind=use
[ "$purpose" = test ] && kind=dev
key="$(cksum <"$root/pyproject.toml") $root"
is_set_up() { [ -x "$venv/bin/python" ] && [ -e "$venv/set-up.$1" ] && [ "$(cat "$venv/set-up.$1")" = "$key" ]; }

make_venv() {
    if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
        python=$(find_python)
        say "making .venv with $python"
        "$python" -m venv --clear "$venv" || return 1
    fi
    requirements "$kind" >"$venv/requirements.$kind" || return 1
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$venv/requirements.$kind"
}

if ! is_set_up "$kind" && ! { [ "$kind" = use ] && is_set_up dev; }; then
    if [ "$kind" = dev ]; then
        say "installing Python packages into .venv: pygments, tabulate and the development tools of pyproject.toml"
    else
        say "installing Python packages into .venv: pygments, tabulate"
    fi
    if make_venv </dev/null >&2; then
        printf '%s\n' "$key" >"$venv/set-up.use"
        printf '%s\n' "$key" >"$venv/set-up.$kind"
        compile_package
    else
        say "that failed. By hand: python3 -m venv .venv && .venv/bin/python -m pip install -r .venv/requirements.$kind"
        if [ "$purpose" != test ] && gdb_has_needs; then
            say "going on: GDB's own Python has pygments and tabulate"
        else
            exit 1
        fi
    fi
elif [ -n "$(find "$root/src/gdbheap" -name '*.py' -newer "$venv/set-up.use" 2>/dev/null | head -n 1)" ]; then
    compile_package && touch "$venv/set-up.use"
fi
exit 0
