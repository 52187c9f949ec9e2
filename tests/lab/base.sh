#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# base.sh CACHE: makes a Debian 13 root with the packages of the list beside
# this script, unless it is there. Prints the folder in which it is: one per
# list, so that clones with different lists do not undo each other's. In sh,
# because on a machine without a usable cargo this root is also where the lab
# itself is compiled (see `lab`).
#
# The caller holds the lock on the cache.
set -eu

suite=trixie
here=$(cd "$(dirname "$0")" && pwd -P)
cache=$1
need_mib=8192

die() {
    echo "lab: $*" >&2
    exit 1
}

packages=$(sed 's/#.*//' "$here/packages" | tr -s ' \n' '  ')
# Counted up when what is made of the same packages changes.
form=2
inputs=$(echo "$form $suite $packages" | sha256sum | cut -c1-16)
platform=$cache/platform-$inputs
if [ -d "$platform/root" ]; then
    touch "$platform"
    echo "$platform"
    exit 0
fi

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || die "needs Linux on x86-64, this is $(uname -s) $(uname -m)"
[ "$(id -u)" = 0 ] || die "making the reference platform needs root (it mounts and chroots): run this as root"
command -v apt-get >/dev/null || die "needs Debian 12 or 13: there is no apt-get here"
unshare -m true 2>/dev/null || die "this machine (a container?) does not let root mount: CAP_SYS_ADMIN is missing"

# The mirror is the one this machine uses itself: the first HTTP address that
# apt knows for a release of Debian.
mirror=$(apt-get update --print-uris 2>/dev/null |
    sed -n -E "s,^'(https?://[^']*)/dists/(bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)/InRelease'.*,\1,p" |
    head -n 1)
[ -n "$mirror" ] || die "no Debian mirror in this machine's apt sources (/etc/apt/sources.list, /etc/apt/sources.list.d): add one with 'deb http://... bookworm main' or trixie"

mkdir -p "$platform" || die "cannot make $platform"
# What was begun, and what no clone has used for two weeks, gives its room back
# first. Mounts in it live in private namespaces only, so none can be left.
rm -rf --one-file-system "$platform"/*
find "$cache" -mindepth 1 -maxdepth 1 -name 'platform-*' -mtime +14 -exec rm -rf --one-file-system {} +
free_mib=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
[ "$free_mib" -ge "$need_mib" ] || die "needs $need_mib MiB of disk in $cache, only $free_mib are free (XDG_CACHE_HOME chooses another place)"

export DEBIAN_FRONTEND=noninteractive
if ! command -v mmdebstrap >/dev/null; then
    echo "lab: installing mmdebstrap" >&2
    { apt-get update -q && apt-get install -q -y --no-install-recommends mmdebstrap debian-archive-keyring; } \
        >"$platform/base.log" 2>&1 </dev/null || {
        tail -n 20 "$platform/base.log" >&2
        die "cannot install mmdebstrap; is $mirror reachable?"
    }
fi

echo "lab: making the Debian 13 root from $mirror (about 1 minute; log: $platform/base.log)" >&2
include=$(echo $packages | tr ' ' ',')
set -- --mode=root --variant=minbase --include="$include" \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --aptopt='Acquire::Retries "3"' \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/lib/llvm-19/lib/*.a' \
    --dpkgopt='path-exclude=/usr/src/rustc-1.85.1/src/*' \
    --skip=cleanup/apt/lists
for key in Acquire::http::Proxy Acquire::https::Proxy; do
    proxy=$(apt-config dump --format '%v%n' $key 2>/dev/null | head -n 1)
    [ -z "$proxy" ] || set -- "$@" --aptopt="$key \"$proxy\""
done
# In its own mount namespace: whatever ends it, no mount stays behind.
unshare -m --propagation private mmdebstrap "$@" "$suite" "$platform/root.new" \
    "deb $mirror $suite main" "deb $mirror $suite-backports main" \
    >"$platform/base.log" 2>&1 </dev/null || {
    tail -n 20 "$platform/base.log" >&2
    rm -rf --one-file-system "$platform/root.new"
    die "mmdebstrap failed: is $mirror reachable, and does it carry $suite and $suite-backports?"
}
mv "$platform/root.new" "$platform/root"
echo "$platform"
