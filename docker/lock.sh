#!/usr/bin/env bash
# Remakes the locks from setup.py and overrides.txt: docker/lock.sh, or docker/lock.sh --upgrade for newer versions.
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

compile() { # compile NAME OPTION...: writes docker/NAME.txt
    local lock=docker/$1.txt
    shift
    "$uv" pip compile --universal --python-version 3.10 --generate-hashes --override docker/overrides.txt \
        --no-emit-index-url --no-header --quiet --output-file "$lock" "$@"
    # Two packages exist only as source. Everything else must come as a wheel: no surprise compilation.
    grep -v '^--' "$lock" > "$scratch/lock"
    { printf -- '--only-binary :all:\n--no-binary sagemaker-training\n--no-binary inotify-simple\n'; cat "$scratch/lock"; } > "$lock"
}

# The test lock holds everything; the other two are cut from it.
compile requirements-test setup.py --extra test "$@"
compile requirements setup.py --constraint docker/requirements-test.txt --no-annotate
printf 'pip\nsetuptools\n' > "$scratch/build.in"
compile requirements-build "$scratch/build.in" --constraint docker/requirements-test.txt --no-annotate
