#!/usr/bin/env bash
# Builds the image; docker/build.sh --help says how.
set -euo pipefail

usage() {
    cat <<'TEXT'
docker/build.sh [--gpu | --serve] [--tag NAME] [--base IMAGE] [--ca FILE] [--pretrained FOLDER] [docker build's own options]

  --gpu                build for NVIDIA GPUs (runs without one too); the tag is then gluonseg:gpu
  --serve              build the small image that uses a model and cannot train; the tag is then gluonseg:serve
  --tag NAME           name of the image; gluonseg unless given
  --base IMAGE         base image; python:3.13-slim unless given (docker/offline-base.sh makes one where no registry is)
  --ca FILE            certificates (PEM) that pip trusts during the build, for networks with a proxy of their own
  --pretrained FOLDER  backbone weights to put into the image, for jobs without network (docs/pretrained.md)

pip's package index is the one that this machine is configured for.
TEXT
}

fail() {
    echo "build.sh: $*" >&2
    exit 2
}

suffix='' tag='' base='' ca='' pretrained=''
options=()
while [ $# -gt 0 ]; do
    # --name=value is --name value.
    case "$1" in --tag=* | --base=* | --ca=* | --pretrained=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
    case "$1" in
        -t) set -- --tag "${@:2}"; continue ;;
        --gpu | --serve)
            [ -z "$suffix" ] || fail "--gpu and --serve exclude one another"
            suffix=:${1#--} ;;
        --tag | --base | --ca | --pretrained)
            [ $# -gt 1 ] || fail "$1 needs a value"
            declare "${1#--}=$2"
            shift ;;
        -h | --help) usage; exit 0 ;;
        *) options+=("$1") ;;
    esac
    shift
done
[ -n "$tag" ] || tag=gluonseg$suffix

# read_pip_setting NAME: what pip uses on this machine, from its environment or its files; nothing when unset.
read_pip_setting() {
    local variable
    variable=PIP_$(echo "$1" | tr 'a-z-' 'A-Z_')
    if [ -n "${!variable:-}" ]; then echo "${!variable}"; else python3 -m pip config get "global.$1" 2>/dev/null || true; fi
}

[ -n "$ca" ] || ca=$(read_pip_setting cert)
[ -z "$ca" ] || [ -e "$ca" ] || fail "--ca $ca, or pip's setting cert: there is no such file"
[ -z "$pretrained" ] || [ -d "$pretrained" ] || fail "--pretrained $pretrained: there is no such folder"
[ -z "$pretrained" ] || [ -n "$(find "$pretrained" -maxdepth 1 '(' -name '*.params' -o -name '*.safetensors' ')')" ] ||
    fail "--pretrained $pretrained: no .params or .safetensors file is in this folder"
docker version >/dev/null 2>&1 ||
    fail "Docker does not answer; start it (sudo systemctl start docker), or run docker version to see why"

# The context is put together here, so that files outside the repository can be part of it.
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
here=$(cd "$(dirname "$0")/.." && pwd)
tar -C "$here" -c --exclude=__pycache__ --exclude='*.egg-info' setup.py pyproject.toml README.md LICENSE src container docker |
    tar -C "$context" -x
if [ -d "$ca" ]; then cp -RL "$ca" "$context/docker/extra/ca/given"; fi
if [ -f "$ca" ]; then cp "$ca" "$context/docker/extra/ca/given.pem"; fi
if [ -n "$pretrained" ]; then
    find "$pretrained" -maxdepth 1 '(' -name '*.params' -o -name '*.safetensors' ')' \
        -exec cp -L {} "$context/docker/extra/pretrained/" ';'
fi

case "$suffix" in
    :gpu) options+=(--build-arg DEVICE=gpu) ;;
    :serve) options+=(--target serve) ;;
esac
[ -z "$base" ] || options+=(--build-arg "BASE=$base")
for name in index-url extra-index-url; do
    value=$(read_pip_setting "$name")
    [[ $value != http* ]] || options+=(--build-arg "PIP_$(echo "$name" | tr 'a-z-' 'A-Z_')=$value")
done
# SageMaker takes no image whose manifest is the index that BuildKit writes for its attestations.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
docker build --tag "$tag" "${options[@]}" --file "$context/docker/Dockerfile" "$context"
