#!/usr/bin/env bash
# Remakes all locks from setup.py, overrides.txt and the .in files: docker/lock.sh, or docker/lock.sh --upgrade for newer versions.
# Uses the package index that this machine is configured for, and writes no address of one.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
uv=${UV:-$(command -v uv || true)}
if [ -z "$uv" ]; then
    "${PYTHON:-python3}" -m venv "$scratch/venv"
    "$scratch/venv/bin/pip" install --quiet uv
    uv=$scratch/venv/bin/uv
fi

# compile LOCK SOURCE OPTION...: everything must come as a wheel (no surprise compilation), but for two packages
# that exist only as source.
compile() {
    local lock=$1
    shift
    "$uv" pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header --quiet \
        --output-file "$lock" "$@"
    { grep -v '^--' "$lock" || true; } > "$scratch/lock"
    echo '--only-binary :all:' > "$lock"
    for package in sagemaker-training inotify-simple; do
        if grep -q "^$package==" "$scratch/lock"; then echo "--no-binary $package" >> "$lock"; fi
    done
    cat "$scratch/lock" >> "$lock"
}

override=(--override docker/overrides.txt)
# The test lock holds everything; the next three are cut from it.
cut=(--constraint docker/requirements-test.txt --no-annotate)
compile docker/requirements-test.txt setup.py "${override[@]}" --extra test "$@"
compile docker/requirements.txt setup.py "${override[@]}" --extra train --extra hosts "${cut[@]}"
compile docker/requirements-serve.txt setup.py "${cut[@]}"
printf 'pip\nsetuptools\n' > "$scratch/build.in"
compile docker/requirements-build.txt "$scratch/build.in" "${cut[@]}"
# MXNet for GPUs and the CUDA libraries it needs; everything else is as in requirements.txt.
compile docker/requirements-gpu.txt docker/requirements-gpu.in --no-deps --no-annotate "$@"
# The environments of SageMaker's two SDKs.
compile local_mode/sdk_v2/requirements.txt local_mode/sdk_v2/requirements.in --no-annotate "$@"
compile local_mode/sdk_v3/requirements.txt local_mode/sdk_v3/requirements.in --no-annotate "$@"
# PyTorch's side of `make parity`.
compile benchmarks/parity/requirements.txt benchmarks/parity/requirements.in --no-annotate "$@"
