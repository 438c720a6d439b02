#!/usr/bin/env bash
# Makes a stand-in for the public slim Python image where no image registry can be reached, from Debian's packages alone:
#     sudo docker/offline-base.sh            (Debian 13 with Python 3.13, as the image gluonseg-base)
#     sudo docker/offline-base.sh bookworm   (Debian 12 with Python 3.11, as gluonseg-base:bookworm)
#     docker/build.sh --base gluonseg-base
# Needs root, debootstrap, and Docker running. A base that exists is kept; docker rmi gluonseg-base has it made anew.
set -euo pipefail

suite=${1:-trixie}
image=gluonseg-base$([ "$suite" = trixie ] || echo ":$suite")

if docker image inspect "$image" >/dev/null 2>&1; then
    echo "offline-base: $image is there already"
    exit 0
fi
command -v debootstrap >/dev/null || { echo "offline-base: apt-get install debootstrap" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "offline-base: debootstrap needs root: sudo $0 $*" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
# Without DEBOOTSTRAP_MIRROR, debootstrap takes Debian's own default.
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
    "$suite" "$root" ${DEBOOTSTRAP_MIRROR:+"$DEBOOTSTRAP_MIRROR"}
# What the public image leaves out too: package lists, archives, manuals.
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
tar -C "$root" --one-file-system -c . | docker import --change 'CMD ["python3"]' - "$image" >/dev/null
echo "offline-base: made $image from Debian $suite"
