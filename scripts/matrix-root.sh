#!/bin/sh
# Makes a root folder with another suite of Debian in it, and runs a command there; scripts/matrix.sh uses it.
#   sh scripts/matrix-root.sh build FOLDER SUITE        from Debian's packages, through debootstrap and apt-get, as root
#   sh scripts/matrix-root.sh run FOLDER WORK COMMAND   in namespaces of its own; WORK is /work there, where it starts
# What is built stays there and is used again. Nothing stays mounted: the mounts end with the command.
set -u
do=${1:-}
root=${2:-}

say() { printf 'matrix: %s\n' "$*" >&2; }

# What the tests call. A suite that lacks one of the last line goes without, and its tests are skipped.
needed="gdb gdbserver gcc g++ make binutils libc6-dev libc6-dbg python3 python3-pygments python3-tabulate python3-pytest"
needed="$needed strace perl xz-utils mawk sqlite3 musl-tools procps"
wanted="python3-pygdbmi python3-jsonschema python3-hypothesis libjemalloc2 libmimalloc2.0 libmimalloc3"
wanted="$wanted libtcmalloc-minimal4t64 libtcmalloc-minimal4 libc6-dev-i386 libc6-dbg:i386"
wanted="$wanted gdb-multiarch qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

# Where this machine's apt gets Debian from.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1
}

build() {
    suite=$1
    [ "$(id -u)" = 0 ] || { say "building a root needs root: sudo sh scripts/matrix.sh $suite"; return 1; }
    [ -e "$root/.ready" ] && return 0
    if grep -q " $root/" /proc/mounts; then
        say "something is mounted in $root: it is left alone"
        return 1
    fi
    rm -rf --one-file-system "$root"
    mkdir -p "$root" || return 1
    log=$root.log
    say "making $root (log: $log)"
    if ! command -v debootstrap >/dev/null; then
        { apt-get install -y -qq --no-install-recommends debootstrap || {
            apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap
        }; } >"$log" 2>&1 </dev/null || { say "debootstrap cannot be installed: see $log"; return 1; }
    fi
    from=${MIRROR:-$(mirror)}
    [ -n "$from" ] || { say "apt knows no Debian mirror: run apt-get update, or set MIRROR"; return 1; }
    how=/usr/share/debootstrap/scripts/$suite
    [ -e "$how" ] || how=/usr/share/debootstrap/scripts/sid
    debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        "$suite" "$root" "$from" "$how" >>"$log" 2>&1 </dev/null || { say "debootstrap failed: see $log"; return 1; }
    cat >"$root/etc/apt/apt.conf.d/99matrix" <<'APT'
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
Acquire::Languages "none";
APT::Install-Recommends "false";
APT
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service starts there
    chmod +x "$root/usr/sbin/policy-rc.d"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
    unshare --mount --propagation private sh -ec '
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        export DEBIAN_FRONTEND=noninteractive LC_ALL=C
        fetch() { for try in 1 2 3; do chroot "$1" apt-get update -qq && return; sleep 10; done; }
        fetch "$1"
        chroot "$1" apt-get install -y -qq $2
        chroot "$1" dpkg --add-architecture i386
        fetch "$1" || echo "going on without i386"
        # gcc-multilib itself conflicts with compilers for other machines.
        for package in "gcc-$(chroot "$1" gcc -dumpversion)-multilib" $3; do
            chroot "$1" apt-get install -y -qq "$package" || echo "going on without $package"
        done
        chroot "$1" apt-get clean
    ' sh "$root" "$needed" "$wanted" >>"$log" 2>&1 </dev/null || { say "apt-get in it failed: see $log"; return 1; }
    touch "$root/.ready"
}

run() {
    work=$1
    shift
    exec unshare --mount --propagation private --pid --fork --kill-child sh -ec '
        root=$1 work=$2
        shift 2
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/tmp"
        mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || true
        mkdir -p "$root/work"
        mount --bind "$work" "$root/work"
        export HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        unset DEBUGINFOD_URLS
        # This shell stays: as the first process of its namespace it takes leave of those whose parents have ended.
        chroot "$root" /bin/sh -c "cd /work && exec \"\$@\"" sh "$@" && exit
        exit $?
    ' sh "$root" "$work" "$@"
}

case $do in
    build) shift 2 && build "$@" ;;
    run) shift 2 && run "$@" ;;
    *)
        sed -n '2,5s/^# //p' "$0"
        exit 2
        ;;
esac
